"""Data kept within bounds: what samplers do to their network's reading, as an equation of its own."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor

from scorediff.denoiser import DenoiserLike, Reading
from scorediff.guidance.base import Guidance
from scorediff.predictions import DataPrediction

__all__ = ["Clipped", "DynamicThreshold"]


@final
@dataclass(frozen=True, eq=False)
class Clipped(Guidance):
    """The data clipped to `[-bound, bound]` (arXiv:2006.11239's sampler), the noise to agree with it.

    Another equation than the network's, with kinks: the bias does not fall with the steps, and no solver keeps an order
    above 1. Raises ValueError for a bound that is not positive.
    """

    denoiser: DenoiserLike
    bound: float = 1.0
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_bound(self.bound)

    def pair(self, t: Any, x: Tensor, **cond: Any) -> tuple[Reading, Reading]:
        plain = self.plain(t, x, **cond)
        return _of_data(plain[0].clamp(-self.bound, self.bound), plain, self, t, x), plain


@final
@dataclass(frozen=True, eq=False)
class DynamicThreshold(Guidance):
    """The data of each sample clipped to `[-s, s]` and scaled by `bound / s`, where `s` is the `share`-quantile of its
    absolute values, or `bound` if that is larger (arXiv:2205.11487).

    Another equation than the network's, with kinks, as `Clipped`. Raises ValueError for a share outside (0, 1].
    """

    denoiser: DenoiserLike
    share: float = 0.995
    bound: float = 1.0
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_bound(self.bound)
        if not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share}: of the entries of a sample, above 0 and at most 1")

    def pair(self, t: Any, x: Tensor, **cond: Any) -> tuple[Reading, Reading]:
        plain = self.plain(t, x, **cond)
        data = plain[0]
        sizes = data.flatten(1).abs()
        # the smallest of which this share of the entries is no larger; torch.quantile takes no large samples
        s = sizes.kthvalue(math.ceil(self.share * sizes.shape[1]), dim=1).values.clamp(min=self.bound)
        s = s.reshape(-1, *(1,) * (x.ndim - 1))
        return _of_data(data.clamp(-s, s) * (self.bound / s), plain, self, t, x), plain


def _check_bound(bound: float) -> None:
    if not bound > 0:
        raise ValueError(f"bound = {bound}: the largest absolute value of the data, above 0")


def _of_data(data: Tensor, plain: Reading, guidance: Guidance, t: Any, x: Tensor) -> Reading:
    # the noise that agrees: (x - alpha x0) / sigma
    coefficients = DataPrediction().solve(guidance.schedule, t)
    return Reading(x, data, coefficients, rows=plain.rows, vjps=plain.vjps)
