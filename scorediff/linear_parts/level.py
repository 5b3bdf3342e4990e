"""Where a step starts or lands."""

from typing import Any, NamedTuple

import numpy as np

from scorediff.schedules import Schedule

__all__ = ["NoiseLevel"]


class NoiseLevel(NamedTuple):
    """Times, and the schedule there: float64 arrays of one shape."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    log_snr: np.ndarray

    @classmethod
    def at(cls, schedule: Schedule, t: np.ndarray) -> "NoiseLevel":
        """The noise levels of a schedule at some times."""
        return cls(t, *(np.asarray(fn(t)) for fn in (schedule.alpha, schedule.sigma, schedule.log_snr)))

    def of(self, which: Any) -> "NoiseLevel":
        """Some of them, by a slice or by indices."""
        return NoiseLevel(*(values[which] for values in self))
