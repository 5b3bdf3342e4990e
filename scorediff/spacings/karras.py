"""The spacing of EDM."""

from dataclasses import dataclass

import numpy as np

from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing, finite_ends

__all__ = ["Karras"]


@dataclass(frozen=True)
class Karras(Spacing):
    """Uniform in `(sigma / alpha)^(1 / rho)` (EDM, arXiv:2206.00364, equation 5).

    A larger `rho` is denser near the data; 7 is the paper's choice. In the limit it is `UniformLogSNR`.
    """

    rho: float = 7.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        first, last = finite_ends(-schedule.log_snr(t_start), -schedule.log_snr(t_end), t_start, t_end)
        u = np.linspace(0, 1, steps + 1)
        root = np.exp(first / self.rho) * (1 - u) + np.exp(last / self.rho) * u
        return schedule.time_at(-self.rho * np.log(root))
