"""What every exponential integrator is: plans of steps, made on the host for a whole grid, and one loop over them."""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import Workspace, version
from scorediff.linear_parts import IsotropicPart, LinearPart, NoiseLevel
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.schedules import Schedule
from scorediff.solvers.base import Exact, Solver, Step
from scorediff.spacings import Grid

__all__ = ["ExponentialIntegrator", "GridSteps", "Stage", "StepPlan", "check_kind", "etas", "exact_on"]


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

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether all its coefficients are finite numbers of a dtype."""
        largest = torch.finfo(dtype).max
        numbers = [(s.x, s.data, s.noise, *(w for _, w in s.history), *s.fresh, *s.remembered) for s in self.stages]
        return all(abs(number) <= largest for number in itertools.chain(*numbers))

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


@dataclass(frozen=True)
class ExponentialIntegrator(Solver):
    """The engine: a subclass plans every step."""

    @property
    @abstractmethod
    def part(self) -> LinearPart:
        """The linear part that is taken out exactly."""

    @property
    def invariant(self) -> bool:
        return True

    @property
    def materialises(self) -> bool:
        """Whether an evaluation is wanted so often that what is remembered of it is computed once, and kept."""
        return False

    @property
    def own_variance(self) -> float | None:
        v = [part.variance for part in self.part.components]
        return v[0] if len(v) == 1 and 0 < v[0] < float("inf") else None

    @abstractmethod
    def plan(self, steps: GridSteps, part: IsotropicPart) -> Iterator[StepPlan]:
        """The plans of the steps of a run, one by one, for a linear part of one variance."""

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        run = _run_of(self, problem, noise)
        for plan in self._plans(GridSteps.of(problem, grid)):
            x = run(plan, x)
            if not plan[0].inside:
                yield Step(plan[0].t, x, plan[0].order)

    def stepper(self, problem: Any, segments: Sequence[tuple[float, float]], noise: Noise) -> Callable[[int, Any], Any]:
        # a one-step method does not mind that one segment does not start where the last one ended
        run, plans = _run_of(self, problem, noise), self._plans(GridSteps.apart(problem, segments))
        return lambda n, x: run(plans[n], x)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        if dtype is torch.float16:  # which alone is too small for coefficients that are sound
            self._plans(GridSteps.of(problem, grid), dtype)

    def _plans(self, steps: GridSteps, dtype: torch.dtype = torch.float64) -> list[tuple[StepPlan, ...]]:
        """The plan of every step, one for each variance. Raises ValueError for a step that has none of finite numbers
        of `dtype`, before the network is called.
        """
        with np.errstate(all="ignore"):
            plans = list(zip(*(self.plan(steps, part) for part in self.part.components), strict=True))
        for step in itertools.chain(*plans):
            if not step.fits(dtype):
                raise ValueError(
                    f"the step of {self!r} from t = {step.start!r} to {step.t!r} is not made of finite numbers of "
                    f"{dtype}: these nodes lie too close together, or too far apart; leave one out of grid=, add one "
                    "between, or give a state of another dtype"
                )
        return plans


class _Run:
    """The loop over the stages of a step, and what is remembered from one step to the next."""

    def __init__(self, solver: ExponentialIntegrator, problem: Any, noise: Noise) -> None:
        self._problem, self._noise, self._work = problem, noise, Workspace()
        self._materialises = solver.materialises
        self._history: dict[int, list[tuple[float, Any, int]]] = {}
        self._evaluations = 0

    def __call__(self, plans: tuple[StepPlan, ...], x: Any) -> Any:
        (step,) = plans
        start, fresh, history = x, [self._noise(a, b) for a, b in step.intervals], self._history
        keeps = len(step.stages) > 1 or step.keeps
        for stage in step.stages:
            terms: list[tuple[float, Any]] = []
            if stage.t is not None:
                output = self._problem.denoiser(stage.t, x)
                terms = output.terms(stage.data, stage.noise)
                if keeps:
                    history[self._evaluations] = self._remembered(output, stage.remembered)
                self._evaluations += 1
            for k, weight in stage.history:
                terms += [(weight * c, _unwritten(v, written)) for c, v, written in history[k]]
            if fresh:
                terms += [(weight, z) for weight, z in zip(stage.fresh, fresh, strict=True) if weight]
            x = self._work.combine((stage.x, start), *terms)
        self._history = {k: history[k] for k in step.keeps}
        return x

    def _remembered(self, output: Any, weights: tuple[float, float]) -> list[tuple[float, Any, int]]:
        terms = [(c, v) for c, v in output.terms(*weights) if c]
        if self._materialises and len(terms) > 1:
            terms = [(1.0, self._work.combine(*terms))]
        return [(c, v, version(v)) for c, v in terms]


class _SplitRun:
    """The same for several variances: one evaluation of the whole state, and a plan for each of its parts."""

    def __init__(self, part: LinearPart, problem: Any, noise: Noise) -> None:
        self._part, self._problem, self._noise, self._work = part, problem, noise, Workspace(64)
        self._history: dict[int, list[Tensor]] = {}
        self._evaluations = 0

    def __call__(self, plans: tuple[StepPlan, ...], x: Tensor) -> Tensor:
        step, history, combine, split = plans[0], self._history, self._work.combine, self._part.split_apart
        starts = split(x, self._alpha(step.start))
        fresh = [split(self._noise(a, b), 0.0) for a, b in step.intervals]
        landings = [*(stage.t for stage in step.stages[1:]), step.t]
        for stages, landing in zip(zip(*(plan.stages for plan in plans), strict=True), landings, strict=True):
            outputs: list[tuple[Tensor, ...]] = []
            if stages[0].t is not None:
                data, noise = self._problem.denoiser(stages[0].t, x)
                # the mean is in the data, not in the noise
                outputs = list(zip(split(data, 1.0), split(noise, 0.0), strict=True))
                history[self._evaluations] = [
                    combine((s.remembered[0], d), (s.remembered[1], e))
                    for s, (d, e) in zip(stages, outputs, strict=True)
                ]
                self._evaluations += 1
            parts = []
            for n, (stage, start) in enumerate(zip(stages, starts, strict=True)):
                terms = list(zip((stage.data, stage.noise), outputs[n], strict=True)) if outputs else []
                terms += [(weight, history[k][n]) for k, weight in stage.history]
                terms += [(weight, z[n]) for weight, z in zip(stage.fresh, fresh, strict=bool(fresh)) if weight]
                parts.append(combine((stage.x, start), *terms))
            x = self._part.join_apart(parts, self._alpha(landing), x)
        self._history = {k: history[k] for k in step.keeps}
        return x

    def _alpha(self, t: float | None) -> float:
        return float(self._problem.schedule.alpha(t))


def _run_of(solver: ExponentialIntegrator, problem: Any, noise: Noise) -> _Run | _SplitRun:
    one = len(solver.part.components) == 1
    return _Run(solver, problem, noise) if one else _SplitRun(solver.part, problem, noise)


def check_kind(solver: Any, option: str, kind: type, example: str) -> None:
    """Raise TypeError where an option of a solver is of another kind."""
    value = getattr(solver, option)
    if not isinstance(value, kind):
        raise TypeError(f"{option} = {value!r} of {type(solver).__name__}: give a {kind.__name__}, such as {example}")


def exact_on(part: LinearPart, *, noisy: bool) -> frozenset[Exact]:
    """What a method with this linear part is exact on, where its weights add up to the integral of the kernel.

    Along the mean of a Gaussian D is constant and E is 0, so both forms are exact on it. On a point mass D is constant
    whatever the state: the data form is exact, and on the flow the noise form too, where E is constant along a path.
    """
    variances = [component.variance for component in part.components]
    if len(variances) > 1 or 0 < variances[0] < float("inf"):
        return frozenset({Exact.OWN_GAUSSIAN} if len(variances) == 1 else ())
    return frozenset({Exact.MEAN} if noisy and variances[0] else {Exact.MEAN, Exact.POINT_MASS})


def _unwritten(value: Any, written: int) -> Any:
    if version(value) != written:
        raise ValueError("the network wrote into a state that it had been given before: let it keep a copy")
    return value
