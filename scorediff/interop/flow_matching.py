"""Velocity networks of flow matching and rectified flow as denoisers."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from scorediff.denoiser import Denoiser
from scorediff.predictions import FlowPrediction, Negated
from scorediff.schedules import RectifiedFlow

__all__ = ["from_flow_matching"]


def from_flow_matching(
    net: Callable[..., Tensor], *, data_at: int, shift: float = 1.0, time_scale: float = 1.0
) -> Denoiser:
    """A velocity network `(x, t, **cond) -> dx/dt` on the straight line from data to noise.

    `x` and dx/dt of shape (B, ...), `t` of shape (B,). With `data_at=0` its time 0 is data and 1 noise, as in rectified
    flow and Stable Diffusion 3 (arXiv:2209.03003, arXiv:2403.03206); with `data_at=1` time 0 is noise and 1 data, as in
    flow matching, facebookresearch/flow_matching and torchcfm (arXiv:2210.02747). The network is given its time times
    `time_scale` (1000 for one that takes 0 .. 1000). `shift` is that of our schedule: where uniform steps lie. A
    network that was trained on coupled pairs, by optimal transport or reflow, has a flow and no score: it is not for
    `ReverseSDE`. One called `(t, x)` goes in as `Wrapped(net, lambda net, x, t, **cond: net(t, x, **cond))`.

    Raises TypeError for a network that is not callable, ValueError for another `data_at` or a wrong scale or shift.

    >>> import torch
    >>> model = from_flow_matching(lambda x, t: x / t[:, None], data_at=0)    # data 0: x = t eps, dx/dt = eps = x / t
    >>> x = torch.ones(1, 1)
    >>> [float(part) for part in model(0.5, x)]
    [0.0, 2.0]
    """
    if isinstance(data_at, bool) or data_at not in (0, 1):
        raise ValueError(
            f"data_at = {data_at!r}: give the network's time of data, 0 where its time 1 is noise (rectified flow), "
            "1 where its time 0 is noise (flow matching)"
        )
    if not 0 < time_scale < np.inf:
        raise ValueError(f"time_scale = {time_scale!r}: give a positive number, 1 for a network that takes 0 .. 1")
    schedule = RectifiedFlow(shift)
    if data_at == 0:
        # x_u = (1 - u) x0 + u eps, dx/du = eps - x0, and sigma = u
        return Denoiser(net, schedule, FlowPrediction(), time=lambda t: time_scale * schedule.sigma(t))
    # x_s = s x0 + (1 - s) eps, dx/ds = x0 - eps, and alpha = s
    return Denoiser(net, schedule, Negated(FlowPrediction()), time=lambda t: time_scale * schedule.alpha(t))
