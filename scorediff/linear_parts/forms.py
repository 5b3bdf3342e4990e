"""The two ends of the family: nothing is known of the data's variance, and all of it.

With `h` the step in log-SNR and `q = 1 + eta^2`, exactly (data form; noise form):

    x_1 = (sigma_1/sigma_0) e^(-eta^2 h) x_0 + alpha_1 q INT_0^h e^(-q(h-u)) D du + sigma_1 sqrt(1 - e^(-2 eta^2 h)) z
    x_1 = (alpha_1/alpha_0) x_0 - sigma_1 q INT_0^h e^(h-u) E du + eta sigma_1 sqrt(e^(2h) - 1) z
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.linear_parts.base import IsotropicPart, NoiseLevel, Weights
from scorediff.linear_parts.phi import Kernel, phi

__all__ = ["DataPart", "ExponentialKernel", "NoisePart"]


@dataclass(frozen=True)
class ExponentialKernel(Kernel):
    """`k(tau) = e^(kappa tau)`: that of the data and of the noise."""

    kappa: np.ndarray

    def __call__(self, tau: np.ndarray) -> np.ndarray:
        return np.exp(self.kappa[:, None] * tau)

    def at_end(self) -> np.ndarray:
        return np.ones_like(self.kappa)

    def h_phi_1(self, h: np.ndarray) -> np.ndarray:
        # (e^(kappa h) - 1) / kappa
        return np.expm1(self.kappa * h) / self.kappa

    def phi(self, k: int, c: float, h: np.ndarray) -> np.ndarray:
        return phi(k, c * (self.kappa * h))

    def some(self, which: Any) -> "ExponentialKernel":
        return ExponentialKernel(self.kappa[which])


@dataclass(frozen=True)
class DataPart(IsotropicPart):
    """v = 0, the data form: M = D, and `d(x/sigma)/dlambda = e^lambda D` on the flow (arXiv:2211.01095)."""

    variance: ClassVar[float] = 0.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"data": {}}

    def on(self, level: NoiseLevel) -> Weights:
        return np.ones_like(level.alpha), np.zeros_like(level.alpha)

    def propagator(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # (sigma_1/sigma_0) e^(-eta^2 h)
        return b.sigma / a.sigma * np.exp(-_times(eta**2, b.log_snr - a.log_snr))

    def integral_weight(self, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # alpha_1 q
        return b.alpha * (1 + eta**2)

    def kernel(self, b: NoiseLevel, eta: np.ndarray) -> ExponentialKernel:
        # e^(-q(h-u))
        return ExponentialKernel(-(1 + eta**2))

    def noise_std(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # sigma_1 sqrt(1 - e^(-2 eta^2 h))
        return b.sigma * _root(-np.expm1(-2 * _times(eta**2, b.log_snr - a.log_snr)), eta)


@dataclass(frozen=True)
class NoisePart(IsotropicPart):
    """v = infinity, the noise form: M = E, and `d(x/alpha)/dlambda = -e^(-lambda) E` on the flow (arXiv:2206.00927).

    Where alpha is 0, E alone does not tell the state: no run starts there.
    """

    variance: ClassVar[float] = np.inf
    regular_at_pure_noise: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"noise": {}}

    def on(self, level: NoiseLevel) -> Weights:
        return np.zeros_like(level.alpha), np.ones_like(level.alpha)

    def propagator(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # alpha_1/alpha_0
        return b.alpha / a.alpha

    def integral_weight(self, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # -sigma_1 q
        return -b.sigma * (1 + eta**2)

    def kernel(self, b: NoiseLevel, eta: np.ndarray) -> ExponentialKernel:
        # e^(h-u)
        return ExponentialKernel(np.ones_like(eta))

    def noise_std(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        # eta sigma_1 sqrt(e^(2h) - 1)
        return eta * b.sigma * _root(np.expm1(2 * (b.log_snr - a.log_snr)), eta)

    # R grows like alpha sqrt v: both sides are divided by that

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        return [alpha]

    def slope(self, s: np.ndarray) -> list[np.ndarray]:
        # d(x / alpha) / ds = E
        return [np.ones_like(s)]

    def weights(self, alpha: np.ndarray, sigma: np.ndarray) -> list[Weights]:
        return [(np.zeros_like(alpha), np.ones_like(alpha))]


def _times(eta2: np.ndarray, h: np.ndarray) -> np.ndarray:
    # eta = 0 wins over an infinite step
    return np.where(eta2 > 0, eta2 * np.where(eta2 > 0, h, 0.0), 0.0)


def _root(values: np.ndarray, eta: np.ndarray) -> np.ndarray:
    # without noise the steps may lead upwards, where there is no root
    return np.sqrt(np.where(eta > 0, values, 0.0))
