"""Denser at both ends, in time."""

from dataclasses import dataclass

import numpy as np

from scorediff.coordinates import Time
from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing, uniform_in

__all__ = ["Beta"]


@dataclass(frozen=True)
class Beta(Spacing):
    """Quantiles of the Beta(`a`, `b`) distribution in time, denser at both ends for a, b < 1 (arXiv:2407.12173).

    A smaller `a` puts more nodes near t_start, a smaller `b` near t_end; 0.6 for both is the paper's choice.
    """

    a: float = 0.6
    b: float = 0.6

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        from scipy.stats import beta

        u = beta.ppf(np.linspace(0, 1, steps + 1), self.a, self.b)
        return uniform_in(Time(), schedule, t_start, t_end, u)
