"""Schedules that leave the data as it is: `alpha = 1`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff.schedules.base import Schedule, Times

__all__ = ["EDM", "VE"]


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: `alpha = 1`, `sigma = sigma_min (sigma_max / sigma_min)^t` (arXiv:2011.13456).

    `sigma_min` and `sigma_max` are in the units of the data; the defaults are the paper's for CIFAR-10, pixels from 0
    to 1.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def alpha(self, t: Times) -> Any:
        return np.ones_like(t, dtype=np.result_type(t, np.float64))[()]

    def sigma(self, t: Times) -> Any:
        return self.sigma_min * np.exp(t * np.log(self.sigma_max / self.sigma_min))

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        return (-log_snr - np.log(self.sigma_min)) / np.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Schedule):
    """`alpha = 1`, `sigma = t` on `[sigma_min, sigma_max]` (arXiv:2206.00364).

    `sigma_min` and `sigma_max` are in the units of the data; the defaults are the paper's, for a standard deviation of
    about 0.5.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def domain(self) -> tuple[float, float]:
        return (self.sigma_min, self.sigma_max)

    def alpha(self, t: Times) -> Any:
        return np.ones_like(t, dtype=np.result_type(t, np.float64))[()]

    def sigma(self, t: Times) -> Any:
        return t * 1.0

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        return np.exp(-log_snr)
