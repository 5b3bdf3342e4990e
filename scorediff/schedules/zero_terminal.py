"""Tables of betas rescaled so that nothing of the data is left at their end."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from scorediff.schedules.base import Schedule, Times
from scorediff.schedules.vp import VPDiscrete

__all__ = ["ZeroTerminalSNR"]


@dataclass(frozen=True, repr=False)
class ZeroTerminalSNR(Schedule):
    """The table of `VPDiscrete(betas)` with its alpha shifted and stretched, to be 0 at the last row and as before at
    the first (arXiv:2305.08891, algorithm 1); `sigma^2 = 1 - alpha^2`. `betas` are the table before that, by default
    DDPM's.

    Sampling starts at the last row but one by default: only some solvers start where alpha is 0.
    """

    betas: tuple[float, ...] = field(default_factory=lambda: VPDiscrete().betas)

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", self.table.betas)
        super().__post_init__()

    def __repr__(self) -> str:
        return repr(self.table).replace("VPDiscrete", "ZeroTerminalSNR")

    @cached_property
    def table(self) -> VPDiscrete:
        """The table before it was rescaled."""
        return VPDiscrete(self.betas)

    @property
    def domain(self) -> tuple[float, float]:
        return self.table.domain

    @property
    def t_start(self) -> float:
        return 1 - self.table.domain[0]

    def index(self, t: Times) -> Any:
        """The (fractional) row of the table at `t`, as `VPDiscrete.index`."""
        return self.table.index(t)

    @cached_property
    def _ends(self) -> tuple[float, float, float]:
        """How alpha is stretched, by how much what it lacks of 1 is lowered, and what it lacks at the last row."""
        first, last = (float(self.table.log_alpha(t)) for t in self.domain)
        # alpha' = alpha_1 (alpha - alpha_N) / (alpha_1 - alpha_N), so with d = 1 - alpha, whose small values keep
        # their digits, d' = (alpha_1 d - alpha_N d_1) / (alpha_1 - alpha_N)
        alpha_1, alpha_N = np.exp(first), np.exp(last)
        return alpha_1 / (alpha_1 - alpha_N), -np.expm1(first) * alpha_N / (alpha_1 - alpha_N), -np.expm1(last)

    def alpha(self, t: Times) -> Any:
        stretch, _, last = self._ends
        # the difference, not 1 - d': exactly 0 at the last row
        return stretch * (last + np.expm1(self.table.log_alpha(t)))

    def sigma(self, t: Times) -> Any:
        # sigma^2 = 1 - alpha^2 = d' (2 - d')
        stretch, shift, _ = self._ends
        d = -stretch * np.expm1(self.table.log_alpha(t)) - shift
        return np.sqrt(d * (2 - d))

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # d' = sigma^2 / (1 + alpha') with alpha' = 1 / sqrt(1 + e^(-2 lambda)), then back to d of the table
        stretch, shift, _ = self._ends
        alpha, sigma2 = np.exp(-np.logaddexp(0.0, -2 * log_snr) / 2), np.exp(-np.logaddexp(0.0, 2 * log_snr))
        return self.table.time_of(np.log1p(-(sigma2 / (1 + alpha) + shift) / stretch))
