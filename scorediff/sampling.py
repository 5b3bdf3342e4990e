"""From noise to samples and back: `sample`, `encode`, and the starts they take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.arrays import device_of
from scorediff._core.conditions import Conditions
from scorediff._core.warn import warn
from scorediff.denoiser import DenoiserBase
from scorediff.noise import Noise, start_noise
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.schedules import Schedule
from scorediff.solvers.base import Solver, Step
from scorediff.solvers.gain import warn_of_gain
from scorediff.solvers.plan import Plan, prepare
from scorediff.solvers.solution import Solution, merged
from scorediff.solvers.solve import carry
from scorediff.solvers.terminal import Terminal
from scorediff.spacings import Grid, Spacing

__all__ = ["add_noise", "encode", "prior", "sample"]

_RANGE, _SIZE = 5.0, 3.0  # data outside [-5, 5], and not by a few entries: those even in it have a size of 2.9
_TAIL = 7.0  # of a standard normal: one entry in 10^12 lies beyond


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
    """The noise that stands for `x_t` at `t_start`, `sigma(t_start) z` with z standard normal, of `shape` (B, ...).

    `t_start` defaults to the schedule's. Row i is sample `ids[i]` (i by default) of `seed`, whatever the batch. `dtype`
    is float32 by default.

    Raises ValueError for a time outside the schedule's domain, for a shape or a device that is none, and where the
    dtype does not hold the noise, TypeError for a dtype that is not floating.

    >>> prior(EDM(sigma_max=80.0), (1000, 8)).std()
    tensor(8...)
    """
    t_start = schedule.t_start if t_start is None else _inside(schedule, t_start)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"noise wants a floating dtype, such as torch.float32, got {dtype!r}")
    like = torch.empty(_sizes(shape), device=device_of(device), dtype=dtype or torch.float32)
    std = float(schedule.prior_std(t_start))
    _check_range(std, like.dtype, f"t_start = {t_start:.6g}")
    return start_noise(seed, like, ids) * std


def add_noise(schedule: Schedule, x0: Tensor, t: float, *, seed: int = 0, ids: Sequence[int] | None = None) -> Tensor:
    """`alpha_t x0 + sigma_t eps`, of the shape (B, ...) of `x0`: an image-to-image start for `sample(..., x=...,
    t_start=t)`.

    Row i sees the noise of sample `ids[i]` (i by default) of `seed`. Raises ValueError for a time outside the
    schedule's domain, TypeError for images that are not floating.
    """
    if not x0.is_floating_point():
        raise TypeError(f"images of {x0.dtype} cannot hold noise: scale them to [-1, 1] as floats first")
    t = _inside(schedule, t)
    _check_range(float(schedule.sigma(t)), x0.dtype, f"t = {t:.6g}")
    _warn_of_scale(schedule, x0, None)
    return x0 * float(schedule.alpha(t)) + start_noise(seed, x0, ids) * float(schedule.sigma(t))


def sample(
    problem: Problem | DenoiserBase,
    shape: Sequence[int] | None = None,
    solver: Solver | str | None = None,
    *,
    x: Tensor | None = None,
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
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    grad: bool = False,
    batch_size: int | None = None,
    callback: Callable[[Step], None] | None = None,
    progress: bool = True,
) -> Solution:
    """Samples of `shape` (B, ...) from the prior at `t_start`, or the ones that start at `x`, by `solver`.

    `device` and `dtype` default to the network's (float32 around one in half precision, and for a callable without
    parameters). `batch_size` samples run at a time; which ones run together changes nothing but the network's own
    rounding. The other arguments are those of `solve`: exactly one of `steps`, `evaluations` and `grid` for a solver on
    a fixed grid, none of them for an adaptive one. A run of few steps that makes errors of the network more than ten
    times as large is warned of, as `solvers.GainWarning`.

    Raises TypeError unless exactly one of `shape` and `x` is given; TypeError or ValueError, naming the value and the
    way out, for whatever else cannot be run.

    >>> model = GaussianMixture((0.5, 0.5), ((-1.0,), (1.0,)), 0.01).denoiser(VPLinear())
    >>> sample(model, (4, 1), "dpm++2m", steps=20, seed=0).x.round(decimals=1).flatten()
    tensor([...])
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
    _check_falling(plan.grid)
    warn_of_gain(plan)
    whole = _whole(shape, x)
    rows = _sample_ids(ids, whole[0])
    conditions = Conditions.of(cond or {}, whole[0])
    how: dict[str, Any] = {"seed": seed, "noise": noise, "grad": grad, "callback": callback, "progress": progress}
    parts = []
    for part in _batches(whole[0], batch_size):
        if x is None:
            placed = _placement(plan, device, dtype)
            size = (len(rows[part]), *whole[1:])
            start = prior(plan.problem.schedule, size, t_start=plan.grid.start, seed=seed, ids=rows[part], **placed)
        else:
            start = x[part].to(device=device_of(device), dtype=dtype)
        parts.append(carry(plan, start, ids=rows[part], cond=conditions.of_rows(part), **how))
    return merged(parts)


