"""One variance for all directions: none, the data's, or infinity."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.linear_parts.base import LinearPart, check_scale

__all__ = ["DataPart", "NoisePart", "Preconditioned"]


@dataclass(frozen=True)
class _Isotropic(LinearPart):
    """`data_std` is the data's standard deviation per entry. Raises ValueError where it is not positive.

    The clock is `atan(s / k)` with half the data's scale for k: where the law of the data comes apart into its modes.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self)

    @property
    def scale(self) -> float:
        return self.data_std

    def carried(self, alpha: np.ndarray, sigma: np.ndarray, end: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        # x / R with the data's own R stays as it is
        return [self.scale * r / np.hypot(sigma, self.scale * alpha) for r in self.radius(alpha, sigma)]

    def clock(self, alpha: Any, sigma: Any) -> Any:
        return np.arctan2(sigma, self.data_std / 2 * alpha)

    def s(self, tau: Any) -> Any:
        return self.data_std / 2 * np.tan(tau)


@dataclass(frozen=True)
class Preconditioned(_Isotropic):
    """v = data_std^2: P is what EDM's preconditioned network predicts (arXiv:2206.00364), up to a constant."""

    calibration: ClassVar[float] = 6.0

    @property
    def spectrum(self) -> tuple[np.ndarray, ...]:
        return (np.array([self.data_std**2]),)


@dataclass(frozen=True)
class DataPart(_Isotropic):
    """v = 0: P = D, the form of DPM-Solver++ (arXiv:2211.01095)."""

    calibration: ClassVar[float] = 14.0

    spectrum: ClassVar[tuple[np.ndarray, ...]] = (np.zeros(1),)


@dataclass(frozen=True)
class NoisePart(_Isotropic):
    """v = infinity: P = E, the form of DPM-Solver (arXiv:2206.00927), in x / alpha."""

    calibration: ClassVar[float] = 5.0
    from_pure_noise: ClassVar[bool] = False

    spectrum: ClassVar[tuple[np.ndarray, ...]] = (np.full(1, np.inf),)

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        return [alpha]

    def slope(self, s: np.ndarray) -> list[np.ndarray]:
        # d(x / alpha) / ds = E
        return [np.ones_like(s)]

    def reads(self, alpha: np.ndarray, sigma: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.zeros_like(alpha), np.ones_like(alpha))]
