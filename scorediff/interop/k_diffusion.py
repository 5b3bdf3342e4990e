"""Models of k-diffusion as denoisers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from scorediff.denoiser import Denoiser
from scorediff.interop.wrapping import Wrapped
from scorediff.predictions import DataPrediction
from scorediff.schedules import EDM

__all__ = ["from_k_diffusion"]


def from_k_diffusion(
    model: Callable[..., Tensor], *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Denoiser:
    """A model of k-diffusion, `(x, sigma, **cond) -> x0`, on EDM's schedule: its time is sigma (arXiv:2206.00364).

    `x` and x0 of shape (B, ...), `sigma` of shape (B,) in the dtype of `x`, as k-diffusion's samplers give it. The ends
    of sigma are by default the model's own `sigma_min` and `sigma_max`, if it has them. A model that rounds
    sigma to a table (`quantize=True`) jumps halfway between its rows: there x0 of unit variance is off by up to 1e-3 on
    DDPM's table, which no solver makes good. Sigmas of the table are not rounded: `scorediff.interop.edm.Rounded` makes
    grids of them.

    Raises TypeError for a model that is not callable, ValueError without 0 < sigma_min < sigma_max < inf.

    >>> import torch
    >>> model = from_k_diffusion(lambda x, sigma: x / (1 + sigma[:, None] ** 2), sigma_min=0.01, sigma_max=80)
    >>> x = torch.ones(1, 3)
    >>> data, noise = model(2.0, x)
    >>> data, noise
    (tensor([[0.2000, 0.2000, 0.2000]]), tensor([[0.4000, 0.4000, 0.4000]]))
    """
    net = Wrapped(model, _call)
    lo, hi = _end(model, "sigma_min", sigma_min), _end(model, "sigma_max", sigma_max)
    if not 0 < lo < hi < np.inf:
        raise ValueError(
            f"sigma from {lo:g} to {hi:g}: 0 < sigma_min < sigma_max < inf is wanted; give sigma_min= and sigma_max="
        )
    return Denoiser(net, EDM(lo, hi), DataPrediction())


def _call(model: Callable[..., Tensor], x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
    # these models scale x by functions of sigma: in float32 they would hand float32 to a network in half precision
    return model(x, sigma.to(x.dtype), **cond)


def _end(model: Any, name: str, given: float | None) -> float:
    value = getattr(model, name, None) if given is None else given
    if value is None:
        raise ValueError(f"{type(model).__name__} has no {name}: give {name}=, the end of the noise it was trained on")
    return float(value)
