"""The times that a network is trained at."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff.schedules import Schedule

__all__ = ["ContinuousTimes", "DiscreteTimes", "LogNormalTimes", "LogSNRTimes", "LogitNormalTimes", "TrainingTimes"]


@dataclass(frozen=True)
class TrainingTimes(ABC):
    """A distribution of times between a schedule's `t_end` and `t_start`, by its quantiles."""

    @abstractmethod
    def quantile(self, schedule: Schedule, u: np.ndarray) -> np.ndarray:
        """The times below which, or above which, the fractions `u` in (0, 1) of all times lie, float64, shaped as u."""


@dataclass(frozen=True)
class ContinuousTimes(TrainingTimes):
    """Uniform in time (arXiv:2011.13456)."""

    def quantile(self, schedule: Schedule, u: np.ndarray) -> np.ndarray:
        return schedule.t_end + u * (schedule.t_start - schedule.t_end)


@dataclass(frozen=True)
class DiscreteTimes(TrainingTimes):
    """`count` times from t_end to t_start, evenly spaced and equally likely: on a `VPDiscrete` of as many betas its
    table (arXiv:2006.11239). 1000 is DDPM's number.
    """

    count: int = 1000

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"count = {self.count}: at least 2 times are needed")

    def quantile(self, schedule: Schedule, u: np.ndarray) -> np.ndarray:
        step = np.minimum(np.floor(u * self.count), self.count - 1)
        return schedule.t_end + step / (self.count - 1) * (schedule.t_start - schedule.t_end)


@dataclass(frozen=True)
class LogSNRTimes(TrainingTimes):
    """Uniform in the log-SNR."""

    def quantile(self, schedule: Schedule, u: np.ndarray) -> np.ndarray:
        least, most = _range(schedule)
        return np.asarray(schedule.time_at(least + u * (most - least)))


@dataclass(frozen=True)
class LogNormalTimes(TrainingTimes):
    """`log(sigma / alpha)` normal, of `mean` and `std`, cut off where the schedule ends; by default EDM's
    (arXiv:2206.00364, table 1).
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std = {self.std}: above 0")

    def quantile(self, schedule: Schedule, u: np.ndarray) -> np.ndarray:
        least, most = _range(schedule)
        z = _normal_quantile(u, (-most - self.mean) / self.std, (-least - self.mean) / self.std)
        return np.asarray(schedule.time_at(np.clip(-(self.mean + self.std * z), least, most)))


@dataclass(frozen=True)
class LogitNormalTimes(TrainingTimes):
    """`log(t / (1 - t))` normal, of `mean` and `std`, cut off where the schedule ends: for schedules on [0, 1]; by
    default those that did best for Stable Diffusion 3 (arXiv:2403.03206).
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std = {self.std}: above 0")

    def quantile(self, schedule: Schedule, u: np.ndarray) -> np.ndarray:
        if schedule.t_start > 1 or schedule.t_end < 0:
            raise ValueError(f"{schedule!r} runs outside [0, 1], where no logit is: take LogNormalTimes")
        with np.errstate(divide="ignore"):
            lo, hi = ((np.log(t) - np.log1p(-t) - self.mean) / self.std for t in (schedule.t_end, schedule.t_start))
        z = _normal_quantile(u, lo, hi)
        return np.clip(1 / (1 + np.exp(-(self.mean + self.std * z))), schedule.t_end, schedule.t_start)


def _range(schedule: Schedule) -> tuple[float, float]:
    """The log-SNRs that training meets; where alpha is 0 at the start, from -10 on."""
    least, most = (float(schedule.log_snr(t)) for t in (schedule.t_start, schedule.t_end))
    return (least if np.isfinite(least) else -10.0), most


def _normal_quantile(u: np.ndarray, lo: Any, hi: Any) -> np.ndarray:
    """Quantiles of a standard normal between `lo` and `hi`."""
    from scipy.special import ndtr, ndtri

    return np.clip(ndtri(ndtr(lo) + u * (ndtr(hi) - ndtr(lo))), lo, hi)
