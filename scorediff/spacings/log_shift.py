"""Even steps of a logarithm that is regular at both ends of every schedule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.coordinates import Coordinates, DDIMCoordinates, LogShift
from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing
from scorediff.spacings.uniform import UniformIn, UniformLogSNR

__all__ = ["UniformLogShift", "for_runge_kutta"]


@dataclass(frozen=True)
class UniformLogShift(Spacing):
    """Uniform in `log((r + high) / (r + low))`, r = sigma / alpha: in the log-SNR where it counts, and at both ends few
    steps.

    Black-box methods, and polynomials in time, are stable on it with few steps where they are not on even steps of
    their own variable; it reaches alpha = 0 and sigma = 0. `low` and `high` are the ratios below and above which steps
    grow longer in the log-SNR.

    Raises ValueError unless 0 < low < high.
    """

    low: float = 0.002
    high: float = 20.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"log-shift": {}}

    def __post_init__(self) -> None:
        LogShift(self.low, self.high)

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        variable, u = LogShift(self.low, self.high), np.linspace(0, 1, steps + 1)
        first, last = (float(variable.value(schedule, t)) for t in (t_start, t_end))
        return np.asarray(variable.time(schedule, first * (1 - u) + last * u))


def for_runge_kutta(coordinates: Coordinates, order: int | None) -> Spacing:
    """What an explicit Runge-Kutta method of this `order` takes its steps on by default, in these `coordinates`.

    Euler's method steps evenly in any, and one of order 2 in DDIM's as EDM does. The others are unstable on few even
    steps of their coordinates, and multiply errors of the network by up to 1000.
    """
    in_ddim = isinstance(coordinates, DDIMCoordinates)
    if order == 1 or (in_ddim and order == 2):
        return UniformIn(coordinates)
    return UniformLogSNR() if in_ddim else UniformLogShift()
