"""Data kept within bounds: what samplers do to the output of their network, as an equation."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff._core.states import per_sample
from scorediff.denoiser import DenoiserBase, NetworkOutput
from scorediff.guidance.base import Guidance
from scorediff.schedules import Schedule

__all__ = ["Clipped", "DynamicThreshold"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Clipped(Guidance):
    """The data clipped to `[-bound, bound]` (arXiv:2006.11239's sampler), the noise to agree with it.

    `denoiser` is the one whose data are clipped, `bound` in the units of the data: 1, the default, for images in
    [-1, 1]. Another equation than the network's, with kinks: the bias does not fall with the steps, and no solver keeps
    an order above 1. Raises ValueError for a bound that is not positive.
    """

    denoiser: DenoiserBase
    bound: float = 1.0
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bound(self.bound)

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        plain = self.plain(t, x, cond)
        return _with_data(plain[0].clamp(-self.bound, self.bound), plain, self.schedule, t, x), plain


@final
@dataclass(frozen=True, eq=False, repr=False)
class DynamicThreshold(Guidance):
    """The data of each sample clipped to `[-s, s]` and scaled by `bound / s`, where `s` is a quantile of its absolute
    values, or `bound` if that is larger (arXiv:2205.11487).

    `denoiser` is the one whose data are clipped. `quantile` is the fraction of the entries of a sample that `s` is no
    smaller than: 0.995, the default, as in Imagen. `bound` is in the units of the data: 1, the default, for images in
    [-1, 1]. Another equation than the network's, with kinks, as `Clipped`. Raises ValueError for a quantile outside
    (0, 1], and for a bound that is not positive.
    """

    denoiser: DenoiserBase
    quantile: float = 0.995
    bound: float = 1.0
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bound(self.bound)
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile = {self.quantile}: of the entries of a sample, above 0 and at most 1")

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        plain = self.plain(t, x, cond)
        data = plain[0]
        sizes = data.flatten(1).abs()
        # the smallest that this fraction of the entries does not exceed; torch.quantile takes no large samples
        s = sizes.kthvalue(math.ceil(self.quantile * sizes.shape[1]), dim=1).values.clamp(min=self.bound)
        s = s.reshape(-1, *(1,) * (x.ndim - 1))
        return _with_data(data.clamp(-s, s) * (self.bound / s), plain, self.schedule, t, x), plain


def _check_bound(bound: float) -> None:
    if not bound > 0:
        raise ValueError(f"bound = {bound}: the largest absolute value of the data, above 0")


def _with_data(data: Tensor, plain: NetworkOutput, schedule: Schedule, t: Any, x: Tensor) -> NetworkOutput:
    # data that change by d and the noise that agrees, by -alpha d / sigma, change v by -(alpha^2 + sigma^2) d / sigma;
    # where sigma is 0 the state is the data, whatever is said of them
    alpha, sigma = np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))
    factor = np.divide(alpha**2 + sigma**2, sigma, out=np.zeros(np.shape(sigma)), where=sigma > 0)[()]
    made = plain.in_v(schedule, t, x)
    return made.with_output(made.output - (data - plain[0]) * per_sample(factor, x))
