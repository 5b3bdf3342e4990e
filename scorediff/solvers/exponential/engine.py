"""What every exponential integrator is: lines of numbers, made on the host for a whole grid, and one loop over them."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from scorediff._core.states import Workspace, version
from scorediff.denoiser import ModelOutput
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.schedules import Schedule
from scorediff.solvers.base import Solver, Step
from scorediff.spacings import Grid

__all__ = ["Exponential", "Line", "Lines", "Nodes", "Point"]


class Point(NamedTuple):
    """Where a line starts or lands: float64 arrays of one shape."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    log_snr: np.ndarray

    @classmethod
    def at(cls, schedule: Schedule, t: np.ndarray) -> "Point":
        return cls(t, *(np.asarray(fn(t)) for fn in (schedule.alpha, schedule.sigma, schedule.log_snr)))

    def of(self, which: Any) -> "Point":
        """Some of them, by a slice or by indices."""
        return Point(*(values[which] for values in self))


@dataclass(frozen=True)
class Nodes:
    """The steps of a grid, from `start` to `end`, of shape (steps,); `h = log_snr_1 - log_snr_0`, and eta of each."""

    schedule: Schedule
    start: Point
    end: Point
    eta: np.ndarray

    @classmethod
    def of(cls, problem: Problem, grid: Grid) -> "Nodes":
        point = Point.at(problem.schedule, grid.times)
        return cls(problem.schedule, point.of(slice(0, -1)), point.of(slice(1, None)), etas(problem, grid))

    def __len__(self) -> int:
        return len(self.eta)

    @property
    def h(self) -> np.ndarray:
        return self.end.log_snr - self.start.log_snr

    def some(self, which: Any) -> "Nodes":
        """Some of the steps, by a slice or by indices."""
        return Nodes(self.schedule, self.start.of(which), self.end.of(which), self.eta[which])

    def with_first_split(self, places: np.ndarray) -> "Nodes":
        """The same with the first step cut at `log_snr_0 + places h`, places rising in (0, 1)."""
        lo, hi = sorted((float(self.start.t[0]), float(self.end.t[0])))
        log_snr = self.start.log_snr[0] + places * self.h[0]
        cut = Point.at(self.schedule, np.clip(self.schedule.time_at(log_snr), lo, hi))
        start = Point(*(np.insert(old, 1, new) for old, new in zip(self.start, cut, strict=True)))
        end = Point(*(np.insert(old, 0, new) for old, new in zip(self.end, cut, strict=True)))
        return Nodes(self.schedule, start, end, np.insert(self.eta, 0, np.full(len(places), self.eta[0])))

    def inside(self, c: float) -> Point:
        """The point `log_snr_0 + c h` of every step."""
        if c in (0.0, 1.0):
            return self.end if c else self.start
        log_snr = self.start.log_snr + c * self.h
        lo, hi = np.minimum(self.start.t, self.end.t), np.maximum(self.start.t, self.end.t)
        return self.at(np.clip(self.schedule.time_at(log_snr), lo, hi))

    def at(self, t: np.ndarray) -> Point:
        """The points at some times, one in every step."""
        return Point.at(self.schedule, t)


class Line(NamedTuple):
    """`u = x x_0 + data D + noise E + sum_k w_k M_k + sum_j fresh_j z_j`.

    Asked at the time `at` at the state that the line before left, the denoiser reads `(D, E)`; with `at = None` it is
    not asked. `x_0` is the state at the start of the step. `before` holds pairs `(k, w_k)`: M_k is the part that the
    solver remembers of evaluation k, counted from 0 over the run. `fresh` are weights of the noises of the step.
    """

    at: float | None
    x: float
    data: float = 0.0
    noise: float = 0.0
    before: Sequence[tuple[int, float]] = ()
    fresh: Sequence[float] = ()


