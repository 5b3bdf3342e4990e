"""The linear part of the flow that an exponential method takes out exactly, and what is left for polynomials.

With `R_v = sqrt(sigma^2 + alpha^2 v)` and s = sigma / alpha the flow is exactly

    d(x / R_v) / ds = -P / (s^2 + v),   P = (sigma D - alpha v E) / R_v,

for any variance v, one for each direction. v = 0 leaves the data alone, v = infinity the noise, and where v is the
variance of a Gaussian in that direction, P is 0 on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

__all__ = ["LinearPart", "check_scale"]


def check_scale(owner: Any) -> None:
    """Make `data_std` a float. Raises ValueError where it is no positive number."""
    try:
        value = float(owner.data_std)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 < value < np.inf:
        raise ValueError(f"data_std = {owner.data_std!r}: give the data's standard deviation, a positive number")
    object.__setattr__(owner, "data_std", value)


@dataclass(frozen=True)
class LinearPart(ABC):
    """`spectrum`: the variances v of the parts into which `split` takes a state, each an array of shape (1,), or of one
    number for each entry of the part.

    `scale` is the data's standard deviation, to which errors are relative.
    """

    #: Does its clock, and what it integrates, stay finite where alpha is 0?
    from_pure_noise: ClassVar[bool] = True
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float]

    @property
    @abstractmethod
    def scale(self) -> float:
        """The root mean square deviation of an entry of the data."""

    @property
    @abstractmethod
    def spectrum(self) -> tuple[np.ndarray, ...]:
        """The v of each part."""

    @abstractmethod
    def clock(self, alpha: Any, sigma: Any) -> Any:
        """What the polynomials are in: regular where s is 0 or infinite, so that D and E are smooth in it."""

    @abstractmethod
    def s(self, tau: Any) -> Any:
        """The inverse of `clock`: sigma / alpha."""

    def split(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        """The parts of `x` of shape (B, ...) without `alpha` times the mean, alpha a column of shape (B, 1, ...)."""
        return (x,)

    def join(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        """The state again, of the shape of `like`."""
        return parts[0]

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        """R_v of each part; of shape (B, 1) or (B, entries) for alpha, sigma of shape (B, 1)."""
        return [np.sqrt(sigma**2 + alpha**2 * v) for v in self.spectrum]

    def slope(self, s: np.ndarray) -> list[np.ndarray]:
        """`d(x / R_v) / ds` for P = 1; of shape (..., 1) or (..., entries) for s of shape (..., 1)."""
        return [-1 / (s**2 + v) for v in self.spectrum]

    def reads(self, alpha: np.ndarray, sigma: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """What D and E weigh in P: sigma / R_v, -alpha v / R_v."""
        return [(sigma / r, -alpha * v / r) for v, r in zip(self.spectrum, self.radius(alpha, sigma), strict=True)]

    def carried(self, alpha: np.ndarray, sigma: np.ndarray, end: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """By how much an error of x / R_v counts: what becomes of it at the `end` of the run, alpha and sigma there, on
        the flow of a Gaussian, times `scale / R` for the data as a whole: as large as it is in the data.
        """
        # x / R_v stays as it is
        at_end = self.scale / np.hypot(end[1], self.scale * end[0])
        return [r * at_end + 0 * alpha for r in self.radius(*end)]
