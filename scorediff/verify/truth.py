"""The true trajectories that an order is measured against."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, final

from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.backends import SciPy
from scorediff.coordinates import Angle, LogSNR
from scorediff.denoiser import DenoiserBase, PairOutput
from scorediff.problems import ProbabilityFlow
from scorediff.schedules import Schedule
from scorediff.solvers import RK45, solve
from scorediff.targets import Gaussian, Target

__all__ = ["SAMPLES", "known_truth"]

#: How many trajectories are compared.
SAMPLES = 16


def known_truth(
    target: Target,
    schedule: Schedule,
    span: tuple[float, float],
    seed: int,
    guidance: Callable[[DenoiserBase], DenoiserBase] | None,
) -> tuple[Tensor, float]:
    """Where the flow takes `SAMPLES` samples of the marginal at the first time of `span`, of shape (SAMPLES, ...), and
    the error up to which that is known: in closed form for a Gaussian, else by two routes that do not share their
    steps.
    """
    if guidance is not None:  # the network behind it would be kept too
        return _truth.__wrapped__(target, schedule, span, seed, guidance)
    try:
        return _truth(target, schedule, span, seed)
    except TypeError:  # a user-defined schedule that has no hash: nothing is kept
        return _truth.__wrapped__(target, schedule, span, seed)


@lru_cache(maxsize=64)
def _truth(
    target: Target,
    schedule: Schedule,
    span: tuple[float, float],
    seed: int,
    guidance: Callable[[DenoiserBase], DenoiserBase] | None = None,
) -> tuple[Tensor, float]:
    start = target.at(schedule, span[0]).sample(SAMPLES, seed)
    if guidance is None and isinstance(target, Gaussian):
        return target.flow(schedule, *span, start), 0.0
    exact = target.denoiser(schedule)
    # a guided equation may have kinks and jumps, which a method of order 8 takes badly, and samples one by one well
    denoiser, method, x = (
        (_AsOne(exact), partial(SciPy, "DOP853", rtol=1e-13, atol=1e-13), start[None])
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
