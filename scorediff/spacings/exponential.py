"""Denser near the noise, in log-SNR."""

from dataclasses import dataclass

import numpy as np

from scorediff.coordinates import LogSNR
from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing, uniform_in

__all__ = ["Exponential"]


@dataclass(frozen=True)
class Exponential(Spacing):
    """`log(sigma / alpha)` falls like `1 - u^rho`, u uniform.

    `rho` above 1 is denser near the noise, below 1 near the data; the default, 1, is `UniformLogSNR`.
    """

    rho: float = 1.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(LogSNR(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1) ** self.rho)
