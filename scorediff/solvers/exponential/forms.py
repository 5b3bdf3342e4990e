"""The two exact linear parts of both problems, and the phi-functions in which their integrals are written.

With `h` the step in log-SNR and `q = 1 + eta^2`, exactly (data form; noise form):

    x_1 = (sigma_1/sigma_0) e^(-eta^2 h) x_0 + alpha_1 q INT_0^h e^(-q(h-u)) D du + sigma_1 sqrt(1 - e^(-2 eta^2 h)) z
    x_1 = (alpha_1/alpha_0) x_0 - sigma_1 q INT_0^h e^(h-u) E du + eta sigma_1 sqrt(e^(2h) - 1) z

that is `x_1 = decay x_0 + pull INT_0^h e^(kappa (h-u)) M du + spread z`, with M = D or E.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.solvers.exponential.engine import Point

__all__ = ["DataForm", "Form", "NoiseForm", "check_kind", "held", "phi"]


@dataclass(frozen=True)
class Form(ABC):
    """One of the two. Arrays of one shape in and out, for steps from `a` to `b` of length `h` with `eta`."""

    #: Which part of a reading it integrates: 0 data, 1 noise.
    part: ClassVar[int]

    @abstractmethod
    def kappa(self, eta: np.ndarray) -> np.ndarray:
        """The rate in the integral's kernel."""

    @abstractmethod
    def decay(self, a: Point, b: Point, eta: np.ndarray) -> np.ndarray:
        """What multiplies the state."""

    @abstractmethod
    def pull(self, b: Point, eta: np.ndarray) -> np.ndarray:
        """What multiplies the integral."""

    @abstractmethod
    def spread(self, a: Point, b: Point, eta: np.ndarray) -> np.ndarray:
        """The standard deviation of the noise."""

    def on(self, weight: float) -> tuple[float, float]:
        """A weight of a reading as those of its data and its noise."""
        return (0.0, weight) if self.part else (weight, 0.0)


@dataclass(frozen=True)
class DataForm(Form):
    """The linear part that leaves D: `d(x/sigma)/dlambda = e^lambda D` on the flow."""

    part: ClassVar[int] = 0

    def kappa(self, eta: np.ndarray) -> np.ndarray:
        return -(1 + eta**2)

    def decay(self, a: Point, b: Point, eta: np.ndarray) -> np.ndarray:
        # (sigma_1/sigma_0) e^(-eta^2 h)
        return b.sigma / a.sigma * np.exp(-_times(eta**2, b.log_snr - a.log_snr))

    def pull(self, b: Point, eta: np.ndarray) -> np.ndarray:
        # alpha_1 q
        return b.alpha * (1 + eta**2)

    def spread(self, a: Point, b: Point, eta: np.ndarray) -> np.ndarray:
        # sigma_1 sqrt(1 - e^(-2 eta^2 h))
        return b.sigma * _root(-np.expm1(-2 * _times(eta**2, b.log_snr - a.log_snr)), eta)


@dataclass(frozen=True)
class NoiseForm(Form):
    """The linear part that leaves E: `d(x/alpha)/dlambda = -e^(-lambda) E` on the flow."""

    part: ClassVar[int] = 1

    def kappa(self, eta: np.ndarray) -> np.ndarray:
        return np.ones_like(eta)

    def decay(self, a: Point, b: Point, eta: np.ndarray) -> np.ndarray:
        # alpha_1/alpha_0
        return b.alpha / a.alpha

    def pull(self, b: Point, eta: np.ndarray) -> np.ndarray:
        # -sigma_1 q
        return -b.sigma * (1 + eta**2)

    def spread(self, a: Point, b: Point, eta: np.ndarray) -> np.ndarray:
        # eta sigma_1 sqrt(e^(2h) - 1)
        return eta * b.sigma * _root(np.expm1(2 * (b.log_snr - a.log_snr)), eta)


def check_kind(solver: Any, option: str, kind: type, example: str) -> None:
    """Raise TypeError where an option of a solver is of another kind."""
    value = getattr(solver, option)
    if not isinstance(value, kind):
        raise TypeError(f"{option} = {value!r} of {type(solver).__name__}: give a {kind.__name__}, such as {example}")


def held(kappa: np.ndarray, h: np.ndarray) -> np.ndarray:
    """`INT_0^h e^(kappa (h-u)) du = (e^(kappa h) - 1) / kappa`; h may be infinite where kappa < 0."""
    return np.expm1(kappa * h) / kappa


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


def _times(eta2: np.ndarray, h: np.ndarray) -> np.ndarray:
    # eta = 0 wins over an infinite step
    return np.where(eta2 > 0, eta2 * np.where(eta2 > 0, h, 0.0), 0.0)


def _root(values: np.ndarray, eta: np.ndarray) -> np.ndarray:
    # without noise the steps may lead upwards, where there is no root
    return np.sqrt(np.where(eta > 0, values, 0.0))
