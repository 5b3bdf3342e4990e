"""The straight line from data to noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff.schedules.base import Schedule, Times

__all__ = ["RectifiedFlow"]


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """`alpha = 1 - u`, `sigma = u`, `u = shift t / (1 + (shift - 1) t)` (arXiv:2209.03003; shift: arXiv:2403.03206).

    `shift` moves uniform steps in `t` towards the noise where it is above 1, as models of large images want; 1, the
    default, is the straight line in `t` itself. At `t = 1` alpha is 0: sampling starts at `t = 0.999` by default.
    """

    shift: float = 1.0

    @property
    def t_start(self) -> float:
        return 0.999

    @property
    def t_end(self) -> float:
        return 1e-3

    def alpha(self, t: Times) -> Any:
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Times) -> Any:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # t / (1 - t) = e^(-lambda) / shift
        with np.errstate(over="ignore"):
            return 1 / (1 + self.shift * np.exp(log_snr))