def encode(
    problem: ProbabilityFlow | DenoiserBase,
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
    grad: bool = False,
    callback: Callable[[Step], None] | None = None,
    progress: bool = True,
) -> Solution:
    """The latent at `t_start` of `x` of shape (B, ...) at `t_end`: the same solver on the reversed grid.

    `problem` is the flow, or a denoiser, taken for its flow. `grid` is the sampling grid that is reversed. The other
    arguments are those of `solve`; there is no terminal map, since the run does not end at the data.

    Raises TypeError for anything but the flow, and what `solve` raises.

    >>> flow = ProbabilityFlow(Gaussian().denoiser(VPLinear()))
    >>> x = Gaussian().sample(3)
    >>> z = encode(flow, x, "rk45:rtol=1e-6,atol=1e-6").x
    >>> bool((sample(flow, x=z, solver="rk45:rtol=1e-6,atol=1e-6").x - x).abs().max() < 1e-4)
    True
    """
    if isinstance(problem, ReverseSDE):
        raise TypeError("only the probability flow can be run backwards, not ReverseSDE")
    plan = prepare(
        problem if isinstance(problem, ProbabilityFlow) else ProbabilityFlow(problem),
        solver,
        steps=steps,
        evaluations=evaluations,
        grid=grid,
        spacing=spacing,
        t_start=t_start,
        t_end=t_end,
        save=save,
        max_evaluations=max_evaluations,
    )
    _check_falling(plan.grid)
    _warn_of_scale(plan.problem.schedule, x, plan.grid.end)
    return carry(
        plan.reversed(),
        x,
        seed=seed,
        ids=ids,
        noise=noise,
        cond=cond,
        grad=grad,
        callback=callback,
        progress=progress,
    )


def _whole(shape: Sequence[int] | None, x: Tensor | None) -> tuple[int, ...]:
    """The shape (B, ...) of all samples."""
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(f"x= must be a tensor of shape (B, ...), got {type(x).__name__}")
    if x is not None and shape is None:
        return tuple(x.shape)
    if x is None and shape is not None:
        return _sizes(shape)
    raise TypeError("give exactly one of shape= (samples from the prior) and x= (your own start)")


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` as (B, ...). Raises TypeError where it is not a row of whole numbers, ValueError for one that is negative
    and where there is no room for a sample.
    """
    try:
        sizes = tuple(index(n) for n in shape)
    except TypeError:
        raise TypeError(f"shape = {shape!r}: whole numbers (B, ...) are wanted, the number of samples first") from None
    if len(sizes) < 2 or min(sizes) < 0 or 0 in sizes[1:]:
        raise ValueError(f"shape = {sizes}: (B, ...) is wanted, the number of samples and then the shape of one")
    return sizes


def _sample_ids(ids: Sequence[int] | None, count: int) -> list[int]:
    every = list(range(count)) if ids is None else [index(i) for i in ids]
    if len(every) != count:
        raise ValueError(f"{len(every)} sample ids for {count} samples: give one id per sample")
    return every


def _batches(count: int, batch_size: int | None) -> Iterator[slice]:
    """The rows of each batch, one batch at least."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: at least 1 is needed")
    size = batch_size or max(count, 1)
    for first in range(0, max(count, 1), size):
        yield slice(first, first + size)


def _inside(schedule: Schedule, t: float) -> float:
    lo, hi = schedule.domain
    if not lo <= t <= hi:
        raise ValueError(f"t = {t} is outside the domain [{lo!r}, {hi!r}] of {schedule!r}")
    return float(t)


def _check_range(std: float, dtype: torch.dtype, where: str) -> None:
    """Raise ValueError where noise of this standard deviation may be beyond what a dtype holds."""
    largest = torch.finfo(dtype).max
    if _TAIL * std > largest:
        raise ValueError(
            f"noise of standard deviation {std:g}, that at {where}, does not fit {dtype}, which ends at {largest:g}: "
            "give it in float32 (dtype=torch.float32), or start at less noise"
        )


def _warn_of_scale(schedule: Schedule, x: Tensor, t: float | None) -> None:
    """Warn of data `x` of shape (B, ...), with the noise of time `t` on them or without any (None), that are far from
    unit size: pixels from 0 to 255 above all. One read of the device.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel() or x.device.type == "meta":
        return
    unit = 1.0 if t is None else max(1.0, float(np.hypot(schedule.alpha(t), schedule.sigma(t))))
    values = x.detach()
    size = values.square().mean(dtype=torch.float64).sqrt()
    low, high, size = torch.stack([values.min().double(), values.max().double(), size]).tolist()
    if size > _SIZE * unit and max(-low, high) > _RANGE * unit:
        warn(
            f"data from {low:.4g} to {high:.4g}, {size:.3g} in root mean square: networks are trained on data of about "
            f"{unit:.3g}, so scale these as the network's were, such as x / 127.5 - 1 for pixels from 0 to 255 (where "
            "they are right, warnings.filterwarnings('ignore', 'data from'))"
        )


def _check_falling(grid: Grid) -> None:
    if grid.end > grid.start:
        raise ValueError(f"{grid!r} rises: give the falling grid of a sampling run (encode() reverses it)")


def _placement(plan: Plan, device: Any, dtype: torch.dtype | None) -> dict[str, Any]:
    """Device and dtype of a start from the prior."""
    denoiser = plan.problem.denoiser
    own = denoiser.dtype
    half = own in (torch.float16, torch.bfloat16)
    return {
        "device": denoiser.device if device is None else device,
        "dtype": dtype or (torch.float32 if own is None or half else own),
    }
