"""What every proof runs on: solvers from names and plain functions, grids made of a rule or given, ladders of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from scorediff._core import registry
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.schedules import RectifiedFlow, Schedule, VPLinear
from scorediff.solvers import Solver
from scorediff.solvers.solve import resolve, run_grid
from scorediff.spacings import Grid, Spacing
from scorediff.targets import Gaussian, GaussianMixture, Target

__all__ = [
    "GAUSSIAN",
    "LINE",
    "MIXTURE",
    "SCHEDULES",
    "PlainFunction",
    "as_solver",
    "checked_grid",
    "checked_schedule",
    "checked_steps",
    "checked_target",
    "described",
    "described_steps",
    "ends",
    "grid_of",
    "refined",
    "stochastic",
    "uneven",
]

#: A plain sampler: `(denoise, x_T, grid) -> x_0`, where `denoise(t, x)` gives `(data, noise)`.
PlainFunction = Callable[[Any, Any, Grid], Any]

#: Several eigenvalues, so that none sits on a zero of the leading error; and two distributions that are not Gaussian.
GAUSSIAN = Gaussian(np.linspace(-1, 1, 8), np.geomspace(0.03, 4, 8))
MIXTURE = GaussianMixture((0.3, 0.7), ((1.0, -0.5), (-0.6, 0.8)), (0.1, 0.3))
LINE = GaussianMixture((0.3, 0.7), ((1.0,), (-0.6,)), (0.1, 0.3))
SCHEDULES: tuple[Schedule, ...] = (VPLinear(), RectifiedFlow())


_PATTERN, _MILD = (1.0, 6.0, 2.0, 8.0), (1.0, 2.0, 1.0, 2.0)


@dataclass(frozen=True)
class _Uneven(Spacing):
    """Steps in the log-SNR whose lengths follow a pattern of four, eased in: uneven at every refinement, where a smooth
    grid is ever more even.

    Step n of N is `((n + 1)^k - n^k) pattern[n mod 4]`, `k = ease`. A first step of order p then weighs N^(-k p): a
    start of low order does not hide what the steps do. N is rounded up to a multiple of 4.
    """

    ease: int
    pattern: tuple[float, ...] = _PATTERN

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        steps += -steps % 4
        lengths = np.diff(np.linspace(0.0, 1.0, steps + 1) ** self.ease) * np.tile(self.pattern, steps // 4)
        places = np.concatenate([[0.0], np.cumsum(lengths)])
        first, last = (float(schedule.log_snr(t)) for t in (t_start, t_end))
        return np.asarray(schedule.time_at(first + (last - first) * places / places[-1]))


def uneven(declared: float | None = None, *, ease: int | None = None) -> Spacing:
    """A rule of steps of 1 : 6 : 2 : 8 by turns, on which an order of `declared` is measured.

    They are eased in, by the power `ease` or the least that lets a start weigh less than the steps; 1 is not at all.
    More than the third power would make first steps of 1e-12, on which weights of high order overflow. From order 6 on
    they are 1 : 2, on which alone slopes come to rest before rounding; what these cannot show, `step_order` does.
    """
    order = declared or 1
    return _Uneven(
        min(max(2, math.ceil((order + 1) / 2)), 3) if ease is None else ease, _PATTERN if order < 6 else _MILD
    )


_LOG_SNR = (-2.0, 2.0)  # where a poor start shows: on a wider range it hides until the steps are many


@dataclass(frozen=True)
class _Function(Solver):
    """A plain function as a solver."""

    function: PlainFunction
    declared: float | None

    @property
    def order(self) -> Any:
        return self.declared

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def __repr__(self) -> str:
        return self.name

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        yield grid.end, self.function(problem.denoiser, x, grid)


def as_solver(given: Solver | str | PlainFunction, declared: float | None = None) -> Solver:
    """A solver from itself, its name, or a plain function. Raises TypeError or ValueError for anything else."""
    if declared is not None and (isinstance(declared, bool) or not isinstance(declared, (int, float))):
        raise TypeError(f"declared = {declared!r}: an order is a number")
    if declared is not None and not 0 < declared < np.inf:
        raise ValueError(f"declared = {declared}: an order is above 0 and finite")
    if isinstance(given, type) or not (isinstance(given, (Solver, str)) or callable(given)):
        way_out = f"write {given.__name__}()" if isinstance(given, type) else "give a Solver, its name, or a function"
        raise TypeError(f"{given!r} is not a solver: {way_out}")
    return resolve(given) if isinstance(given, (Solver, str)) else _Function(given, declared)


def stochastic(solver: Solver) -> bool:
    """Whether it solves the flow in distribution alone, so that the order it declares is that of its distribution."""
    return solver.order is None and solver.weak_order is not None


def grid_of(
    solver: Solver,
    schedule: Schedule,
    steps: int | None,
    grid: Grid | Sequence[float] | Spacing | str | None,
    t_start: float | None,
    t_end: float | None,
    problem: Problem,
) -> Grid:
    """The grid of one run. Raises TypeError or ValueError as `solve` does."""
    if isinstance(grid, str):
        grid = registry.parse(Spacing, grid)  # type: ignore[type-abstract]
    rule, nodes = (grid, None) if isinstance(grid, Spacing) else (None, grid)
    return run_grid(problem, solver, steps, nodes, rule, t_start, t_end)


def checked_target(target: Any) -> Target:
    """Raises TypeError for anything but a target."""
    if not isinstance(target, Target):
        raise TypeError(f"target = {target!r}: give a Gaussian(...), a GaussianMixture(...) or an Empirical(...)")
    return target


def checked_schedule(schedule: Schedule | str | None) -> Schedule:
    """A schedule from itself or its name; VP-linear where there is none. Raises TypeError or ValueError."""
    if isinstance(schedule, str):
        return registry.parse(Schedule, schedule)  # type: ignore[type-abstract]
    if schedule is not None and not isinstance(schedule, Schedule):
        raise TypeError(f"schedule = {schedule!r}: give a Schedule such as VPLinear(), or its name")
    return SCHEDULES[0] if schedule is None else schedule


def checked_steps(steps: Any) -> list[int]:
    """A ladder: whole numbers, rising. Raises TypeError or ValueError for fewer than four different ones."""
    try:
        ladder = sorted({index(n) for n in steps})
    except TypeError as error:
        raise TypeError(f"steps = {steps!r}: a ladder of whole numbers is wanted, such as (20, 40, 80, 160)") from error
    if len(ladder) < 4 or ladder[0] < 1:
        raise ValueError(f"steps = {tuple(ladder)}: a slope wants at least 4 different numbers of steps, 1 or more")
    return ladder


def checked_grid(
    grid: Grid | Sequence[float] | Spacing | str | None, t_start: float | None, t_end: float | None
) -> Grid | Spacing | None:
    """A grid or a rule, from itself, its times or its name. Raises TypeError or ValueError for anything else."""
    if isinstance(grid, str):
        return registry.parse(Spacing, grid)  # type: ignore[type-abstract]
    if grid is None or isinstance(grid, Spacing):
        return grid
    nodes = grid if isinstance(grid, Grid) else Grid(grid)
    if not (t_start is None and t_end is None):
        raise TypeError("a grid holds its own ends: drop t_start= and t_end=")
    if nodes.end > nodes.start:
        raise ValueError(f"{nodes!r} rises: give the falling grid of a sampling run")
    return nodes


def ends(schedule: Schedule) -> tuple[float, float]:
    """The times at which the log-SNR is -2 and 2, or where the schedule ends before."""
    least, most = (float(schedule.log_snr(t)) for t in (schedule.t_start, schedule.t_end))
    return schedule.time_at(max(_LOG_SNR[0], least)), schedule.time_at(min(_LOG_SNR[1], most))


def refined(grid: Grid, schedule: Schedule, parts: int) -> Grid:
    """Every step of `grid` split into `parts` that are equal in the log-SNR."""
    log_snr = np.asarray(schedule.log_snr(grid.times))
    places = np.arange(parts * grid.steps + 1) / parts
    times = np.asarray(schedule.time_at(np.interp(places, np.arange(len(grid)), log_snr)))
    times[::parts] = grid.times
    return Grid(times)


def described(target: Target) -> str:
    """A target in a few words."""
    size = int(np.prod(target.event_shape))
    kind = "mixture" if isinstance(target, GaussianMixture) else type(target).__name__
    return f"{kind}, {size}-D"


def described_steps(grid: Any) -> str:
    """What is special about the steps of a rule or grid, in words, or nothing."""
    return f"steps {' : '.join(f'{n:g}' for n in grid.pattern)}" if isinstance(grid, _Uneven) else ""
