"""Whole steps of a model with discrete steps."""

from dataclasses import dataclass

import numpy as np

from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing

__all__ = ["Subsequence"]


@dataclass(frozen=True)
class Subsequence(Spacing):
    """Whole steps of a model with `n` discrete steps, `t_i = t_max (i + 1) / n`: rows of the table, each at most once.

    `n` is the length of the table, DDPM's 1000 by default. Rows are uniform in `i^(1 / power)`: `power` 1, the default,
    is DDIM's uniform and 2 its quadratic subsequence (arXiv:2010.02502, appendix D.2).

    Raises ValueError for more steps than there are rows between the ends.
    """

    n: int = 1000
    power: float = 1.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        per_row = schedule.domain[1] / self.n
        first, last = int(np.ceil(t_start / per_row - 1 - 1e-9)), int(np.floor(t_end / per_row - 1 + 1e-9))
        if first - last < steps:
            raise ValueError(f"{steps} steps from row {first} to row {last} of {self.n}: at most {first - last} fit")
        u = np.linspace(0, 1, steps + 1)
        root = max(first, 0) ** (1 / self.power) * (1 - u) + max(last, 0) ** (1 / self.power) * u
        rows = np.rint(root**self.power).astype(int)
        # rows of a power grid may coincide after rounding: push them apart, from one end and then from the other
        for k in range(steps - 1, -1, -1):
            rows[k] = max(rows[k], rows[k + 1] + 1)
        rows[0] = min(rows[0], first)
        for k in range(1, steps + 1):
            rows[k] = min(rows[k], rows[k - 1] - 1)
        return (rows + 1) * per_row
