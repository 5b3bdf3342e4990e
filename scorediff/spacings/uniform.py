"""Even steps of something: time, log-SNR, angle, the time of rectified flow."""

from dataclasses import dataclass, field

import numpy as np

from scorediff.coordinates import Angle, Coordinates, LogSNR, Time
from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing, uniform_in

__all__ = ["FlowTime", "UniformAngle", "UniformIn", "UniformLogSNR", "UniformTime"]


@dataclass(frozen=True)
class UniformIn(Spacing):
    """Uniform in the clock of any coordinates (in its root of their degree `rho`)."""

    coordinates: Coordinates = field(default_factory=Time)

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(self.coordinates, schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformTime(Spacing):
    """Uniform in t."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(Time(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformLogSNR(Spacing):
    """Uniform in the log-SNR (arXiv:2206.00927)."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(LogSNR(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformAngle(Spacing):
    """Uniform in `atan(sigma / (alpha c))`, `c` the data's scale; reaches alpha = 0 and sigma = 0."""

    data_std: float = 1.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(Angle(self.data_std), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class FlowTime(Spacing):
    """Uniform in `s / (1 + s)`, `s = sigma / alpha`: the time of rectified flow."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        # s / (1 + s) = 1 / (1 + e^lambda)
        first, last = (1 / (1 + np.exp(schedule.log_snr(t))) for t in (t_start, t_end))
        u = np.linspace(0, 1, steps + 1)
        flow_time = first * (1 - u) + last * u
        with np.errstate(divide="ignore"):
            return schedule.time_at(np.log1p(-flow_time) - np.log(flow_time))
