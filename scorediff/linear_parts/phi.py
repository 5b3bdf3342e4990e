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

__all__ = ["GAUSS", "Kernel", "phi"]

#: Nodes and weights on [-1, 1]: 48 integrate any kernel over the longest step to rounding.
GAUSS = np.polynomial.legendre.leggauss(48)


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
        x, w = GAUSS
        u = h[:, None] * (1 + x) / 2
        return np.asarray(np.sum(self(h[:, None] - u) * fn(u) * w, axis=1) * h / 2)
