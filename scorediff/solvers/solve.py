"""The driver: one problem, one solver, one state, carried along one grid."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from scorediff._core import registry
from scorediff.noise import BrownianPath, IndependentNoise, Noise
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import Solver, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.record import Record
from scorediff.solvers.solution import Solution
from scorediff.solvers.terminal import Terminal
from scorediff.spacings import Grid, Spacing

T = TypeVar("T")

__all__ = ["check_problem", "problem_for", "resolve", "run_grid", "solve"]


def solve(
    problem: Problem,
    x: Tensor,
    solver: Solver | str,
    *,
    steps: int | None = None,
    grid: Grid | Sequence[float] | None = None,
    spacing: Spacing | str | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    save: bool | Sequence[float] = False,
    max_evaluations: int | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    noise: type[Noise] | None = None,
    cond: Mapping[str, Any] | None = None,
    terminal: Terminal | str | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = True,
    grad: bool = False,
) -> Solution:
    """Carry `x` of shape (B, ...) along `problem` with `solver`; solver, spacing and terminal may go by their names.

    A fixed-grid solver takes exactly one of `steps` (spaced by `spacing`, else the solver's own) and `grid`; an
    adaptive one takes neither, and may take `max_evaluations` per sample. `t_start`, `t_end` default to the schedule's.
    `save` keeps states: True for every node of a fixed grid, or a list of times (nodes of a fixed grid; any for an
    adaptive solver). Sample `ids[i]` of `seed` sees the same `noise` in any batch (`BrownianPath`: on any grid). `cond`
    goes to the network. `terminal` is one evaluation more, to sigma = 0. `callback` gets every `Step`. `progress` shows
    a bar on a terminal. With `grad` gradients flow (fixed grids).

    Raises TypeError or ValueError, naming the value and the way out, for what cannot be run. What fails on the way is
    in the solution's status: `Solution.check()` raises it.
    """
    solver, spacing, terminal = resolve(solver), _named(Spacing, spacing), _named(Terminal, terminal)  # type: ignore[type-abstract]
    check_problem(problem, solver)
    _check_state(x)
    if max_evaluations is not None:
        solver = _with_budget(solver, max_evaluations)
    grid = run_grid(problem, solver, steps, grid, spacing, t_start, t_end, save)
    solver.check(problem, grid, x.dtype)
    if terminal is not None and grid.end > grid.start:
        raise ValueError(f"{terminal!r} ends a sampling run; this grid rises from {grid.start:.6g} to {grid.end:.6g}")
    if grad and solver.adaptive:
        raise ValueError(f"{solver!r} chooses its steps from values: gradients flow through fixed-grid solvers only")
    watched = CountingDenoiser.before(problem, x, grid, cond)
    door = cast(CountingDenoiser, watched.denoiser)
    increments = _noise(solver, noise)(seed, x, ids)
    record = Record(x, grid, save)
    with torch.set_grad_enabled(grad), _bar(progress, grid.steps, solver) as advance:
        # a copy: a body of one's own may go on in place
        for step in solver.run(watched, x.clone(), grid, increments):
            record(step)
            advance(1)
            if callback is not None:
                callback(Step(*step))
        sample = record.x if terminal is None else terminal(watched, grid.end, record.x)
    bad = door.first_bad(sample)
    settings = _settings(problem, solver, x, grid, increments, terminal)
    settings.update(spacing=registry.to_dict((spacing or solver.spacing) if steps else None), cond=sorted(cond or {}))
    return record.solution(sample, door, bad, settings)


def resolve(solver: Solver | str) -> Solver:
    """A solver from itself or from `name:option=value`. Raises TypeError or ValueError."""
    if isinstance(solver, str):
        return registry.parse(Solver, solver)  # type: ignore[type-abstract]
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a Solver or a name such as 'dpm++2m', got {solver!r}")
    return solver


def _noise(solver: Solver, noise: type[Noise] | None) -> type[Noise]:
    if noise is None:
        return BrownianPath if solver.needs_path else IndependentNoise
    if solver.needs_path and noise is IndependentNoise:
        raise ValueError(
            f"{solver.name} takes a rejected step again in parts, on one path: leave noise= or give BrownianPath"
        )
    return noise


def _named(base: type[T], value: T | str | None) -> T | None:
    if isinstance(value, str):
        return registry.parse(base, value)
    if value is not None and not isinstance(value, base):
        known = registry.concrete(base)[0].__name__
        raise TypeError(f"{value!r} is no {base.__name__}: give an object, such as {known}(), or its name")
    return value


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


def check_problem(problem: Problem, solver: Solver) -> None:
    """Raise TypeError for a problem that the solver does not solve."""
    if not isinstance(problem, solver.solves):
        wanted = " or ".join(kind.__name__ for kind in solver.solves)
        raise TypeError(f"{solver!r} solves {wanted}, not {type(problem).__name__}")


def _check_state(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"the state must be a floating tensor of shape (B, ...), got {what}")
    if x.device.type == "cpu":  # elsewhere this would read the device; there the status tells
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero()
        if len(bad):
            raise ValueError(f"sample {int(bad[0])} of the start is not finite")


def _with_budget(solver: Solver, max_evaluations: int) -> Solver:
    if not solver.adaptive:
        raise TypeError(
            f"{solver!r} runs on a fixed grid: max_evaluations is for adaptive solvers, use steps= or grid="
        )
    return dataclasses.replace(solver, max_evaluations=max_evaluations)  # type: ignore[call-arg]


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
    schedule, spacing = problem.schedule, _named(Spacing, spacing)  # type: ignore[type-abstract]
    if grid is not None and not (t_start is None and t_end is None and spacing is None):
        raise TypeError("a grid holds its own ends and spacing: drop t_start=, t_end= and spacing=")
    if solver.adaptive:
        if steps is not None or spacing is not None:
            raise TypeError(f"{solver!r} chooses its own steps: drop steps= and spacing=, set its rtol and atol")
        if save is True:
            raise TypeError(f"{solver!r} has no common steps to save: give save= a list of times")
        if grid is None:
            grid = (schedule.t_start if t_start is None else t_start, schedule.t_end if t_end is None else t_end)
        grid = _with_times(grid, [] if save is False else save)
    elif (steps is None) == (grid is None):
        raise TypeError(f"{solver!r} runs on a fixed grid: give exactly one of steps= and grid=")
    elif steps is not None:
        return (spacing or solver.spacing)(schedule, steps, t_start=t_start, t_end=t_end)
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    lo, hi = schedule.domain
    outside = grid.times[(grid.times < lo) | (grid.times > hi)]
    if outside.size:
        raise ValueError(f"grid time {float(outside[0])!r} is outside the domain [{lo!r}, {hi!r}] of {schedule!r}")
    if isinstance(problem, ReverseSDE) and grid.end > grid.start:
        raise ValueError(f"{grid!r} rises: the reverse SDE runs from noise to data, on falling times")
    return grid


def _with_times(grid: Grid | Sequence[float], save: Sequence[float]) -> Grid:
    """The grid with the times to be saved among its own. Raises ValueError for one outside it."""
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    lo, hi = sorted((grid.start, grid.end))
    for t in save:
        if not lo <= t <= hi:
            raise ValueError(f"save time {float(t)!r} is outside the run, [{lo!r}, {hi!r}]")
    times = np.unique([*grid.times, *save])
    return Grid(times if grid.end > grid.start else times[::-1])


def _settings(
    problem: Problem,
    solver: Solver,
    x: Tensor,
    grid: Grid,
    noise: Noise,
    terminal: Terminal | None,
) -> dict[str, Any]:
    return {
        "solver": solver.to_dict(),
        "problem": {"type": type(problem).__name__, "eta": registry.to_dict(problem.eta)},
        "schedule": registry.to_dict(problem.schedule),
        "denoiser": problem.denoiser.to_dict(),
        "grid": grid.times.tolist(),
        "seed": noise.seed,
        "ids": list(noise.ids),
        "noise": type(noise).__name__,
        "terminal": registry.to_dict(terminal),
        "error": solver.estimates,
        "dtype": str(x.dtype),
        "device": str(x.device),
        "shape": list(x.shape),
    }


class _bar:
    """A progress bar on a terminal, nothing elsewhere; tqdm is imported only where it shows."""

    def __init__(self, wanted: bool, steps: int, solver: Solver) -> None:
        self._bar: Any = None
        if wanted and sys.stderr is not None and sys.stderr.isatty():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=None if solver.adaptive else steps, desc=solver.name, unit="step", leave=False)

    def __enter__(self) -> Callable[[int], Any]:
        return (lambda n: None) if self._bar is None else self._bar.update

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
