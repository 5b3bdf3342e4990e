"""One solver on one problem, down a ladder of refinements: the points that an order is fitted to."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scorediff.denoiser import DenoiserBase
from scorediff.problems import ProbabilityFlow
from scorediff.schedules import Schedule
from scorediff.solvers import AdaptiveSolver, Solver, SolverError, solve
from scorediff.solvers.probe import Unmeasurable, pose
from scorediff.spacings import Grid, Spacing
from scorediff.targets import Gaussian, GaussianMixture, Target
from scorediff.verify.kolmogorov import POINTS, characteristic_error
from scorediff.verify.measured import Measurement
from scorediff.verify.moments import moments
from scorediff.verify.runs import described, described_steps, grid_of, refined, stochastic
from scorediff.verify.slope import ConvergencePoint, counted, fit, settled
from scorediff.verify.truth import SAMPLES, known_truth

__all__ = ["Ladder", "measured"]

_STEPS = (10, 14, 20, 28, 40, 57, 80, 113, 160)
_FINER = (226, 320, 453, 640)  # as far as it takes for a slope to come to rest
_PARTS = (1, 2, 3, 4, 6, 8)  # of every step of a fine grid
_DISTRIBUTION_STEPS, _DISTRIBUTION_FINER = _STEPS[:-2], _STEPS[-2:]  # the distribution on a mixture takes its time
_TOLERANCES = tuple(10 ** (-k / 2) for k in range(6, 25))
_MOST_STEPS = 150  # of an adaptive solver: tighter tolerances are left out
_ROUNDING, _DISTRIBUTION_ROUNDING = 2e-13, 1e-9
_KNOWN = 30.0  # how many times the error of the truth an error must be, so that it is the solver's


def measured(ladder: "Ladder", steps: Sequence[int] | None) -> Measurement:
    """What is measured down the ladder, of so many `steps`, or why nothing is."""
    try:
        points, rounding = ladder.points(steps)
    except Unmeasurable as error:
        return Measurement(ladder.words, None, skipped=str(error))
    except Failed as error:
        return Measurement(ladder.words, None, failed=str(error))
    smooth = not ladder.solver.adaptive
    return Measurement(ladder.words, fit(points, rounding, smooth=smooth), ladder.per_step(points) if smooth else None)


class Failed(Exception):
    """A run of the solver failed; the message says which and how."""


@dataclass(frozen=True)
class Ladder:
    """One solver on one problem, down a ladder of refinements.

    `solver` on the denoiser of `target` on `schedule`, guided by `guidance` where there is one: the flow where `eta` is
    0, else the reverse SDE. `grid`: the rule that spaces the steps, a grid whose every step is refined, or None for the
    solver's own rule. `span`: the first and the last time. `seed`: of the starts.
    """

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

    def per_step(self, points: Sequence[ConvergencePoint]) -> float:
        """Evaluations that one more step takes, without those that a starting procedure takes."""

        def started(n: float) -> int:
            declared, per_step = self.solver.evaluations(round(n), self.eta), self.solver.nfe
            return 0 if declared is None or per_step is None else declared - per_step * round(n)

        return counted([dataclasses.replace(p, evaluations=p.evaluations - started(p.steps)) for p in points])

    def points(self, steps: Sequence[int] | None) -> tuple[list[ConvergencePoint], float]:
        """The points of the ladder, coarse to fine, and the error up to which they say nothing."""
        weak = bool(self.eta) or stochastic(self.solver)
        if weak and self.solver.adaptive:
            raise Unmeasurable("the distribution of an adaptive sampler's output cannot be computed")
        if weak and isinstance(self.target, Gaussian):
            return self._down(self._on_gaussian, steps, _STEPS, _FINER, _ROUNDING), _ROUNDING
        if weak:
            return self._down_on_mixture(steps)
        start = self.target.at(self.schedule, self.span[0]).sample(SAMPLES, self.seed)
        truth, known_to = known_truth(self.target, self.schedule, self.span, self.seed, self.guidance)
        rounding = max(_ROUNDING * float(truth.square().mean().sqrt()), _KNOWN * known_to)
        if self.solver.adaptive:
            return self._at_tolerances(start, truth), rounding

        def run(nodes: Grid) -> ConvergencePoint:
            return self._trajectory(nodes, start, truth)

        return self._down(run, steps, _STEPS, _FINER, rounding), rounding

    def _down_on_mixture(self, steps: Sequence[int] | None) -> tuple[list[ConvergencePoint], float]:
        rounding = max(_DISTRIBUTION_ROUNDING, _KNOWN * self._unresolved(steps or _DISTRIBUTION_STEPS))
        points = self._down(self._on_mixture, steps, _DISTRIBUTION_STEPS, _DISTRIBUTION_FINER, rounding)
        if rounding > _DISTRIBUTION_ROUNDING and sum(p.error <= rounding for p in points) > 1:
            raise Unmeasurable(
                f"errors of the distribution come down to {points[-1].error:.0e} and are resolved to {rounding:.0e} "
                "alone: the modes are too narrow or too far apart, give a smoother mixture or fewer steps="
            )
        return points, rounding

    def _down(
        self,
        run: Callable[[Grid], ConvergencePoint],
        steps: Sequence[int] | None,
        usual: Sequence[int],
        finer: Sequence[int],
        rounding: float,
    ) -> list[ConvergencePoint]:
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

    def _tried(self, run: Callable[[Grid], ConvergencePoint], nodes: Grid) -> ConvergencePoint:
        try:
            return run(nodes)
        except Unmeasurable:
            raise
        except (SolverError, ValueError, ArithmeticError) as error:
            raise Failed(f"with {nodes.steps} steps: {error}") from error

    def _on_gaussian(self, nodes: Grid) -> ConvergencePoint:
        target: Any = self.target
        found = moments(self.solver, target, schedule=self.schedule, grid=nodes, eta=self.eta)
        return ConvergencePoint(nodes.steps, found.calls, found.wasserstein)

    def _on_mixture(self, nodes: Grid, points: int = POINTS) -> ConvergencePoint:
        if not isinstance(self.target, GaussianMixture):
            raise Unmeasurable(f"the distribution on {self.target!r} cannot be computed: give a Gaussian or a mixture")
        error, calls = characteristic_error(self.solver, self.target, self.schedule, nodes, self.eta, points=points)
        return ConvergencePoint(nodes.steps, calls, error)

    def _unresolved(self, steps: Sequence[int]) -> float:
        """By how much the distribution of the finest rung is off, as a coarser one shows on a grid twice as fine."""
        nodes = self._grids([steps[len(steps) // 2]])[0]
        coarse, fine = (self._tried(partial(self._on_mixture, points=n), nodes).error for n in (POINTS, 2 * POINTS))
        return abs(coarse - fine) * steps[-1] / nodes.steps

    def _trajectory(self, nodes: Grid, start: Tensor, truth: Tensor, solver: Solver | None = None) -> ConvergencePoint:
        flow = ProbabilityFlow(self.denoiser)
        options: dict[str, Any] = {"grid": nodes} if solver is None else {"t_start": nodes.start, "t_end": nodes.end}
        solution = solve(flow, start, solver or self.solver, progress=False, **options).check()
        evaluations = float(solution.evaluations.mean())
        steps = float(nodes.steps) if solver is None else _steps_taken(solution.accepted.mean(), evaluations)
        return ConvergencePoint(steps, evaluations, float((solution.x - truth).square().mean().sqrt()))

    def _at_tolerances(self, start: Tensor, truth: Tensor) -> list[ConvergencePoint]:
        if not isinstance(self.solver, AdaptiveSolver):
            raise Unmeasurable("a solver that chooses its steps and is not an AdaptiveSolver has no tolerance to lower")
        points: list[ConvergencePoint] = []
        for tolerance in _TOLERANCES:
            tightened = self.solver.at(tolerance)
            point = self._tried(partial(self._trajectory, start=start, truth=truth, solver=tightened), Grid(self.span))
            if points and point.steps <= points[-1].steps:
                continue  # the same steps again say nothing new
            points.append(point)
            if point.steps > _MOST_STEPS:
                break
        return points


def _steps_taken(accepted: float, evaluations: float) -> float:
    # a back end that does not count its steps yields once: its evaluations stand for them
    return float(accepted) if accepted > 1 else evaluations
