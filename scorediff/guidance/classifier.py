"""Guidance by a classifier of noisy samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.denoiser import DenoiserBase, ModelOutput
from scorediff.guidance.base import Guidance, check_scale
from scorediff.guidance.gradient import pushed, watched

__all__ = ["ClassifierGuidance"]


@final
@dataclass(frozen=True, eq=False)
class ClassifierGuidance(Guidance):
    """`score + scale grad log p(c | x_t)`: a classifier of noisy samples pulls towards a class (arXiv:2105.05233).

    `log_prob(x, t, **cond)` gives `log p(c | x_t)` of shape (B,) for `t` of shape (B,), the schedule's time unless
    `time` maps it to another number, as in `Denoiser`. It gets the conditions whose names begin with `classifier_`,
    without that; the denoiser gets the others. An evaluation leads one batch back through the classifier.

    Raises TypeError or ValueError for a `log_prob` that gives anything but one number a sample that depends on `x`.
    """

    denoiser: DenoiserBase
    log_prob: Callable[..., Tensor]
    scale: float = 1.0
    time: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale)
        if not callable(self.log_prob):
            raise TypeError(f"log_prob must be a callable (x, t, **cond), got {type(self.log_prob).__name__}")

    def own(self, cond: Conditions) -> Conditions:
        return cond.without(_PREFIX)

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[ModelOutput, ModelOutput]:
        plain = self.plain(t, x, cond)
        number = np.broadcast_to(t if self.time is None else self.time(t), len(x))
        dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
        with watched(x) as (state, keep):
            told = torch.tensor(number, dtype=dtype, device=x.device)
            value = self.log_prob(state, told, **cond.beginning(_PREFIX))
            if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"log_prob returned {got}: one number a sample is wanted, shape ({len(x)},)")
            if not value.requires_grad:
                raise ValueError("log_prob does not depend on x by operations that torch can differentiate")
            (gradient,) = torch.autograd.grad(value.sum(), state, create_graph=keep)
        guided = pushed(plain, gradient * self.scale, self.schedule, t, x)
        guided.rows += len(x)
        guided.vjps += 1
        return guided, plain


_PREFIX = "classifier_"