class Lines(NamedTuple):
    """A step: its lines, the last of which reaches the time `t`; the intervals of log-SNR its noises are taken over;
    the evaluations that later steps want again; and its order.
    """

    t: float
    lines: Sequence[Line]
    intervals: Sequence[tuple[float, float]] = ()
    keeps: Sequence[int] = ()
    order: int | None = None
    #: Does it end between two nodes of the grid?
    inside: bool = False

    def after(self, asked: int) -> "Lines":
        """The same where so many evaluations came before."""
        if not asked:
            return self
        lines = [line._replace(before=[(k + asked, w) for k, w in line.before]) for line in self.lines]
        return self._replace(lines=lines, keeps=[k + asked for k in self.keeps])


@dataclass(frozen=True)
class Exponential(Solver):
    """The engine: a subclass gives the lines of every step."""

    invariant: ClassVar[bool] = True
    #: Which part of a reading is remembered: 0 data, 1 noise.
    remembers: ClassVar[int] = 0
    #: Is a reading wanted so often that its remembered part is computed once, and kept in its place?
    materialises: ClassVar[bool] = False

    @abstractmethod
    def steps(self, nodes: Nodes) -> Iterator[Lines]:
        """The steps of a run, one by one."""

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        adder = _Adder(self, problem, noise)
        for step in self.steps(Nodes.of(problem, grid)):
            x = adder(step, x)
            if not step.inside:
                yield Step(step.t, x, step.order)

    def stepper(self, problem: Any, legs: Sequence[tuple[float, float]], noise: Noise) -> Callable[[int, Any], Any]:
        adder = _Adder(self, problem, noise)
        # a one-step method does not mind that one leg does not start where the last one ended
        start, end = (Point.at(problem.schedule, np.array(t)) for t in zip(*legs, strict=True))
        eta = np.array([problem.eta_at(t) for t, _ in legs])
        steps = list(self.steps(Nodes(problem.schedule, start, end, eta)))
        return lambda n, x: adder(steps[n], x)


class _Adder:
    """The loop over the lines of a step, and what is kept from one step to the next."""

    def __init__(self, solver: Exponential, problem: Any, noise: Noise) -> None:
        self._problem, self._noise, self._work = problem, noise, Workspace()
        self._part, self._materialises = solver.remembers, solver.materialises
        self._kept: dict[int, list[tuple[float, Any, int]]] = {}
        self._asked = 0

    def __call__(self, step: Lines, x: Any) -> Any:
        start, fresh, kept = x, [self._noise(a, b) for a, b in step.intervals], self._kept
        keeps = len(step.lines) > 1 or step.keeps
        for line in step.lines:
            terms: list[tuple[float, Any]] = []
            if line.at is not None:
                reading = self._problem.denoiser(line.at, x)
                terms = _terms(reading, line.data, line.noise)
                if keeps:
                    kept[self._asked] = _kept(reading, self._part, self._work if self._materialises else None)
                self._asked += 1
            for k, weight in line.before:
                terms += [(weight * c, _unwritten(v, written)) for c, v, written in kept[k]]
            if fresh:
                terms += [(weight, z) for weight, z in zip(line.fresh, fresh, strict=True) if weight]
            x = self._work.combine((line.x, start), *terms)
        self._kept = {k: kept[k] for k in step.keeps}
        return x


def etas(problem: Problem, grid: Grid) -> np.ndarray:
    """Eta at the start of every step, shape (steps,): an exponential integrator holds it constant within."""
    constant = problem.eta
    values = [problem.eta_at(t) for t, _ in grid.pairs()] if callable(constant) else constant
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (grid.steps,))


def _terms(reading: Any, on_data: float, on_noise: float) -> list[tuple[float, Any]]:
    # a network's reading goes in as the state and the output it is made of, and is never computed on its own
    if isinstance(reading, ModelOutput):
        return reading.terms(on_data, on_noise)
    return [(on_data, reading[0]), (on_noise, reading[1])]


def _kept(reading: Any, part: int, work: Workspace | None) -> list[tuple[float, Any, int]]:
    terms = [(c, v) for c, v in _terms(reading, 1.0 - part, 1.0 * part) if c]
    if work is not None and len(terms) > 1:
        terms = [(1.0, work.combine(*terms))]
    return [(c, v, version(v)) for c, v in terms]


def _unwritten(value: Any, written: int) -> Any:
    if version(value) != written:
        raise ValueError("the network wrote over an output it had returned: let it return a copy")
    return value
