"""Denser near the data, in time."""

from dataclasses import dataclass

import numpy as np

from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing

__all__ = ["Quadratic"]


@dataclass(frozen=True)
class Quadratic(Spacing):
    """Uniform in `sqrt(t)`, denser near the data (DDIM's quadratic steps in continuous time, arXiv:2010.02502)."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        u = np.linspace(0, 1, steps + 1)
        return (np.sqrt(t_start) * (1 - u) + np.sqrt(t_end) * u) ** 2
