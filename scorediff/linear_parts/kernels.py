"""The kernels of exponential integrals, and the phi-functions, which are their moments.

A kernel is a function k of tau, the distance back from the end of a step in log-SNR. With `phi_0 = e^z` and
`phi_(k+1)(z) = (phi_k(z) - 1/k!) / z` the kernel `e^(kappa tau)` has

    h phi_k(kappa h) = INT_0^h e^(kappa (h-u)) (u/h)^(k-1) / (k-1)! du,

and so the moments of any kernel stand where a method has phi-functions.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ExponentialKernel", "Kernel", "VarianceKernel", "phi"]

_GAUSS = np.polynomial.legendre.leggauss(48)


def phi(k: int, z: Any) -> np.ndarray:
    """`phi_0 = e^z`, `phi_k+1 = (phi_k - 1/k!) / z`; entire, elementwise."""
    z = np.asarray(z, dtype=np.float64)
    small = np.abs(z) < 1
    # the recursion loses digits near 0, where the series `sum_j z^j / (j + k)!` converges at once
    series = sum(np.where(small, z, 0.0) ** j / math.factorial(j + k) for j in range(20))
    far = np.where(small, 1.0, z)
    value = np.exp(far)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / far
    return np.where(small, series, value)


@dataclass(frozen=True)
class Kernel(ABC):
    """The kernel of every step, each with numbers of its own: arrays of shape (steps,)."""

    @abstractmethod
    def __call__(self, tau: np.ndarray) -> np.ndarray:
        """k at distances `tau` of shape (steps, points) back from the end of each step."""

    @abstractmethod
    def at_end(self) -> np.ndarray:
        """k at the end of each step."""

    @abstractmethod
    def h_phi_1(self, h: np.ndarray) -> np.ndarray:
        """`INT_0^h k(h - u) du`; h may be infinite where the step starts at alpha = 0."""

    @abstractmethod
    def phi(self, k: int, c: float, h: np.ndarray) -> np.ndarray:
        """`phi_k(c z)`, z = kappa h: the moment of order k >= 1 over a length `c h`."""

    @abstractmethod
    def some(self, which: Any) -> "Kernel":
        """That of some of the steps."""

    def integral(self, h: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """`INT_0^h k(h - u) fn(u) du`, with `fn` of u of shape (steps, points), to rounding.

        By Gauss and Legendre: a sum of the integrand, in which nothing cancels as it does in powers of small steps.
        """
        x, w = _GAUSS
        u = h[:, None] * (1 + x) / 2
        return np.asarray(np.sum(self(h[:, None] - u) * fn(u) * w, axis=1) * h / 2)


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
        x, w = _GAUSS
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
