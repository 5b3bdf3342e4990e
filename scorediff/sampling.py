"""From noise to samples and back: `sample`, `encode`, and the starts they take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.noise import Noise, start_noise
from scorediff.problems import ProbabilityFlow, Problem
from scorediff.schedules import Schedule
from scorediff.solvers.base import Solver, Step
from scorediff.solvers.solution import Solution, merged
from scorediff.solvers.solve import check_problem, resolve, run_grid, solve
from scorediff.solvers.terminal import Terminal
from scorediff.spacings import Grid, Spacing

__all__ = ["add_noise", "encode", "prior", "sample"]


def prior(
    schedule: Schedule,
    shape: Sequence[int],
    *,
    t_start: float | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The noise that stands for `x_t` at `t_start`, `sigma(t_start) z`, of `shape` (B, ...): sample `ids[i]` of `seed`
    in row i.
    """
    t_start = schedule.t_start if t_start is None else _inside(schedule, t_start)
    like = torch.empty(tuple(shape), device=device, dtype=dtype or torch.float32)
    if not like.is_floating_point():
        raise TypeError(f"noise wants a floating dtype, got {dtype}")
    std = float(schedule.prior_std(t_start))
    return start_noise(seed, like, ids) * std


def add_noise(schedule: Schedule, x0: Tensor, t: float, *, seed: int = 0, ids: Sequence[int] | None = None) -> Tensor:
    """`alpha_t x0 + sigma_t eps`, of the shape (B, ...) of `x0`: an image-to-image start for `sample(..., x=...,
    t_start=t)`.
    """
    if not x0.is_floating_point():
        raise TypeError(f"images of {x0.dtype} cannot hold noise: scale them to [-1, 1] as floats first")
    t = _inside(schedule, t)
    return x0 * float(schedule.alpha(t)) + start_noise(seed, x0, ids) * float(schedule.sigma(t))


def sample(
    problem: Problem,
    shape: Sequence[int] | None = None,
    solver: Solver | str = "",
    *,
    x: Tensor | None = None,
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
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    grad: bool = False,
    batch_size: int | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = True,
) -> Solution:
    """Samples of `shape` (B, ...) from the prior at `t_start`, or the ones that start at `x`; see `solve` for what it
    takes.

    `device` and `dtype` default to the network's (float32 around one in half precision, and for a callable without
    parameters). `batch_size` samples run at a time; which ones run together changes nothing but the network's own
    rounding.

    Raises TypeError unless exactly one of `shape` and `x` is given.
    """
    solver = resolve(solver)
    check_problem(problem, solver)
    # the start stands at the grid's first node: refuse a bad grid before drawing anything
    start = _falling(run_grid(problem, solver, steps, grid, spacing, t_start, t_end, save)).start
    parts = [
        solve(
            problem,
            state,
            solver,
            steps=steps,
            grid=grid,
            spacing=spacing,
            t_start=t_start,
            t_end=t_end,
            save=save,
            max_evaluations=max_evaluations,
            seed=seed,
            ids=rows,
            noise=noise,
            cond=conditions,
            terminal=terminal,
            callback=callback,
            progress=progress,
            grad=grad,
        )
        for state, rows, conditions in _batches(
            problem, shape, x, start, seed, ids, cond or {}, device, dtype, batch_size
        )
    ]
    return merged(parts)


def _batches(
    problem: Problem,
    shape: Sequence[int] | None,
    x: Tensor | None,
    start: float,
    seed: int,
    ids: Sequence[int] | None,
    cond: Mapping[str, Any],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    batch_size: int | None,
) -> Iterator[tuple[Tensor, list[int], Conditions]]:
    """The starts of a run, at most `batch_size` at a time, with their sample ids and conditions."""
    if (shape is None) == (x is None):
        raise TypeError("give exactly one of shape= (samples from the prior) and x= (your own start)")
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(f"x= must be a tensor of shape (B, ...), got {type(x).__name__}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: at least 1 is needed")
    whole = tuple(shape) if shape is not None else tuple(x.shape)  # type: ignore[union-attr]
    count = whole[0]
    every = list(range(count)) if ids is None else [index(i) for i in ids]
    if len(every) != count:
        raise ValueError(f"{len(every)} sample ids for {count} samples: give one id per sample")
    size, conditions = batch_size or max(count, 1), Conditions.of(cond, count)
    placed = _placement(problem, device, dtype)
    for first in range(0, max(count, 1), size):
        rows = slice(first, first + size)
        if x is None:
            batch = (len(every[rows]), *whole[1:])
            state = prior(problem.schedule, batch, t_start=start, seed=seed, ids=every[rows], **placed)
        else:
            state = x[rows].to(device=device, dtype=dtype)
        yield state, every[rows], conditions.of_rows(rows)


def encode(
    problem: ProbabilityFlow,
    x: Tensor,
    solver: Solver | str,
    *,
    steps: int | None = None,
    grid: Grid | Sequence[float] | None = None,
    spacing: Spacing | str | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    **options: Any,
) -> Solution:
    """The latent at `t_start` of `x` of shape (B, ...) at `t_end`: the same solver on the reversed grid.

    `grid` is the sampling grid that is reversed. Other options are those of `solve`. Raises TypeError for anything but
    the flow.
    """
    if not isinstance(problem, ProbabilityFlow):
        raise TypeError(f"only the probability flow can be run backwards, not {type(problem).__name__}")
    solver = resolve(solver)
    forward = _falling(run_grid(problem, solver, steps, grid, spacing, t_start, t_end))
    return solve(problem, x, solver, grid=forward.reversed(), **options)


def _inside(schedule: Schedule, t: float) -> float:
    lo, hi = schedule.domain
    if not lo <= t <= hi:
        raise ValueError(f"t = {t} is outside the domain [{lo!r}, {hi!r}] of {schedule!r}")
    return float(t)


def _falling(grid: Grid) -> Grid:
    if grid.end > grid.start:
        raise ValueError(f"{grid!r} rises: give the falling grid of a sampling run (encode() reverses it)")
    return grid


def _placement(problem: Problem, device: Any, dtype: torch.dtype | None) -> dict[str, Any]:
    own = problem.denoiser.dtype
    half = own in (torch.float16, torch.bfloat16)
    return {
        "device": problem.denoiser.device if device is None else device,
        "dtype": dtype or (torch.float32 if own is None or half else own),
    }
