"""Even steps of something: time, log-SNR, angle, any coordinates, the time of rectified flow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from scorediff.coordinates import Angle, Coordinates, DDIMCoordinates, LogSNR, Time
from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing, uniform_in

__all__ = ["FlowTime", "UniformAngle", "UniformIn", "UniformLogSNR", "UniformTime"]


@dataclass(frozen=True)
class UniformTime(Spacing):
    """Uniform in t."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"time": {}}

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(Time(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformLogSNR(Spacing):
    """Uniform in the log-SNR, `log(alpha / sigma)` (DPM-Solver, arXiv:2206.00927)."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"log-snr": {}}

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(LogSNR(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformAngle(Spacing):
    """Uniform in `atan(sigma / (alpha data_std))`; reaches alpha = 0 and sigma = 0.

    `data_std` is the standard deviation of the data, in their unit: half of the angle is spent on noise levels above
    it. 1 is that of data scaled to unit variance.
    """

    data_std: float = 1.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"angle": {}}

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(Angle(self.data_std), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformIn(Spacing):
    """Uniform in the variable of any `coordinates`, in its root of their degree `rho`: the default of black-box solvers
    in their own coordinates. By name, `uniform:coordinates=angle`.

    By default these are DDIM's, `(sigma / alpha)^(1 / 7)`, which the name `ddim` stands for.
    """

    coordinates: Coordinates = field(default_factory=DDIMCoordinates)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"uniform": {}, "ddim": {"coordinates": DDIMCoordinates()}}

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return uniform_in(self.coordinates, schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class FlowTime(Spacing):
    """Uniform in `s / (1 + s)`, `s = sigma / alpha`: the time of rectified flow (arXiv:2209.03003), on any schedule."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        # s / (1 + s) = 1 / (1 + e^lambda)
        first, last = (1 / (1 + np.exp(schedule.log_snr(t))) for t in (t_start, t_end))
        u = np.linspace(0, 1, steps + 1)
        flow_time = first * (1 - u) + last * u
        with np.errstate(divide="ignore"):
            return schedule.time_at(np.log1p(-flow_time) - np.log(flow_time))
