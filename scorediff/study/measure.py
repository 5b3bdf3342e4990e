"""Measuring solvers: against the true trajectory on the flow, against the true distribution on an SDE."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.progress import each
from scorediff.coordinates import Angle
from scorediff.guidance import warn_of_kinks
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.sampling import sample
from scorediff.solvers import RK45, AdaptiveSolver, GainWarning, Solution, Solver
from scorediff.solvers.solve import resolve
from scorediff.spacings import Spacing
from scorediff.study.result import WorkPrecision
from scorediff.study.rows import DistributionRow, Reference, TrajectoryRow
from scorediff.targets import Empirical, ExactDenoiser, Target

__all__ = ["RTOLS", "nearest_datum", "reference", "sliced_wasserstein", "work_precision"]

#: Tolerances that an adaptive solver runs at, in place of budgets.
RTOLS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def work_precision(
    problem: Problem,
    solvers: Mapping[str, Solver | str] | Sequence[Solver | str],
    nfes: Sequence[int],
    *,
    x: Tensor,
    reference: Reference | Tensor | None = None,
    target: Target | None = None,
    spacing: Spacing | None = None,
    rtols: Sequence[float] = RTOLS,
    t_start: float | None = None,
    t_end: float | None = None,
    cond: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> WorkPrecision:
    """Run every solver from the same `x` of shape (B, ...) at `t_start`, once per budget of `nfes` evaluations.

    A solver of `problem` runs on it, any other on its sibling: the flow, or the reverse SDE with eta = 1. On the flow
    the error is the distance to the true trajectory, `reference` (by default computed); on an SDE the distance in
    distribution to `target` (by default that of an exact denoiser). A budget below one step is left out; an adaptive
    solver runs at the relative tolerances `rtols` instead, unless its tolerances are not its class's defaults.
    `spacing` makes the grids (by default each solver's own); `t_start` and `t_end` default to the schedule's; `cond`
    goes to the network; `seed` fixes the noise; `progress` shows a bar on a terminal.

    Warns where the denoiser clips or jumps: the errors then say more of it than of the solvers. Raises ValueError for a
    budget below 1, two solvers of one name, and an SDE solver without `target`.
    """
    named = _named(solvers)
    schedule = problem.schedule
    warn_of_kinks(
        problem.denoiser, schedule.t_start if t_start is None else t_start, schedule.t_end if t_end is None else t_end
    )
    if not nfes or min(nfes) < 1:
        raise ValueError(f"budgets of {list(nfes)} evaluations: give at least one, each 1 or more")
    run = _Runner(problem, x, spacing, {"t_start": t_start, "t_end": t_end, "cond": cond, "seed": seed})
    stochastic = [name for name, solver in named.items() if not isinstance(run.problem(solver), ProbabilityFlow)]
    end = schedule.t_end if t_end is None else t_end
    marginal = _marginal(problem, target, end, stochastic)
    exact = [marginal.sample(len(x), seed + k).to(x.device) for k in (1, 2)] if marginal and stochastic else []
    truth = _truth(reference, run) if len(stochastic) < len(named) else None
    runs = run.plan(named, nfes, rtols)
    trajectories, distributions = [], []
    for name, solver, steps in each(runs, progress, unit="run", total=len(runs)):
        if name in stochastic:
            distributions.append(_distribution_row(name, solver, run(solver, steps), exact[0]))
        elif truth is not None:
            trajectories.append(_trajectory_row(name, solver, run(solver, steps), truth, marginal))
    floor = sliced_wasserstein(exact[0], exact[1]) if exact else None
    return WorkPrecision(tuple(trajectories), tuple(distributions), truth, floor, len(x), end)


def reference(
    flow: ProbabilityFlow,
    x: Tensor,
    *,
    tolerance: float = 1e-10,
    t_start: float | None = None,
    t_end: float | None = None,
    cond: Mapping[str, Any] | None = None,
) -> Reference:
    """Where the flow carries `x` of shape (B, ...), by RK45 in angle coordinates and float64, at `tolerance`.

    The second route is RK45 in other coordinates (another data scale in the angle) at ten times the tolerance. With a
    network of less than float64 the tolerance is what its rounding allows. Raises SolverError where a route fails.
    """
    own = flow.denoiser.dtype
    least = max(tolerance, 0.0 if own in (None, torch.float64) else 100 * torch.finfo(own).eps)
    routes = (RK45(rtol=least, atol=least), RK45(rtol=10 * least, atol=10 * least, coordinates=Angle(data_std=0.5)))
    ends = [
        sample(flow, solver=route, x=x.double(), t_start=t_start, t_end=t_end, cond=cond, progress=False).check().x
        for route in routes
    ]
    words = f"RK45 in angle coordinates at tolerance {least:.0e} against other coordinates at {10 * least:.0e}"
    return Reference(ends[0], float(_distances(*ends).max()), words)


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 256, seed: int = 0) -> float:
    """The Wasserstein-2 distance of two sets of samples, of one shape (N, ...), along random directions.

    The root mean square over `projections` directions, fixed by `seed`, of the distance of the projections. Raises
    ValueError where the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"two sets of one size are wanted, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    rows = [v.reshape(len(v), -1).double() for v in (a, b)]
    directions = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows[0].shape[1], projections)))
    directions = (directions / directions.norm(dim=0)).to(a.device)
    first, second = ((v @ directions).sort(dim=0).values for v in rows)
    return float((first - second).square().mean().sqrt())


