"""A step as numbers: what an exponential integrator does on a grid, worked out on the host before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scorediff.linear_parts.level import NoiseLevel
from scorediff.problems import Problem
from scorediff.schedules import Schedule
from scorediff.spacings import Grid

__all__ = ["GridSteps", "Stage", "StepPlan", "etas"]


@dataclass(frozen=True)
class GridSteps:
    """The steps of a grid, from `start` to `end`, of shape (steps,); `h = log_snr_1 - log_snr_0`, and `eta` of each.

    `schedule`: what it is a grid of.
    """

    schedule: Schedule
    start: NoiseLevel
    end: NoiseLevel
    eta: np.ndarray

    @classmethod
    def of(cls, problem: Problem, grid: Grid) -> "GridSteps":
        """All steps of a grid."""
        level = NoiseLevel.at(problem.schedule, grid.times)
        return cls(problem.schedule, level.of(slice(0, -1)), level.of(slice(1, None)), etas(problem, grid))

    @classmethod
    def apart(cls, problem: Problem, segments: Sequence[tuple[float, float]]) -> "GridSteps":
        """Steps `(from, to)`, of which none need start where the one before ended."""
        start, end = (NoiseLevel.at(problem.schedule, np.array(t)) for t in zip(*segments, strict=True))
        return cls(problem.schedule, start, end, np.array([problem.eta_at(t) for t, _ in segments]))

    def __len__(self) -> int:
        return len(self.eta)

    @property
    def h(self) -> np.ndarray:
        return self.end.log_snr - self.start.log_snr

    def some(self, which: Any) -> "GridSteps":
        """Some of the steps, by a slice or by indices."""
        return GridSteps(self.schedule, self.start.of(which), self.end.of(which), self.eta[which])

    def with_first_split(self, places: np.ndarray) -> "GridSteps":
        """The same with the first step cut at `log_snr_0 + places h`, places rising in (0, 1)."""
        lo, hi = sorted((float(self.start.t[0]), float(self.end.t[0])))
        log_snr = self.start.log_snr[0] + places * self.h[0]
        cut = NoiseLevel.at(self.schedule, np.clip(self.schedule.time_at(log_snr), lo, hi))
        start = NoiseLevel(*(np.insert(old, 1, new) for old, new in zip(self.start, cut, strict=True)))
        end = NoiseLevel(*(np.insert(old, 0, new) for old, new in zip(self.end, cut, strict=True)))
        return GridSteps(self.schedule, start, end, np.insert(self.eta, 0, np.full(len(places), self.eta[0])))

    def inside(self, c: float) -> NoiseLevel:
        """The noise level `log_snr_0 + c h` of every step."""
        if c in (0.0, 1.0):
            return self.end if c else self.start
        log_snr = self.start.log_snr + c * self.h
        lo, hi = np.minimum(self.start.t, self.end.t), np.maximum(self.start.t, self.end.t)
        return self.at(np.clip(self.schedule.time_at(log_snr), lo, hi))

    def at(self, t: np.ndarray) -> NoiseLevel:
        """The noise levels at some times, one in every step."""
        return NoiseLevel.at(self.schedule, t)


class Stage(NamedTuple):
    """`u = x x_0 + data D + noise E + sum_k w_k M_k + sum_j n_j z_j`.

    `t`: the time at which the denoiser evaluates the state that the stage before left, to `(D, E)`; None where it does
    not. `x_0` is the state at the start of the step. `history` holds pairs `(k, w_k)`: M_k is what is remembered of
    evaluation k, counted from 0 over the run. `fresh` are the weights n_j of the noises of the step. `remembered`: what
    D and E weigh in the M of this stage's own evaluation.
    """

    t: float | None
    x: float
    data: float = 0.0
    noise: float = 0.0
    history: Sequence[tuple[int, float]] = ()
    fresh: Sequence[float] = ()
    remembered: tuple[float, float] = (1.0, 0.0)


class StepPlan(NamedTuple):
    """A step from the time `start` to the time `t`: its stages; the intervals of log-SNR its noises are taken over; the
    evaluations that later steps want again; its order; and whether it ends between two nodes of the grid.
    """

    start: float
    t: float
    stages: Sequence[Stage]
    intervals: Sequence[tuple[float, float]] = ()
    keeps: Sequence[int] = ()
    order: int | None = None
    inside: bool = False

    def after(self, evaluations: int) -> "StepPlan":
        """The same where so many evaluations came before."""
        if not evaluations:
            return self
        stages = [s._replace(history=[(k + evaluations, w) for k, w in s.history]) for s in self.stages]
        return self._replace(stages=stages, keeps=[k + evaluations for k in self.keeps])


def etas(problem: Problem, grid: Grid) -> np.ndarray:
    """Eta at the start of every step, shape (steps,): an exponential integrator holds it constant within."""
    constant = problem.eta
    values = [problem.eta_at(t) for t, _ in grid.pairs()] if callable(constant) else constant
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (grid.steps,))
