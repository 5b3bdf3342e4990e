"""Guidance by a classifier of noisy samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.conditions import Conditions, note_call
from scorediff._core.reprs import brief
from scorediff.denoiser import DenoiserBase, NetworkOutput
from scorediff.guidance.base import Guidance, check_scale
from scorediff.guidance.gradient import pushed, watched

__all__ = ["ClassifierGuidance"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class ClassifierGuidance(Guidance):
    """`score + scale grad log p(c | x_t)`: towards a class, by a classifier of noisy samples (arXiv:2105.05233).

    `denoiser` is the one that is guided. `log_prob(x, t, **cond)` gives `log p(c | x_t)` of shape (B,) for `x` of shape
    (B, ...) and `t` of shape (B,). It gets the conditions whose names begin with `classifier_`, without that; the
    denoiser gets the others. `scale` multiplies its gradient: 1, the default, is Bayes' rule. `time` maps the
    schedule's time to the number that the classifier is given, as in `Denoiser`; None, the default, gives it the time
    itself. An evaluation leads one batch back through the classifier.

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

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return (self.log_prob,)

    def passed_on(self, cond: Conditions) -> Conditions:
        return cond.without(_PREFIX)

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        plain = self.plain(t, x, cond)
        number = np.broadcast_to(t if self.time is None else self.time(t), len(x))
        dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
        with watched(x) as (state, keep):
            times = torch.tensor(number, dtype=dtype, device=x.device)
            given = cond.beginning(_PREFIX)
            try:
                value = self.log_prob(state, times, **given)
            except Exception as error:
                note_call(error, f"the classifier {brief(self.log_prob)}", x, t, number, given)
                raise
            if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"log_prob returned {got}: one number a sample is wanted, shape ({len(x)},)")
            if not value.requires_grad:
                raise ValueError("log_prob does not depend on x by operations that torch can differentiate")
            (gradient,) = torch.autograd.grad(value.sum(), state, create_graph=keep)
        return pushed(plain, gradient * self.scale, self.schedule, t, x, rows=len(x)), plain


_PREFIX = "classifier_"
