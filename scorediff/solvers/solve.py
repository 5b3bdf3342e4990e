"""The driver: one problem, one solver, one state, carried along one grid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from scorediff._core.progress import bar
from scorediff.denoiser import DenoiserBase
from scorediff.noise import BrownianPath, IndependentNoise, Noise
from scorediff.problems import Problem
from scorediff.solvers.base import Solver, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.plan import Plan, prepare, problem_for, resolve, run_grid
from scorediff.solvers.record import Record
from scorediff.solvers.solution import Solution
from scorediff.solvers.terminal import Terminal
from scorediff.spacings import Grid, Spacing

__all__ = ["carry", "problem_for", "resolve", "run_grid", "solve"]


def solve(
    problem: Problem | DenoiserBase,
    x: Tensor,
    solver: Solver | str | None = None,
    *,
    steps: int | None = None,
    evaluations: int | None = None,
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
    grad: bool = False,
    callback: Callable[[Step], None] | None = None,
    progress: bool = True,
) -> Solution:
    """Carry `x` of shape (B, ...) along `problem` with `solver`; solver, spacing and terminal may go by their names.

    `problem` is a `ProbabilityFlow`, a `ReverseSDE`, or a denoiser, which is taken for its flow (for the reverse SDE
    with eta = 1 where the solver solves only that).

    A fixed-grid solver takes exactly one of `steps`, `evaluations` (per sample: the most steps whose cost fits,
    starting procedure and terminal map included) and `grid`; `spacing` lays the steps out, by default the solver's own
    way. An adaptive one takes none of them, and may take `max_evaluations` per sample. `t_start`, `t_end` default to
    the schedule's.

    `save` keeps states: True for every node of a fixed grid, or a list of times (nodes of a fixed grid; any for an
    adaptive solver). Sample `ids[i]` (i by default) of `seed` sees the same `noise` in any batch (`BrownianPath`: on
    any grid). `cond` goes to the network. `terminal` is one evaluation more, to sigma = 0; left out, there is none.
    With `grad` gradients flow (fixed grids). `callback` gets every `Step`. `progress` shows a bar on a terminal.

    Raises TypeError or ValueError, naming the value and the way out, for what cannot be run. What fails on the way is
    in the solution's status: `Solution.check()` raises it.

    >>> flow = ProbabilityFlow(Gaussian().denoiser(VPLinear()))
    >>> solve(flow, prior(VPLinear(), (4, 2)), "dpm++2m", evaluations=10).evaluations
    array([10, 10, 10, 10])
    """
    plan = prepare(
        problem,
        solver,
        steps=steps,
        evaluations=evaluations,
        grid=grid,
        spacing=spacing,
        t_start=t_start,
        t_end=t_end,
        save=save,
        max_evaluations=max_evaluations,
        terminal=terminal,
    )
    return carry(plan, x, seed=seed, ids=ids, noise=noise, cond=cond, grad=grad, callback=callback, progress=progress)


def carry(
    plan: Plan,
    x: Tensor,
    *,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    noise: type[Noise] | None = None,
    cond: Mapping[str, Any] | None = None,
    grad: bool = False,
    callback: Callable[[Step], None] | None = None,
    progress: bool = True,
) -> Solution:
    """Carry `x` of shape (B, ...) along a plan; the other arguments are those of `solve`."""
    _check_state(x)
    plan.check(x.dtype, grad)
    solver, grid = plan.solver, plan.grid
    watched = CountingDenoiser.before(plan.problem, x, grid, cond)
    counter = cast(CountingDenoiser, watched.denoiser)
    counter.step = None if solver.adaptive else 1
    increments = _noise(solver, noise)(seed, x, ids)
    record = Record(x, grid, plan.save)
    total = None if solver.adaptive else grid.steps
    with torch.set_grad_enabled(grad), bar(progress, total, unit="step", label=solver.name) as steps:
        # a copy: a user-defined body may go on in place
        for step in solver.run(watched, x.clone(), grid, increments) if len(x) else ():  # no samples, nothing to ask
            record(step)
            counter.step = counter.step and counter.step + 1
            steps.advance()
            if callback is not None:
                callback(Step(*step))
        terminal = plan.terminal if len(x) else None
        sample = record.x if terminal is None else terminal(watched, grid.end, record.x)
    settings = plan.settings() | {
        "denoiser": plan.problem.denoiser.to_dict(),
        "seed": increments.seed,
        "ids": list(increments.ids),
        "noise": type(increments).__name__,
        "cond": sorted(cond or {}),
        "dtype": str(x.dtype),
        "device": str(x.device),
        "shape": list(x.shape),
    }
    return record.solution(sample, counter, settings)


def _noise(solver: Solver, noise: type[Noise] | None) -> type[Noise]:
    if noise is None:
        return BrownianPath if solver.needs_path else IndependentNoise
    if solver.needs_path and noise is IndependentNoise:
        raise ValueError(
            f"{solver.name} takes a rejected step again in parts, on one path: leave noise= or give BrownianPath"
        )
    return noise


def _check_state(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or 0 in x.shape[1:]:
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"the state must be a floating tensor of shape (B, ...), got {what}")
    if x.device.type == "cpu":  # elsewhere this would read the device; there the status tells
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero()
        if len(bad):
            raise ValueError(f"sample {int(bad[0])} of the start is not finite")
