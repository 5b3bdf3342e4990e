"""The part of a Gaussian of the data's own variance, the same in all directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff._core.arrays import positive
from scorediff.linear_parts.base import IsotropicPart, Weights
from scorediff.linear_parts.kernels import VarianceKernel
from scorediff.linear_parts.level import NoiseLevel

__all__ = ["Preconditioned"]


@dataclass(frozen=True)
class Preconditioned(IsotropicPart):
    """v = data_std^2: M = P is what EDM's preconditioned network predicts (arXiv:2206.00364), up to a constant.

    `data_std`: the data's standard deviation per entry, 1 as for data scaled to it (EDM's images have 0.5). Raises
    ValueError where it is not positive.
    """

    data_std: float = 1.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"preconditioned": {}}

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_std", positive("data_std", self.data_std, "the data's standard deviation"))

    @property
    def variance(self) -> float:
        return self.data_std**2

    def on(self, level: NoiseLevel) -> Weights:
        # sigma / R, -alpha v / R
        r = self._radius(level)
        return level.sigma / r, -level.alpha * self.variance / r

    def propagator(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # (R_1/R_0)^q (alpha_0/alpha_1)^(q-1)
        ratio = self._radius(b) / self._radius(a)
        return ratio * (ratio * a.alpha / b.alpha) ** eta**2

    def integral_weight(self, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # alpha_1 q
        return b.alpha * (1 + eta**2)

    def kernel(self, b: NoiseLevel, eta: np.ndarray) -> VarianceKernel:
        r = self._radius(b)
        return VarianceKernel(b.sigma / r, b.alpha * self.data_std / r, 1 + eta**2)

    def noise_std(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # R_1 sqrt(1 - (r_1/r_0)^(2 eta^2)), r_0^2/r_1^2 = 1 + (sigma_1/R_1)^2 (e^(2h) - 1)
        r = self._radius(b)
        grown = np.log1p((b.sigma / r) ** 2 * np.expm1(2 * (b.log_snr - a.log_snr)))
        # without noise the steps may lead upwards, where there is no root
        return r * np.sqrt(np.where(eta > 0, -np.expm1(-(eta**2) * grown), 0.0))

    def _radius(self, level: NoiseLevel) -> np.ndarray:
        return np.hypot(level.sigma, level.alpha * self.data_std)
