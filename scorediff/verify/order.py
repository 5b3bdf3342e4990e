"""The measured order of a solver: of its trajectories on the flow, of its law on the reverse SDE."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from scorediff.backends import SciPy
from scorediff.coordinates import Angle, LogSNR
from scorediff.exact import Gaussian, GaussianMixture, Target
from scorediff.grids import Grid, Spacing
from scorediff.problems import ProbabilityFlow
from scorediff.schedules import Schedule
from scorediff.solvers import Solver, SolverError, solve
from scorediff.verify.kolmogorov import characteristic_error
from scorediff.verify.measured import Measurement, OrderReport
from scorediff.verify.moments import moments
from scorediff.verify.probe import eta_for, pose
from scorediff.verify.runs import (
    GAUSSIAN,
    LINE,
    MIXTURE,
    SCHEDULES,
    PlainFunction,
    as_solver,
    described,
    ends,
    grid_of,
    refined,
)
from scorediff.verify.slope import Point, counted, fit, settled

__all__ = ["order"]

_STEPS = (10, 14, 20, 28, 40, 57, 80, 113, 160)
_FINER = (226, 320, 453, 640)  # as far as it takes for a slope to come to rest
_LAW_STEPS, _LAW_FINER = _STEPS[:-2], _STEPS[-2:]  # a mixture's law takes its time
_TOLERANCES = tuple(10 ** (-k / 2) for k in range(6, 25))
_MOST_STEPS = 150  # of an adaptive solver: tighter tolerances are left out
_SAMPLES = 16
_ROUNDING, _LAW_ROUNDING = 1e-12, 1e-7
_KNOWN = 30.0  # how many times the error of the truth an error must be, so that it is the solver's own


def order(
    solver: Solver | str | PlainFunction,
    *,
    target: Target | None = None,
    schedule: Schedule | None = None,
    grid: Grid | Spacing | str | None = None,
    eta: float | None = None,
    declared: int | None = None,
    steps: Sequence[int] | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    seed: int = 0,
) -> OrderReport:
    """Measure the order of a solver, or of a function `(denoise, x_T, grid) -> x_0`, over a ladder of refinements.

    With `eta = 0` (the default where the solver solves the flow) the error is that of the state at t_end, the root mean
    square over samples and entries, against the true trajectory: in closed form for a Gaussian, converged by two routes
    otherwise. With `eta > 0` it is that of the law, started from the exact marginal, without Monte Carlo: Wasserstein-2
    on a Gaussian; on a mixture in one dimension, the characteristic function.

    Without `target` and `schedule`: on a Gaussian of eight eigenvalues and on a mixture, on VP and on rectified flow,
    over log-SNRs from -2 to 2. `grid` is the rule that spaces the `steps` of the ladder (the solver's own by default),
    or a `Grid` whose every step is refined. An adaptive solver runs at falling tolerances, and its order is that in the
    mean number of its steps. A function gets `denoise(t, x) -> (data, noise)` and the `Grid`; its order is what you
    declare.

    The report agrees unless an order is more than 0.15 below the declared one on any target, or more than 0.35 above on
    all; from order 5 on, unless its interval lies below. Raises TypeError or ValueError for what cannot be run.

    >>> print(order(DDIM()))  # doctest: +ELLIPSIS
    ddim: order measured ... (... to ...), declared 1: OK
    """
    solver = as_solver(solver, declared)
    eta = eta_for(solver, eta)
    own = solver.order if eta == 0 else solver.weak_order
    targets = [target] if target is not None else [GAUSSIAN, LINE if eta else MIXTURE]
    measurements, per_step = [], None
    # an adaptive solver's steps follow the solution, whatever the clock: one schedule is enough
    schedules = [schedule] if schedule is not None else SCHEDULES[: 1 if solver.adaptive else None]
    for one in schedules:
        first, last = ends(one)
        span = (first if t_start is None else t_start, last if t_end is None else t_end)
        for law in targets:
            words = f"{described(law)}, {type(one).__name__}" + (f", eta = {eta:g}" if eta else "")
            measured = _Measured(solver, law, one, eta, grid, span, seed)
            try:
                points, rounding = measured.points(steps)
            except _NotMeasurable as error:
                measurements.append(Measurement(words, None, str(error)))
                continue
            per_step = counted(points) if per_step is None and not solver.adaptive else per_step
            measurements.append(Measurement(words, fit(points, rounding, smooth=not solver.adaptive)))
    kind = "weak order" if eta else "order"
    wanted = declared if declared is not None else own
    return OrderReport(solver.name, kind, wanted, solver.nfe, per_step, tuple(measurements))


class _NotMeasurable(Exception):
    """There is no way to the error of this solver on this problem; the message says why."""


@dataclasses.dataclass(frozen=True)
class _Measured:
    """One solver on one problem."""

    solver: Solver
    target: Target
    schedule: Schedule
    eta: float
    grid: Grid | Spacing | str | None
    span: tuple[float, float]
    seed: int

    def points(self, steps: Sequence[int] | None) -> tuple[list[Point], float]:
        """The points of the ladder, coarse to fine, and the error up to which they say nothing."""
        if self.eta and self.solver.adaptive:
            raise _NotMeasurable("the law of an adaptive sampler cannot be computed")
        if self.eta and isinstance(self.target, Gaussian):
            return self._down(self._gaussian_law, steps, _STEPS, _FINER, _ROUNDING), _ROUNDING
        if self.eta:
            return self._down(self._mixture_law, steps, _LAW_STEPS, _LAW_FINER, _LAW_ROUNDING), _LAW_ROUNDING
        start = self.target.at(self.schedule, self.span[0]).sample(_SAMPLES, self.seed)
        truth, known_to = _truth(self.target, self.schedule, self.span, self.seed)
        rounding = max(_ROUNDING * float(truth.square().mean().sqrt()), _KNOWN * known_to)
        if self.solver.adaptive:
            return self._at_tolerances(start, truth), rounding

        def run(nodes: Grid) -> Point:
            return self._trajectory(nodes, start, truth)

        return self._down(run, steps, _STEPS, _FINER, rounding), rounding

    def _down(
        self,
        run: Callable[[Grid], Point],
        steps: Sequence[int] | None,
        usual: Sequence[int],
        finer: Sequence[int],
        rounding: float,
    ) -> list[Point]:
        """Down the ladder that was asked for; or the usual one, and farther until the slope comes to rest."""
        points = [run(nodes) for nodes in self._ladder(steps or usual)]
        for n in finer if steps is None else ():
            if settled(points, rounding):
                break
            points += [p for p in map(run, self._ladder([n])) if p.steps > points[-1].steps]
        return points

    def _ladder(self, steps: Sequence[int]) -> list[Grid]:
        if isinstance(self.grid, Grid):
            # parts of every step, so that what is uneven in the grid stays so
            parts = sorted({max(1, round(n / self.grid.steps)) for n in steps})
            return [refined(self.grid, self.schedule, k) for k in parts]
        problem = pose(self.target.denoiser(self.schedule), self.eta)
        return [grid_of(self.solver, self.schedule, n, self.grid, *self.span, problem) for n in sorted(set(steps))]

    def _gaussian_law(self, nodes: Grid) -> Point:
        law: Any = self.target

        def measure() -> tuple[float, int]:
            found = moments(self.solver, law, schedule=self.schedule, grid=nodes, eta=self.eta)
            return found.wasserstein, found.calls

        return _point(nodes, measure)

    def _mixture_law(self, nodes: Grid) -> Point:
        if not isinstance(self.target, GaussianMixture):
            raise _NotMeasurable(f"the law on {self.target!r} cannot be computed: give a Gaussian or a mixture")
        law = self.target
        return _point(nodes, lambda: characteristic_error(self.solver, law, self.schedule, nodes, self.eta))

    def _trajectory(self, nodes: Grid, start: Tensor, truth: Tensor, solver: Solver | None = None) -> Point:
        flow = ProbabilityFlow(self.target.denoiser(self.schedule))
        options: dict[str, Any] = {"grid": nodes} if solver is None else {"t_start": nodes.start, "t_end": nodes.end}
        solution = solve(flow, solver or self.solver, start, progress=False, **options)
        evaluations = float(solution.evaluations.mean())
        steps = float(nodes.steps) if solver is None else _steps_taken(solution.accepted.mean(), evaluations)
        error = float((solution.x - truth).square().mean().sqrt()) if solution.ok else float("nan")
        return Point(steps, evaluations, error)

    def _at_tolerances(self, start: Tensor, truth: Tensor) -> list[Point]:
        fields = {f.name for f in dataclasses.fields(self.solver)} & {"rtol", "atol"}
        if not fields:
            raise _NotMeasurable("an adaptive solver without rtol or atol has no ladder of tolerances")
        points: list[Point] = []
        for tolerance in _TOLERANCES:
            tightened: Any = dataclasses.replace(self.solver, **dict.fromkeys(fields, tolerance))
            point = self._trajectory(Grid(self.span), start, truth, tightened)
            if points and point.steps <= points[-1].steps:
                continue  # the same steps again say nothing new
            points.append(point)
            if point.steps > _MOST_STEPS:
                break
        return points


def _steps_taken(accepted: float, evaluations: float) -> float:
    # a guest that does not tell its steps yields once: its evaluations stand for them
    return float(accepted) if accepted > 1 else evaluations


def _point(nodes: Grid, measure: Callable[[], tuple[float, int]]) -> Point:
    """The error and the evaluations that `measure` finds on `nodes`; an error that is not finite where a run fails."""
    try:
        error, calls = measure()
    except SolverError:
        return Point(nodes.steps, float("nan"), float("nan"))
    except ValueError as refusal:
        raise _NotMeasurable(str(refusal)) from refusal
    return Point(nodes.steps, calls, error)


@lru_cache(maxsize=64)
def _truth(target: Target, schedule: Schedule, span: tuple[float, float], seed: int) -> tuple[Tensor, float]:
    """Where the flow takes the samples, and how well that is known: by two routes that do not share their steps."""
    start = target.at(schedule, span[0]).sample(_SAMPLES, seed)
    if isinstance(target, Gaussian):
        return target.flow(schedule, *span, start), 0.0
    flow = ProbabilityFlow(target.denoiser(schedule))
    by_angle, by_log_snr = (
        solve(flow, SciPy("DOP853", 1e-13, 1e-13, coordinates), start, t_start=span[0], t_end=span[1], progress=False)
        for coordinates in (Angle(), LogSNR())
    )
    return by_angle.check().x, float((by_angle.x - by_log_snr.check().x).square().mean().sqrt())
