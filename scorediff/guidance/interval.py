"""Guidance at some noise levels alone."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.denoiser import NetworkOutput
from scorediff.guidance.base import Guidance
from scorediff.predictions import VPrediction

__all__ = ["GuidanceInterval"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class GuidanceInterval(Guidance):
    """A guidance within an interval of the log-SNR, `low <= log(alpha / sigma) < high`, and none outside
    (arXiv:2404.07724, which gives it in EDM's sigma: `GuidanceInterval.in_sigma`).

    `denoiser` is the guidance, `low` and `high` the ends of the interval, infinite by default, which leaves an end
    open. The equation jumps at both, which are its `discontinuities`: adaptive solvers step to them and never over.
    Outside, what the guidance adds is not evaluated. Raises TypeError for a denoiser that is not a guidance, ValueError
    for an empty interval.
    """

    denoiser: Guidance
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not isinstance(self.denoiser, Guidance):
            raise TypeError(f"only a guidance can be limited, such as ClassifierFree, got {self.denoiser!r}")
        super().__post_init__()
        if not self.low < self.high:
            raise ValueError(f"log-SNRs from {self.low} to {self.high}: an interval wants low < high")

    @classmethod
    def in_sigma(cls, guided: Guidance, low: float, high: float) -> "GuidanceInterval":
        """Guidance at noise levels `low < sigma / alpha <= high`, the sigma of EDM on every schedule."""
        if not 0 <= low < high:
            raise ValueError(f"sigmas from {low} to {high}: an interval wants 0 <= low < high")
        with np.errstate(divide="ignore"):
            return cls(guided, float(-np.log(high)), float(-np.log(low)))

    @cached_property
    def _times(self) -> tuple[float, float]:
        """The interval in time; beyond the domain, infinite."""
        lo, hi = self.schedule.domain
        least, most = self.schedule.log_snr(hi), self.schedule.log_snr(lo)
        reached = least < self.high <= most and math.isfinite(self.high)
        start = float(self.schedule.time_at(self.high)) if reached else -math.inf
        end = float(self.schedule.time_at(self.low)) if least < self.low < most else math.inf
        # where the whole interval lies beyond an end, no time is in it
        return (start if self.high > least else math.inf), (end if self.low < most else -math.inf)

    @property
    def discontinuities(self) -> tuple[float, ...]:
        return (*super().discontinuities, *(t for t in self._times if math.isfinite(t)))

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        first, last = self._times
        inside = np.broadcast_to((np.asarray(t) > first) & (np.asarray(t) <= last), len(x))
        if inside.all():
            return self.denoiser.pair(t, x, cond)
        if not inside.any():
            return self._plain_twice(t, x, cond)
        v, rows, vjps = (torch.empty_like(x), torch.empty_like(x)), 0, 0
        for chosen, ask in ((inside, self.denoiser.pair), (~inside, self._plain_twice)):
            at = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
            pair = ask(t[chosen], x[at], cond.of_rows(at))
            rows, vjps = rows + pair[0].rows, vjps + pair[0].vjps
            for whole, part in zip(v, pair, strict=True):
                whole[at] = part.in_v(self.schedule, t[chosen], x[at]).output
        coefficients = VPrediction().solve(self.schedule, t)
        guided, plain = (NetworkOutput(x, output, coefficients, rows=rows, vjps=vjps) for output in v)
        return guided, plain

    def plain(self, t: Any, x: Tensor, cond: Conditions) -> NetworkOutput:
        return self.denoiser.plain(t, x, cond)

    def _plain_twice(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        plain = self.plain(t, x, cond)
        return plain, plain
