"""Gradients with respect to the state, and what they add to a model output."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import per_sample
from scorediff.denoiser import NetworkOutput
from scorediff.schedules import Schedule

__all__ = ["pushed", "watched"]


@contextmanager
def watched(x: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """The state as one that gradients are taken with respect to, and whether these are to have gradients themselves.

    Raises ValueError in inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "a gradient with respect to the state is wanted: run under torch.no_grad(), not inference_mode()"
        )
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        yield (x if x.requires_grad and keep else x.detach().requires_grad_()), keep


def pushed(
    plain: NetworkOutput, gradient: Tensor, schedule: Schedule, t: Any, x: Tensor, *, rows: int = 0
) -> NetworkOutput:
    """What gives `score + gradient` where `plain` gives the score; `gradient` of the shape (B, ...) of `x`.

    The gradient took one more batch led back, and `rows` more rows through a network. Raises ValueError where alpha is
    0.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if np.any(np.asarray(alpha) == 0):
        raise ValueError(
            f"a gradient says nothing of the data where alpha is 0: start at t_start = {schedule.t_start:.6g}"
        )
    # eps - sigma g and x0 + (sigma^2 / alpha) g, so v = alpha eps - sigma x0 loses sigma (alpha + sigma^2 / alpha) g
    made = plain.in_v(schedule, t, x)
    lost = gradient * per_sample(sigma * (alpha + sigma**2 / alpha), x)
    return made.with_output(made.output - lost, rows=rows, vjps=1)
