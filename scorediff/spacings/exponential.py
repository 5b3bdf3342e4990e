"""Denser near the noise, in log-SNR."""

from dataclasses import dataclass

import numpy as np

from scorediff.coordinates import LogSNR
from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing, uniform_in

__all__ = ["Exponential"]


@dataclass(frozen=True)
class Exponential(Spacing):
    """`log(sigma / alpha)` falls like `1 - u^rho`, u uniform: rho = 1 is uniform in the log-SNR, rho > 1 is denser near
    the noise.
    """

    rho: float = 1.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(LogSNR(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1) ** self.rho)
