"""Where every sample of an adaptive run is: its time, step, segment, error and status, on the host."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from scorediff.solvers.adaptive.controller import TINY, Controller
from scorediff.solvers.adaptive.segments import Segments
from scorediff.solvers.adaptive.step_ends import Anywhere, StepEnds
from scorediff.solvers.base import Status, Step

__all__ = ["Proposal", "Stepping"]


@dataclass(frozen=True)
class Proposal:
    """Steps to try: of the samples `rows`, by `h` to the value `s` of the integration variable, at the time `t`;
    `lands`: whether on the end of a segment. `evaluate`: the time to evaluate at, another than `t` on a discontinuity.
    `uncut`: the step before it was cut so as to land.
    """

    rows: np.ndarray
    h: np.ndarray
    s: np.ndarray
    t: np.ndarray
    evaluate: np.ndarray
    lands: np.ndarray
    uncut: np.ndarray


@dataclass
class Stepping:
    """The stepping state of one run, arrays of shape (B,); `variable` is what steps are taken in, a function of time,
    and `inverse` its inverse.

    `segments`: the parts of the run. `controller`: what chooses the steps. `t`, `s`: where each sample is, in time
    and in the variable. `h`: its next step. `step_ends`: where steps may end, but for the ends of segments.
    """

    segments: Segments
    variable: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    controller: Controller
    t: np.ndarray
    step_ends: StepEnds = Anywhere()
    s: np.ndarray = field(init=False)
    h: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        size = self.t.shape
        self.s = np.asarray(self.variable(self.t)) + np.zeros(size)
        self.goals = np.asarray(self.variable(self.segments.ends))
        self.begins = np.append(self.variable(self.segments.start), self.goals[:-1])
        self.h, self.error = np.zeros(size), np.zeros(size)
        # the errors of the last two steps that passed, in units of the tolerance
        self.before, self.before_that = np.ones(size), np.ones(size)
        zeros = (np.zeros(size, dtype=np.int64) for _ in range(6))
        self.segment, self.accepted, self.rejected, self.evaluations, self.order, self.since = zeros
        self.after, self.status = np.zeros(size, dtype=bool), np.full(size, int(Status.RUNNING))

    @classmethod
    def at_start(
        cls,
        segments: Segments,
        variable: Callable[[Any], Any],
        inverse: Callable[[Any], Any],
        controller: Controller,
        batch: int,
        step_ends: StepEnds = Anywhere(),
    ) -> "Stepping":
        return cls(segments, variable, inverse, controller, np.full(batch, segments.start), step_ends)

    def running(self, cost: Any, max_evaluations: int) -> np.ndarray:
        """The samples that go on, once those are stopped that a step would take beyond their budget, or whose step
        is too short for the integration variable or for the noise. `cost` of a step: a number, or one for each sample
        of the batch.
        """
        on = np.flatnonzero(self.status == Status.RUNNING)
        over = self.evaluations + cost > max_evaluations
        self.status[on[over[on]]] = Status.BUDGET_EXHAUSTED
        short = np.abs(self.h[on]) < np.maximum(16 * np.spacing(np.abs(self.s[on])), self.step_ends.shortest)
        self.status[on[short & (self.status[on] == Status.RUNNING)]] = Status.STEP_UNDERFLOW
        return on[self.status[on] == Status.RUNNING]

    def time(self, rows: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Times at values of the variable, kept inside the segment of each sample where rounding would leave it."""
        segment = self.segment[rows]
        begin, end = self.begins[segment], self.goals[segment]
        s = np.clip(s, np.minimum(begin, end), np.maximum(begin, end))
        return np.clip(self.inverse(s), *self.segments.bounds(segment))

    def here(self, rows: np.ndarray) -> np.ndarray:
        """The times to evaluate at where some samples are: beyond a discontinuity that they stand on."""
        return np.clip(self.t[rows], *self.segments.bounds(self.segment[rows]))

    def goal(self, rows: np.ndarray) -> np.ndarray:
        """The variable at the ends of the segments."""
        return np.asarray(self.goals[self.segment[rows]])

    def propose(self, rows: np.ndarray, halve: float = 0.5) -> Proposal:
        """Steps cut so as to land on the next end exactly; one that would go beyond the fraction `halve` of what is
        left takes half of it."""
        goal, start = self.goal(rows), self.s[rows]
        left, uncut = goal - start, self.step_ends.shortened(start, self.h[rows])
        lands = np.abs(uncut) * 1.01 >= np.abs(left)
        half = self.step_ends.shortened(start, left / 2)
        h = np.where(lands, left, np.where(np.abs(uncut) > halve * np.abs(left), half, uncut))
        segment = self.segment[rows]
        t = np.where(lands, self.segments.ends[segment], self.time(rows, start + h))
        s = np.where(lands, goal, start + h)
        return Proposal(rows, h, s, t, np.where(lands, self.segments.near[segment], t), lands, uncut)

    def accept_or_reject(
        self, step: Proposal, error: np.ndarray, factor: np.ndarray, local: np.ndarray, evaluations: int
    ) -> np.ndarray:
        """Accept or reject each step by its `error` in units of the tolerance; returns which passed.

        The next step is `factor` times this one, within the controller's limits. `local` errors of steps that pass add
        up to the sample's error.
        """
        rows, good = step.rows, error <= 1
        self.evaluations[rows] += evaluations
        self.status[rows[~np.isfinite(error)]] = Status.NON_FINITE
        factor = self.controller.within(factor, good, self.after[rows], self.since[rows])
        longer = step.h * factor
        # a step cut short to land says nothing against the step it was cut from
        cut = np.abs(step.h) < np.abs(step.uncut)
        longer = np.where(good & cut & (np.abs(longer) < np.abs(step.uncut)), step.uncut, longer)
        self.h[rows] = np.where(np.isfinite(error), longer, step.h)
        self.after[rows] = ~good
        self.before_that[rows] = np.where(good, self.before[rows], self.before_that[rows])
        self.before[rows] = np.where(good, np.maximum(error, TINY), self.before[rows])
        self.accepted[rows] += good
        self.since[rows] += good
        self.rejected[rows] += ~good
        moved = rows[good]
        self.error[moved] += local[good]
        self.s[moved], self.t[moved] = step.s[good], step.t[good]
        landed = rows[good & step.lands]
        self.segment[landed] += 1
        self.status[landed[self.segment[landed] == len(self.segments.ends)]] = Status.SUCCESS
        return good

    @property
    def left(self) -> np.ndarray:
        """How far the variable has to go to the end of the run."""
        return np.asarray(self.goals[-1] - self.s)

    def jumped(self, rows: np.ndarray, max_evaluations: int) -> np.ndarray:
        """Those of some samples that stand on a discontinuity, at the start of a segment, and may evaluate there."""
        segment = self.segment[rows]
        at_start = (
            (segment > 0) & (segment < len(self.segments.ends)) & (self.t[rows] == self.segments.ends[segment - 1])
        )
        found = rows[at_start & self.segments.jumps[segment - 1]]
        spent = self.evaluations[found] >= max_evaluations
        self.status[found[spent]] = Status.BUDGET_EXHAUSTED
        return found[~spent]

    def step_factor(self, rows: np.ndarray, error: np.ndarray, order: Any) -> np.ndarray:
        """By what the controller would change the step of some samples, by an error of `order` in units of the
        tolerance.
        """
        return self.controller.step_factor(error, order, (self.before[rows], self.before_that[rows]))

    def step(self, x: Tensor, factor: float) -> Step:
        """What a run yields: copies, since these arrays go on changing. Errors sum up; `factor` makes the estimate."""
        return Step(
            self.t.copy(),
            x,
            self.order.copy(),
            self.error * factor,
            self.status.copy(),
            self.accepted.copy(),
            self.rejected.copy(),
        )
