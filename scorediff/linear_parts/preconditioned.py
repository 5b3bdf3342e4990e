"""The part of a Gaussian of the data's own variance, the same in all directions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.linear_parts.base import IsotropicPart, NoiseLevel, Weights, check_data_std
from scorediff.linear_parts.phi import GAUSS, Kernel

__all__ = ["Preconditioned", "VarianceKernel"]


@dataclass(frozen=True)
class VarianceKernel(Kernel):
    """That of a variance v: with `r = sqrt(s^2 + v)`, `s = s_1 e^tau` and q = 1 + eta^2

        k(tau) = (r_1 / r)^q s / r = sin(a) e^tau (1 + sin(a)^2 (e^(2 tau) - 1))^(-(q+1)/2),   a = atan(s_1 / sqrt v).

    `sine`, `cosine`: those of a, sigma_1 / R_1 and alpha_1 sqrt(v) / R_1.

    `q`: of each step.
    """

    sine: np.ndarray
    cosine: np.ndarray
    q: np.ndarray

    def __call__(self, tau: np.ndarray) -> np.ndarray:
        sine, q = self.sine[:, None], self.q[:, None]
        # where s grows beyond bounds k falls like s^-q
        with np.errstate(over="ignore", invalid="ignore"):
            grown = 1 + sine**2 * np.expm1(2 * tau)
            return np.where(np.isinf(grown), 0.0, sine * np.exp(tau) * grown ** (-(q + 1) / 2))

    def at_end(self) -> np.ndarray:
        return self.sine

    def h_phi_1(self, h: np.ndarray) -> np.ndarray:
        endless = np.isinf(h)
        found = self.integral(np.where(endless, 1.0, h), np.ones_like)
        return np.where(endless, self._from_pure_noise(), found) if endless.any() else found

    def _from_pure_noise(self) -> np.ndarray:
        """`INT_0^inf k dtau = cos(a)^-q INT sin(p)^(q-1) dp`, p = pi/2 - theta from 0 to pi/2 - a."""
        x, w = GAUSS
        # in p = y^4, where sin(p)^(q-1) dp starts smoothly
        last = np.arctan2(self.cosine, self.sine) ** (1 / 4)
        y = last[:, None] * (1 + x) / 2
        inside = np.sin(y**4) ** (self.q[:, None] - 1) * 4 * y**3
        return np.asarray(np.sum(inside * w, axis=1) * last / 2 / self.cosine**self.q)

    def phi(self, k: int, c: float, h: np.ndarray) -> np.ndarray:
        length = c * h
        power, factor = k - 1, math.factorial(k - 1)
        return self.integral(length, lambda u: (u / length[:, None]) ** power / factor) / length

    def some(self, which: Any) -> "VarianceKernel":
        return VarianceKernel(self.sine[which], self.cosine[which], self.q[which])


@dataclass(frozen=True)
class Preconditioned(IsotropicPart):
    """v = data_std^2: M = P is what EDM's preconditioned network predicts (arXiv:2206.00364), up to a constant.

    `data_std`: the data's standard deviation per entry, 1 as for data scaled to it (EDM's images have 0.5). Raises
    ValueError where it is not positive.
    """

    data_std: float = 1.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"preconditioned": {}}

    def __post_init__(self) -> None:
        check_data_std(self)

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
        # without noise the steps may lead upwards, where there is no root, or be infinite
        return r * np.sqrt(-np.expm1(-(eta**2) * np.where(eta > 0, grown, 0.0)))

    def _radius(self, level: NoiseLevel) -> np.ndarray:
        return np.hypot(level.sigma, level.alpha * self.data_std)
