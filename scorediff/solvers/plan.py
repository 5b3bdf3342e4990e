"""What a run will do, settled and checked before the network is called."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scorediff._core import registry
from scorediff._core.arrays import real
from scorediff.denoiser import DenoiserBase
from scorediff.denoiser.doubts import warn_of_doubts
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import AdaptiveSolver, Solver
from scorediff.solvers.terminal import Terminal
from scorediff.spacings import Grid, Spacing

__all__ = ["Plan", "as_problem", "prepare", "problem_for", "resolve", "run_grid", "steps_within"]


@dataclass(frozen=True)
class Plan:
    """A run but for its state: `problem`, the flow or the reverse SDE; `solver`, with its budget where it is adaptive;
    `grid`, the times it steps through (start, save times and end of an adaptive solver); `spacing`, the rule that made
    the grid, None where the grid was given; `terminal`, the map to sigma = 0, None for none; `evaluations`, the budget
    that the number of steps was chosen for, None where steps or the grid were given; `save`, which states are kept.
    """

    problem: Problem
    solver: Solver
    grid: Grid
    spacing: Spacing | None
    terminal: Terminal | None
    evaluations: int | None
    save: bool | Sequence[float]

    def reversed(self) -> "Plan":
        """The same run from its end to its start."""
        return dataclasses.replace(self, grid=self.grid.reversed())

    def check(self, dtype: torch.dtype, grad: bool) -> None:
        """Raise ValueError where the solver cannot run this problem on this grid with a state of this dtype."""
        self.solver.check(self.problem, self.grid, dtype)
        start, end = self.grid.start, self.grid.end
        if self.terminal is not None and end > start:
            raise ValueError(f"{self.terminal!r} ends a sampling run; this grid rises from {start:.6g} to {end:.6g}")
        if grad and self.solver.adaptive:
            raise ValueError(
                f"{self.solver!r} chooses its steps from values: gradients flow through fixed-grid solvers only"
            )

    def settings(self) -> dict[str, Any]:
        """All of it as plain data."""
        eta = registry.to_dict(self.problem.eta)
        return {
            "solver": self.solver.to_dict(),
            "solver_name": self.solver.name,
            "problem": {"type": type(self.problem).__name__, "eta": eta},
            "schedule": registry.to_dict(self.problem.schedule),
            "grid": self.grid.times.tolist(),
            "first_node": self.grid.first,
            "spacing": registry.to_dict(self.spacing),
            "evaluations": self.evaluations,
            "terminal": registry.to_dict(self.terminal),
            "error": self.solver.estimates,
        }


def prepare(
    problem: Problem | DenoiserBase,
    solver: Solver | str | None,
    *,
    steps: int | None = None,
    evaluations: int | None = None,
    grid: Grid | Sequence[float] | None = None,
    spacing: Spacing | str | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    save: bool | Sequence[float] = False,
    max_evaluations: int | None = None,
    terminal: Terminal | str | None = None,
) -> Plan:
    """The run that these arguments of `solve` stand for. Raises TypeError or ValueError for what cannot be one."""
    solver = resolve(solver)
    problem = as_problem(problem, solver)
    ending = None if terminal is None else registry.resolve(Terminal, terminal)  # type: ignore[type-abstract]
    rule = None if spacing is None else registry.resolve(Spacing, spacing)  # type: ignore[type-abstract]
    if max_evaluations is not None:
        solver = _with_budget(solver, max_evaluations)
    if evaluations is not None:
        if solver.adaptive or steps is not None or grid is not None:
            raise TypeError(_one_of(solver))
        steps = steps_within(evaluations, solver, problem, ending)
    times = run_grid(problem, solver, steps, grid, rule, t_start, t_end, save)
    used = (rule or solver.spacing) if steps is not None else None
    warn_of_doubts(problem.denoiser)
    return Plan(problem, solver, times, used, ending, evaluations, save)


def resolve(solver: Solver | str | None) -> Solver:
    """A solver from itself or from `name:option=value`. Raises TypeError or ValueError."""
    if isinstance(solver, str):
        return registry.parse(Solver, solver)  # type: ignore[type-abstract]
    if solver is None:
        raise TypeError(
            "give a solver, after the problem and the shape or state: a name such as 'dpm++2m', 'unipc-3', 'ddim' or "
            "'exponential-adams' (`scorediff solvers` lists them all), or an object such as DPMSolverPP(2)"
        )
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a Solver or a name such as 'dpm++2m', got {solver!r}")
    return solver


def as_problem(problem: Problem | DenoiserBase, solver: Solver) -> Problem:
    """`problem` itself, or what a denoiser is taken for: its flow, or the reverse SDE with eta = 1 where `solver`
    solves only that. Raises TypeError for a problem that the solver does not solve, and for what is neither.
    """
    if not isinstance(problem, (ProbabilityFlow, ReverseSDE)):
        return problem_for(problem, solver, None)
    if not isinstance(problem, solver.solves):
        wanted = " or ".join(kind.__name__ for kind in solver.solves)
        raise TypeError(f"{solver!r} solves {wanted}, not {type(problem).__name__}")
    return problem


def problem_for(denoiser: Any, solver: Solver, eta: float | None) -> Problem:
    """The problem a solver is run on: the flow where `eta` is 0, or None and the solver can; else the reverse SDE, with
    eta 1 by default. Raises ValueError for an eta that the solver has no problem for.
    """
    on_flow, on_sde = ProbabilityFlow in solver.solves, ReverseSDE in solver.solves
    if eta == 0 and not on_flow:
        raise ValueError(f"eta = 0, but {solver.name} solves the reverse SDE, which wants eta above 0, or leave it")
    if eta and not on_sde:
        raise ValueError(f"eta = {eta}, but {solver.name} solves the probability flow, where eta is 0: leave it")
    if eta == 0 or (eta is None and on_flow):
        return ProbabilityFlow(denoiser)
    return ReverseSDE(denoiser, 1.0 if eta is None else eta)


def steps_within(evaluations: int, solver: Solver, problem: Problem, terminal: Terminal | None) -> int:
    """The most steps whose cost, starting procedure and terminal map included, is at most `evaluations` per sample.

    Raises TypeError for a number that is not whole and for a solver that does not declare its cost, ValueError where
    not even one step fits.
    """
    if isinstance(evaluations, bool) or not isinstance(evaluations, (int, np.integer)):
        raise TypeError(f"evaluations must be a whole number, got {evaluations!r}")
    eta, more = (1.0 if callable(problem.eta) else problem.eta), 0 if terminal is None else 1
    one = solver.evaluations(1, eta)
    if one is None:
        raise TypeError(f"{solver!r} does not declare how many evaluations its steps cost: give steps= or grid=")
    if one + more > evaluations:
        ending = f" and {terminal!r} one more" if terminal is not None else ""
        raise ValueError(f"evaluations = {evaluations}: one step of {solver.name} costs {one}{ending}")
    # from above, step by step: the cost of a starting procedure may jump with the number of steps
    for steps in range(evaluations - more, 1, -1):
        cost = solver.evaluations(steps, eta)
        if cost is not None and cost + more <= evaluations:
            return steps
    return 1


def run_grid(
    problem: Problem,
    solver: Solver,
    steps: int | None,
    grid: Grid | Sequence[float] | None,
    spacing: Spacing | str | None,
    t_start: float | None,
    t_end: float | None,
    save: bool | Sequence[float] = False,
) -> Grid:
    """The grid of a run. Raises TypeError for a wrong combination, ValueError for a time outside the domain."""
    schedule = problem.schedule
    rule = None if spacing is None else registry.resolve(Spacing, spacing)  # type: ignore[type-abstract]
    if grid is not None and not (t_start is None and t_end is None and spacing is None):
        raise TypeError("a grid holds its own ends and spacing: drop t_start=, t_end= and spacing=")
    if solver.adaptive:
        if steps is not None or spacing is not None:
            raise TypeError(f"{solver!r} chooses its own steps: drop steps= and spacing=, set its rtol and atol")
        if save is True:
            raise TypeError(f"{solver!r} has no common steps to save: give save= a list of times")
        if grid is None:
            grid = (schedule.t_start if t_start is None else t_start, schedule.t_end if t_end is None else t_end)
        grid = _with_times(grid, [] if save is False else real("save", save).tolist())
    elif (steps is None) == (grid is None):
        raise TypeError(_one_of(solver))
    elif steps is not None:
        return (rule or solver.spacing)(schedule, steps, t_start=t_start, t_end=t_end)
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    lo, hi = schedule.domain
    outside = grid.times[(grid.times < lo) | (grid.times > hi)]
    if outside.size:
        raise ValueError(f"grid time {float(outside[0])!r} is outside the domain [{lo!r}, {hi!r}] of {schedule!r}")
    if isinstance(problem, ReverseSDE) and grid.end > grid.start:
        raise ValueError(f"{grid!r} rises: the reverse SDE runs from noise to data, on falling times")
    return grid


def _one_of(solver: Solver) -> str:
    """What to say to a wrong choice of steps, evaluations and grid."""
    if solver.adaptive:
        return f"{solver!r} chooses its own steps: drop evaluations=, max_evaluations= is its budget per sample"
    return f"{solver!r} runs on a fixed grid: give exactly one of steps=, evaluations= and grid="


def _with_times(grid: Grid | Sequence[float], save: Sequence[float]) -> Grid:
    """The grid with the times to be saved among its own. Raises ValueError for one outside it."""
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    lo, hi = sorted((grid.start, grid.end))
    for t in save:
        if not lo <= t <= hi:
            raise ValueError(f"save time {float(t)!r} is outside the run, [{lo!r}, {hi!r}]")
    times = np.unique([*grid.times, *save])
    return Grid(times if grid.end > grid.start else times[::-1])


def _with_budget(solver: Solver, max_evaluations: int) -> Solver:
    if not isinstance(solver, AdaptiveSolver):
        raise TypeError(
            f"{solver!r} runs on a fixed grid: max_evaluations= is for adaptive solvers, use steps=, evaluations= or "
            "grid="
        )
    return dataclasses.replace(solver, max_evaluations=max_evaluations)
