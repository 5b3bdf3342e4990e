"""The measured order of a solver: of its trajectories on the flow, of its law on the reverse SDE."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, final

import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.backends import SciPy
from scorediff.coordinates import Angle, LogSNR
from scorediff.denoiser import DenoiserBase, PairOutput, as_denoiser
from scorediff.guidance import warn_of_kinks
from scorediff.problems import ProbabilityFlow
from scorediff.schedules import Schedule
from scorediff.solvers import RK45, Solver, SolverError, solve
from scorediff.spacings import Grid, Spacing
from scorediff.targets import Gaussian, GaussianMixture, Target
from scorediff.verify.kolmogorov import POINTS, characteristic_error
from scorediff.verify.measured import Measurement, OrderReport
from scorediff.verify.moments import moments
from scorediff.verify.probe import Unmeasurable, eta_for, pose
from scorediff.verify.runs import (
    GAUSSIAN,
    LINE,
    MIXTURE,
    SCHEDULES,
    PlainFunction,
    as_solver,
    checked_grid,
    checked_schedule,
    checked_steps,
    checked_target,
    described,
    described_steps,
    ends,
    grid_of,
    refined,
    stochastic,
    uneven,
)
from scorediff.verify.slope import Point, counted, fit, settled

__all__ = ["order"]

_STEPS = (10, 14, 20, 28, 40, 57, 80, 113, 160)
_FINER = (226, 320, 453, 640)  # as far as it takes for a slope to come to rest
_PARTS = (1, 2, 3, 4, 6, 8)  # of every step of a fine grid
_LAW_STEPS, _LAW_FINER = _STEPS[:-2], _STEPS[-2:]  # a mixture's law takes its time
_TOLERANCES = tuple(10 ** (-k / 2) for k in range(6, 25))
_MOST_STEPS = 150  # of an adaptive solver: tighter tolerances are left out
_SAMPLES = 16
_ROUNDING, _LAW_ROUNDING = 2e-13, 1e-9
_KNOWN = 30.0  # how many times the error of the truth an error must be, so that it is the solver's own


def order(
    solver: Solver | str | PlainFunction,
    *,
    target: Target | None = None,
    schedule: Schedule | str | None = None,
    grid: Grid | Sequence[float] | Spacing | str | None = None,
    eta: float | None = None,
    declared: float | None = None,
    steps: Sequence[int] | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    seed: int = 0,
    guidance: Callable[[DenoiserBase], DenoiserBase] | None = None,
) -> OrderReport:
    """Measure the order of a solver, or of a function `(denoise, x_T, grid) -> x_0`, over a ladder of refinements.

    With `eta = 0` (the default where the solver solves the flow) the error is that of the state at t_end, the root
    mean square over samples and entries, against the true trajectory: in closed form for a Gaussian, converged by two
    routes otherwise. With `eta > 0`, and for a stochastic solver of the flow, it is that of the law, started from the
    exact marginal, without Monte Carlo: Wasserstein-2 on a Gaussian; on a mixture in one dimension, the
    characteristic function.

    Without `target`, `schedule` and `grid`: on a Gaussian of eight eigenvalues and on a mixture, on VP and on rectified
    flow, over log-SNRs from -2 to 2; and once on the steps of `uneven`, 1 : 6 : 2 : 8 by turns. `grid` is the rule that
    spaces the `steps` of the ladder (the solver's own by default), or a `Grid` whose every step is refined. An adaptive
    solver runs at falling tolerances, and its order is that in the mean number of its steps. A function gets
    `denoise(t, x) -> (data, noise)` and the `Grid`; its order is what you declare. `guidance` makes another denoiser of
    each target's, such as `lambda model: Autoguidance(model, weak, 2.0)`: the order is then that of trajectories of the
    guided equation, and there is a warning where that is not smooth.

    The report agrees unless an order is more than 0.15 below the declared one on any target, or more than 0.35 above on
    all; from order 5 on, unless its interval lies below. Raises TypeError or ValueError for what cannot be run.

    >>> print(order(DDIM()))  # doctest: +ELLIPSIS
    ddim: order measured ... (... to ...), declared 1: OK
    """
    solver, rule = as_solver(solver, declared), checked_grid(grid, t_start, t_end)
    eta = eta_for(solver, eta)
    if solver.adaptive and not (steps is None and rule is None):
        raise TypeError(f"{solver!r} chooses its own steps, at falling tolerances: drop steps= and grid=")
    ladder = None if steps is None else checked_steps(steps)
    law = bool(eta) or stochastic(solver)
    if law and guidance is not None:
        raise ValueError(
            f"the law of {solver.name} on a guided equation is not known: orders are of the flow, at eta = 0"
        )
    wanted = declared if declared is not None else solver.weak_order if law else solver.order
    laws = [GAUSSIAN, LINE if law else MIXTURE] if target is None else [checked_target(target)]
    # an adaptive solver's steps follow the solution, whatever the clock: one schedule is enough
    schedules = SCHEDULES[: 1 if solver.adaptive else None] if schedule is None else (checked_schedule(schedule),)
    problems = [(one, each, rule) for each in schedules for one in laws]
    if target is None and schedule is None and rule is None and not solver.adaptive:
        problems.append((GAUSSIAN, SCHEDULES[0], uneven(wanted)))
    if guidance is not None:
        guided = as_denoiser(guidance(laws[0].denoiser(schedules[0])), "verify.order")
        warn_of_kinks(guided, *_span(problems[0][2], schedules[0], t_start, t_end))
    measurements = [
        _measured(_Ladder(solver, one, each, eta, nodes, _span(nodes, each, t_start, t_end), seed, guidance), ladder)
        for one, each, nodes in problems
    ]
    return OrderReport(solver.name, "weak order" if law else "order", wanted, solver.nfe, tuple(measurements))


def _span(
    nodes: Grid | Spacing | None, schedule: Schedule, t_start: float | None, t_end: float | None
) -> tuple[float, float]:
    if isinstance(nodes, Grid):
        return nodes.start, nodes.end
    first, last = ends(schedule)
    return (first if t_start is None else t_start, last if t_end is None else t_end)


def _measured(ladder: "_Ladder", steps: Sequence[int] | None) -> Measurement:
    try:
        points, rounding = ladder.points(steps)
    except Unmeasurable as error:
        return Measurement(ladder.words, None, skipped=str(error))
    except _Failed as error:
        return Measurement(ladder.words, None, failed=str(error))
    smooth = not ladder.solver.adaptive
    return Measurement(ladder.words, fit(points, rounding, smooth=smooth), ladder.per_step(points) if smooth else None)


class _Failed(Exception):
    """A run of the solver failed; the message says which and how."""


@dataclasses.dataclass(frozen=True)
class _Ladder:
    """One solver on one problem, down a ladder of refinements."""

    solver: Solver
    target: Target
    schedule: Schedule
    eta: float
    grid: Grid | Spacing | None
    span: tuple[float, float]
    seed: int
    guidance: Callable[[DenoiserBase], DenoiserBase] | None = None

    @property
    def denoiser(self) -> DenoiserBase:
        """The target's, guided."""
        exact = self.target.denoiser(self.schedule)
        return exact if self.guidance is None else self.guidance(exact)

    @property
    def words(self) -> str:
        """The problem in words."""
        words = [described(self.target), type(self.schedule).__name__]
        words += [f"eta = {self.eta:g}"] * bool(self.eta) + [described_steps(self.grid)]
        return ", ".join(filter(None, words))

    def per_step(self, points: Sequence[Point]) -> float:
        """Evaluations that one more step takes, without those that a start by other means is said to take."""

        def started(n: float) -> int:
            declared, per_step = self.solver.evaluations(round(n), self.eta), self.solver.nfe
            return 0 if declared is None or per_step is None else declared - per_step * round(n)

        return counted([dataclasses.replace(p, evaluations=p.evaluations - started(p.steps)) for p in points])

    def points(self, steps: Sequence[int] | None) -> tuple[list[Point], float]:
        """The points of the ladder, coarse to fine, and the error up to which they say nothing."""
        law = bool(self.eta) or stochastic(self.solver)
        if law and self.solver.adaptive:
            raise Unmeasurable("the law of an adaptive sampler cannot be computed")
        if law and isinstance(self.target, Gaussian):
            return self._down(self._gaussian_law, steps, _STEPS, _FINER, _ROUNDING), _ROUNDING
        if law:
            return self._on_mixture(steps)
        start = self.target.at(self.schedule, self.span[0]).sample(_SAMPLES, self.seed)
        truth, known_to = _known(self.target, self.schedule, self.span, self.seed, self.guidance)
        rounding = max(_ROUNDING * float(truth.square().mean().sqrt()), _KNOWN * known_to)
        if self.solver.adaptive:
            return self._at_tolerances(start, truth), rounding

        def run(nodes: Grid) -> Point:
            return self._trajectory(nodes, start, truth)

        return self._down(run, steps, _STEPS, _FINER, rounding), rounding

    def _on_mixture(self, steps: Sequence[int] | None) -> tuple[list[Point], float]:
        rounding = max(_LAW_ROUNDING, _KNOWN * self._unresolved(steps or _LAW_STEPS))
        points = self._down(self._mixture_law, steps, _LAW_STEPS, _LAW_FINER, rounding)
        if rounding > _LAW_ROUNDING and sum(p.error <= rounding for p in points) > 1:
            raise Unmeasurable(
                f"errors of the law come down to {points[-1].error:.0e} and are resolved to {rounding:.0e} alone: the "
                "modes are too narrow or too far apart, give a smoother mixture or fewer steps="
            )
        return points, rounding

    def _down(
        self,
        run: Callable[[Grid], Point],
        steps: Sequence[int] | None,
        usual: Sequence[int],
        finer: Sequence[int],
        rounding: float,
    ) -> list[Point]:
        """Down the ladder that was asked for; or the usual one, and farther until the slope comes to rest."""
        points = [self._tried(run, nodes) for nodes in self._grids(steps or usual)]
        for n in finer if steps is None else ():
            if settled(points, rounding):
                break
            points += [self._tried(run, nodes) for nodes in self._grids([n]) if nodes.steps > points[-1].steps]
        return points

    def _grids(self, steps: Sequence[int]) -> list[Grid]:
        problem = pose(self.denoiser, self.eta)
        if isinstance(self.grid, Grid):
            # parts of every step, so that what is uneven in the grid stays so; a fine one counts in parts
            parts = [max(1, round(n / self.grid.steps)) for n in steps] if self.grid.steps <= _STEPS[0] else _PARTS
            grids = [refined(self.grid, self.schedule, k) for k in sorted(set(parts))]
        else:
            made = (grid_of(self.solver, self.schedule, n, self.grid, *self.span, problem) for n in steps)
            # a rule may round: of rungs that coincide one is kept
            grids = list({nodes.steps: nodes for nodes in made}.values())
        try:
            for nodes in grids:
                self.solver.check(problem, nodes, torch.float64)
        except ValueError as error:
            raise Unmeasurable(str(error)) from error
        return grids

    def _tried(self, run: Callable[[Grid], Point], nodes: Grid) -> Point:
        try:
            return run(nodes)
        except Unmeasurable:
            raise
        except (SolverError, ValueError, ArithmeticError) as error:
            raise _Failed(f"with {nodes.steps} steps: {error}") from error

    def _gaussian_law(self, nodes: Grid) -> Point:
        law: Any = self.target
        found = moments(self.solver, law, schedule=self.schedule, grid=nodes, eta=self.eta)
        return Point(nodes.steps, found.calls, found.wasserstein)

    def _mixture_law(self, nodes: Grid, points: int = POINTS) -> Point:
        if not isinstance(self.target, GaussianMixture):
            raise Unmeasurable(f"the law on {self.target!r} cannot be computed: give a Gaussian or a mixture")
        error, calls = characteristic_error(self.solver, self.target, self.schedule, nodes, self.eta, points=points)
        return Point(nodes.steps, calls, error)

    def _unresolved(self, steps: Sequence[int]) -> float:
        """By how much the law of the finest rung is wrong, as far as a coarser one tells on a grid twice as fine."""
        nodes = self._grids([steps[len(steps) // 2]])[0]
        coarse, fine = (self._tried(partial(self._mixture_law, points=n), nodes).error for n in (POINTS, 2 * POINTS))
        return abs(coarse - fine) * steps[-1] / nodes.steps

    def _trajectory(self, nodes: Grid, start: Tensor, truth: Tensor, solver: Solver | None = None) -> Point:
        flow = ProbabilityFlow(self.denoiser)
        options: dict[str, Any] = {"grid": nodes} if solver is None else {"t_start": nodes.start, "t_end": nodes.end}
        solution = solve(flow, start, solver or self.solver, progress=False, **options).check()
        evaluations = float(solution.evaluations.mean())
        steps = float(nodes.steps) if solver is None else _steps_taken(solution.accepted.mean(), evaluations)
        return Point(steps, evaluations, float((solution.x - truth).square().mean().sqrt()))

    def _at_tolerances(self, start: Tensor, truth: Tensor) -> list[Point]:
        fields = {f.name for f in dataclasses.fields(self.solver)} & {"rtol", "atol"}
        if not fields:
            raise Unmeasurable("an adaptive solver without rtol or atol has no ladder of tolerances")
        points: list[Point] = []
        for tolerance in _TOLERANCES:
            tightened: Any = dataclasses.replace(self.solver, **dict.fromkeys(fields, tolerance))
            point = self._tried(partial(self._trajectory, start=start, truth=truth, solver=tightened), Grid(self.span))
            if points and point.steps <= points[-1].steps:
                continue  # the same steps again say nothing new
            points.append(point)
            if point.steps > _MOST_STEPS:
                break
        return points


def _steps_taken(accepted: float, evaluations: float) -> float:
    # a guest that does not tell its steps yields once: its evaluations stand for them
    return float(accepted) if accepted > 1 else evaluations


def _known(
    target: Target,
    schedule: Schedule,
    span: tuple[float, float],
    seed: int,
    guidance: Callable[[DenoiserBase], DenoiserBase] | None,
) -> tuple[Tensor, float]:
    if guidance is not None:  # the network behind it would be kept too
        return _truth.__wrapped__(target, schedule, span, seed, guidance)
    try:
        return _truth(target, schedule, span, seed)
    except TypeError:  # a schedule of one's own that cannot be told from others: nothing is kept
        return _truth.__wrapped__(target, schedule, span, seed)


@lru_cache(maxsize=64)
def _truth(
    target: Target,
    schedule: Schedule,
    span: tuple[float, float],
    seed: int,
    guidance: Callable[[DenoiserBase], DenoiserBase] | None = None,
) -> tuple[Tensor, float]:
    """Where the flow takes the samples, and how well that is known: by two routes that do not share their steps."""
    start = target.at(schedule, span[0]).sample(_SAMPLES, seed)
    if guidance is None and isinstance(target, Gaussian):
        return target.flow(schedule, *span, start), 0.0
    exact = target.denoiser(schedule)
    # a guided equation may have kinks and jumps, which a method of order 8 takes badly, and samples one by one well
    denoiser, method, x = (
        (_AsOne(exact), partial(SciPy, "DOP853", 1e-13, 1e-13), start[None])
        if guidance is None
        else (guidance(exact), partial(RK45, 1e-10, 1e-10), start)
    )
    by_angle, by_log_snr = (
        solve(
            ProbabilityFlow(denoiser),
            x,
            method(coordinates=coordinates),
            t_start=span[0],
            t_end=span[1],
            progress=False,
        )
        .check()
        .x.reshape(start.shape)
        for coordinates in (Angle(), LogSNR())
    )
    return by_angle, float((by_angle - by_log_snr).square().mean().sqrt())


@final
class _AsOne(DenoiserBase):
    """Samples as one sample: SciPy then takes them through its steps together, not one after another."""

    def __init__(self, denoiser: DenoiserBase) -> None:
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> PairOutput:
        data, noise = self.denoiser.evaluate(t, x[0], cond)
        return PairOutput(x, data[None], noise[None])
