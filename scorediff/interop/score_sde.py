"""Networks of score_sde as denoisers."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from scorediff.denoiser import Denoiser
from scorediff.predictions import NoisePrediction, ScorePrediction
from scorediff.schedules import VE, Schedule, SubVP, VPLinear

__all__ = ["from_score_sde"]


def from_score_sde(net: Callable[..., Tensor], schedule: Schedule) -> Denoiser:
    """A network of yang-song/score_sde, `(x, labels) -> output`, trained in continuous time (arXiv:2011.13456).

    `x` and the output of shape (B, ...), `labels` of shape (B,). On `VPLinear` and `SubVP` the labels are 999 t, and
    the output over -sigma is the score; on `VE` the labels are sigma(t), and the output is the score. Its samplers end
    at t = 1e-3 on both of the former and at 1e-5 on `VE`; its networks on `VE` were trained on pixels from 0 to 1.

    Raises TypeError for a network that is not callable, and for another schedule.

    >>> import torch
    >>> model = from_score_sde(lambda x, labels: labels[:, None] + 0 * x, VPLinear())
    >>> x = torch.zeros(1, 1)
    >>> model(0.5, x)[1]
    tensor([[499.5000]])
    """
    if isinstance(schedule, VPLinear | SubVP):
        # score = -net(x, 999 t) / sigma, and score = -eps / sigma
        return Denoiser(net, schedule, NoisePrediction(), time=_labels)
    if isinstance(schedule, VE):
        # score = net(x, sigma)
        return Denoiser(net, schedule, ScorePrediction(), time=schedule.sigma)
    raise TypeError(
        f"schedule = {schedule!r}: score_sde trains in continuous time on VPLinear(), SubVP() and VE(); on another, "
        "such as a table of betas, say what it predicts and at which time: Denoiser(net, schedule, prediction, time=)"
    )


def _labels(t: Any) -> Any:
    return 999 * t