@dataclass(frozen=True)
class _Runner:
    """Runs of one study: the same start, ends, conditions and noise for every solver."""

    given: Problem
    x: Tensor
    spacing: Spacing | None
    options: Mapping[str, Any]

    @property
    def flow(self) -> ProbabilityFlow:
        return ProbabilityFlow(self.given.denoiser)

    def problem(self, solver: Solver) -> Problem:
        if isinstance(self.given, solver.solves):
            return self.given
        return self.flow if ProbabilityFlow in solver.solves else ReverseSDE(self.given.denoiser)

    def __call__(self, solver: Solver, steps: int | None) -> Solution:
        with warnings.catch_warnings():
            # what errors become is what is measured here
            warnings.simplefilter("ignore", GainWarning)
            return sample(
                self.problem(solver),
                solver=solver,
                x=self.x,
                steps=steps,
                spacing=None if solver.adaptive else self.spacing,
                progress=False,
                **self.options,
            )

    def plan(
        self, solvers: Mapping[str, Solver], nfes: Sequence[int], rtols: Sequence[float]
    ) -> list[tuple[str, Solver, int | None]]:
        """Every run: name, solver, and its steps (None where it chooses them)."""
        runs: list[tuple[str, Solver, int | None]] = []
        for name, solver in solvers.items():
            if solver.adaptive:
                runs += [(name, made, None) for made in _at_tolerances(solver, rtols, self.x.dtype)]
            else:
                per_step = solver.nfe or self._measured_nfe(solver)
                runs += [(name, solver, nfe // per_step) for nfe in sorted(set(nfes)) if nfe >= per_step]
        return runs

    def _measured_nfe(self, solver: Solver) -> int:
        """Evaluations that one more step takes, of a solver that does not declare them."""
        few, more = (int(self(solver, steps).evaluations[0]) for steps in (8, 16))
        return max(round((more - few) / 8), 1)


def _truth(given: Reference | Tensor | None, run: _Runner) -> Reference:
    if isinstance(given, Tensor):
        return Reference(given.double())
    ends = {key: value for key, value in run.options.items() if key != "seed"}
    return given or reference(run.flow, run.x, **ends)


def _marginal(problem: Problem, target: Target | None, t_end: float, stochastic: Sequence[str]) -> Target | None:
    """The exact distribution at t_end."""
    if target is None and isinstance(problem.denoiser, ExactDenoiser):
        target = problem.denoiser.target
    if target is None and stochastic:
        raise ValueError(
            f"{stochastic[0]} solves the reverse SDE, judged by its distribution alone: give target=, that of the data"
        )
    return None if target is None else target.at(problem.schedule, t_end)


def _named(solvers: Mapping[str, Solver | str] | Sequence[Solver | str]) -> dict[str, Solver]:
    if isinstance(solvers, Mapping):
        return {name: resolve(solver) for name, solver in solvers.items()}
    named: dict[str, Solver] = {}
    for given in solvers:
        solver = resolve(given)
        name = given if isinstance(given, str) else solver.name
        if name in named:
            raise ValueError(f"two solvers are called {name!r}: give a mapping from labels to solvers")
        named[name] = solver
    return named


def _at_tolerances(solver: Solver, rtols: Sequence[float], dtype: torch.dtype) -> list[Solver]:
    if not isinstance(solver, AdaptiveSolver) or not solver.has_default_tolerance:
        return [solver]
    return [solver.at(rtol) for rtol in rtols if rtol >= 10 * torch.finfo(dtype).eps]


def _trajectory_row(
    name: str, solver: Solver, solution: Solution, truth: Reference, marginal: Target | None
) -> TrajectoryRow:
    other, errors = None, _distances(solution.x, truth.x)
    if isinstance(marginal, Empirical):
        other = int((nearest_datum(marginal, solution.x) != nearest_datum(marginal, truth.x)).sum())
    steps, evaluations, failed = _work(solution)
    if failed:
        errors, other = torch.full_like(errors, float("nan")), None
    median, rms, q95 = (float(v) for v in (errors.quantile(0.5), errors.square().mean().sqrt(), errors.quantile(0.95)))
    return TrajectoryRow(name, solver.order, steps, evaluations, median, rms, q95, other, failed, solver.adaptive)


def _distribution_row(name: str, solver: Solver, solution: Solution, exact: Tensor) -> DistributionRow:
    steps, evaluations, failed = _work(solution)
    distance = float("nan") if failed else sliced_wasserstein(solution.x, exact)
    return DistributionRow(name, solver.weak_order, steps, evaluations, distance, failed)


def _work(solution: Solution) -> tuple[float, float, int]:
    steps, evaluations = float(solution.accepted.mean()), float(solution.evaluations.mean())
    return steps, evaluations, int(np.count_nonzero(solution.status))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Root mean squares over entries, of shape (B,), in float64."""
    return (a.double() - b.double()).flatten(1).square().mean(1).sqrt()


def nearest_datum(target: Empirical, x: Tensor) -> Tensor:
    """Which datum of a data set each row of `x`, of shape (B, ...), is nearest to: shape (B,)."""
    return torch.cdist(target.flatten(x).double().cpu(), target.data.flatten(1)).argmin(1)
