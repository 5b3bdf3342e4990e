"""What an exponential integrator takes out exactly, on both problems, and what it leaves for polynomials.

For any variance v let `R = sqrt(sigma^2 + alpha^2 v)`, r = R / alpha and s = sigma / alpha. With

    P = (sigma D - alpha v E) / R,   that is   D = (alpha v x + sigma R P) / R^2,   E = (sigma x - alpha R P) / R^2,

both problems are linear but for P, and with q = 1 + eta^2 and h the step in log-SNR, exactly,

    x_1 = (R_1/R_0)^q (alpha_0/alpha_1)^(q-1) x_0
          + alpha_1 q INT_0^h (r_1/r(u))^q (s(u)/r(u)) P(u) du
          + R_1 sqrt(1 - (r_1/r_0)^(2 eta^2)) z,

in which v = 0 leaves the data (P = D), v = infinity the noise (P in proportion to E), and where v is the variance of a
Gaussian around 0, P is 0 on it: the step is then exact, in distribution where there is noise.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from scorediff._core.arrays import positive
from scorediff._core.typed import TypedFields
from scorediff.linear_parts.phi import Kernel
from scorediff.schedules import Schedule

__all__ = ["IsotropicPart", "LinearPart", "NoiseLevel", "Weights", "check_data_std"]

Weights = tuple[np.ndarray, np.ndarray]


class NoiseLevel(NamedTuple):
    """Where a step starts or lands: times, and the schedule there: float64 arrays of one shape."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    log_snr: np.ndarray

    @classmethod
    def at(cls, schedule: Schedule, t: np.ndarray) -> "NoiseLevel":
        """The noise levels of a schedule at some times."""
        return cls(t, *(np.asarray(fn(t)) for fn in (schedule.alpha, schedule.sigma, schedule.log_snr)))

    def of(self, which: Any) -> "NoiseLevel":
        """Some of them, by a slice or by indices."""
        return NoiseLevel(*(values[which] for values in self))


def check_data_std(owner: Any) -> None:
    """Make the `data_std` of a frozen dataclass a float. Raises ValueError where it is not a positive number."""
    std = positive("data_std", owner.data_std, "the data's standard deviation")
    object.__setattr__(owner, "data_std", std)


@dataclass(frozen=True)
class LinearPart(TypedFields, ABC):
    """The variances v of what is taken out, and how a state is split by them.

    Alpha and sigma are of shape (B, 1) here; what comes back is of shape (B, 1), or (B, entries) for a part with one
    variance for each of its entries.
    """

    #: Whether P, and what it is integrated against, stay finite where alpha is 0.
    regular_at_pure_noise: ClassVar[bool] = True

    @property
    @abstractmethod
    def spectrum(self) -> tuple[np.ndarray, ...]:
        """The v of every part that `split` makes of a state: of shape (1,), or (entries,) for that part."""

    @property
    @abstractmethod
    def components(self) -> tuple["IsotropicPart", ...]:
        """The same as parts of one variance each, as many as `split_apart` makes of a state."""

    @property
    def data_std(self) -> float | None:
        """The standard deviation of the data per entry, where the part knows it."""
        return None

    def split(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        """The parts of `x` of shape (B, ...) without `alpha` times the mean; `alpha` a float or an array (B,)."""
        return (x,)

    def join(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        """The state again, of the shape of `like`."""
        return parts[0]

    def split_apart(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        """The same, with a part for each of the `components`."""
        return self.split(x, alpha)

    def join_apart(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        """The inverse of `split_apart`."""
        return self.join(parts, alpha, like)

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        """R of each part."""
        return [np.sqrt(sigma**2 + alpha**2 * v) for v in self.spectrum]

    def slope(self, s: np.ndarray) -> list[np.ndarray]:
        """`d(x / R) / ds = -1 / (s^2 + v)` for P = 1 on the flow; for s of shape (..., 1)."""
        return [-1 / (s**2 + v) for v in self.spectrum]

    def weights(self, alpha: np.ndarray, sigma: np.ndarray) -> list[Weights]:
        """What D and E weigh in P: sigma / R, -alpha v / R."""
        return [(sigma / r, -alpha * v / r) for v, r in zip(self.spectrum, self.radius(alpha, sigma), strict=True)]

    def error_weights(self, alpha: np.ndarray, sigma: np.ndarray, end: Weights, data_std: float) -> list[np.ndarray]:
        """By how much an error of x / R weighs: what becomes of it at the `end` of the run, alpha and sigma there, on
        the flow of a Gaussian, as large as it is in data of standard deviation `data_std`.
        """
        # x / sqrt(sigma^2 + alpha^2 data_std^2) stays as it is
        return [data_std * r / np.hypot(sigma, data_std * alpha) for r in self.radius(alpha, sigma)]


@dataclass(frozen=True)
class IsotropicPart(LinearPart):
    """One variance for all directions: `x_1 = propagator x_0 + integral_weight INT_0^h k(h-u) M(u) du + noise_std z`.

    M is P up to a constant, so that it is D for v = 0 and E for v = infinity. Arrays of one shape in and out, for steps
    from `a` to `b` with `eta`.
    """

    @property
    @abstractmethod
    def variance(self) -> float:
        """v."""

    @property
    def spectrum(self) -> tuple[np.ndarray, ...]:
        return (np.array([self.variance]),)

    @property
    def components(self) -> tuple["IsotropicPart", ...]:
        return (self,)

    @abstractmethod
    def on(self, level: NoiseLevel) -> Weights:
        """What D and E weigh in M."""

    @abstractmethod
    def propagator(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        """What multiplies the state."""

    @abstractmethod
    def integral_weight(self, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        """What multiplies the integral."""

    @abstractmethod
    def kernel(self, b: NoiseLevel, eta: np.ndarray) -> Kernel:
        """The kernel of the integral, for steps that end at `b`."""

    @abstractmethod
    def noise_std(self, a: NoiseLevel, b: NoiseLevel, eta: np.ndarray) -> np.ndarray:
        """The standard deviation of the noise."""
