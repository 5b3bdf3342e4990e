"""The weight of an error of the network in the loss, at each time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff.predictions import Prediction
from scorediff.schedules import Schedule

__all__ = ["LikelihoodWeighting", "MinSNRWeighting", "OutputWeighting", "SimpleWeighting", "Weighting"]


@dataclass(frozen=True)
class Weighting(ABC):
    """The loss at time t is `w(t) mean (output - target)^2`. Times and weights are float64 arrays on the host."""

    @abstractmethod
    def __call__(self, schedule: Schedule, prediction: Prediction, t: np.ndarray) -> Any:
        """`w(t)`: the weight of the square of an error in the network's output."""


@dataclass(frozen=True)
class _OfNoise(Weighting):
    """A weight of errors in the noise, whatever the network predicts."""

    @abstractmethod
    def of_noise(self, schedule: Schedule, t: np.ndarray) -> Any:
        """The weight of the square of an error in the noise."""

    def __call__(self, schedule: Schedule, prediction: Prediction, t: np.ndarray) -> Any:
        # noise = r x + s output
        _, (_, s) = prediction.solve(schedule, t)
        return self.of_noise(schedule, t) * np.square(s)


@dataclass(frozen=True)
class SimpleWeighting(_OfNoise):
    """1 for an error in the noise, whatever the network predicts: DDPM's L_simple (arXiv:2006.11239)."""

    def of_noise(self, schedule: Schedule, t: np.ndarray) -> Any:
        return np.ones_like(t)


@dataclass(frozen=True)
class MinSNRWeighting(_OfNoise):
    """`min(SNR, gamma)` for an error in the data; `gamma` is 5 in its paper (arXiv:2303.09556)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma = {self.gamma}: above 0")

    def of_noise(self, schedule: Schedule, t: np.ndarray) -> Any:
        # an error in the data is sigma / alpha times that in the noise
        return np.minimum(1.0, self.gamma * np.exp(-2 * schedule.log_snr(t)))


@dataclass(frozen=True)
class LikelihoodWeighting(_OfNoise):
    """`g^2` for an error in the score, times the length of time: half its mean bounds what the model's likelihood lacks
    (arXiv:2101.09258), where times are drawn uniformly.
    """

    def of_noise(self, schedule: Schedule, t: np.ndarray) -> Any:
        return schedule.g2(t) / schedule.sigma(t) ** 2 * (schedule.t_start - schedule.t_end)


@dataclass(frozen=True)
class OutputWeighting(Weighting):
    """1 for an error in the network's output: with `EDMPrediction` that of arXiv:2206.00364, with `FlowPrediction`
    flow matching, with `VPrediction` SNR + 1 for the data.
    """

    def __call__(self, schedule: Schedule, prediction: Prediction, t: np.ndarray) -> Any:
        return np.ones_like(t)
