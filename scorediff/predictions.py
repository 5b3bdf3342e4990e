"""What a network predicts: its output is `a_t x0 + b_t eps`, one row that is also its training target."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff.schedules import Schedule

__all__ = [
    "DataPrediction",
    "EDMPrediction",
    "FlowPrediction",
    "Negated",
    "NoisePrediction",
    "Pair",
    "Prediction",
    "ScorePrediction",
    "VPrediction",
]

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Prediction(ABC):
    """A kind of network output, `a_t x0 + b_t eps`. Times and coefficients are floats or float64 arrays on the host."""

    @abstractmethod
    def row(self, schedule: Schedule, t: Any) -> Pair:
        """`(a_t, b_t)`: the output, and the training target, is `a_t x0 + b_t eps`."""

    def input_scale(self, schedule: Schedule, t: Any) -> Any:
        """What the state is multiplied by before the network sees it."""
        return 1.0

    def solve(self, schedule: Schedule, t: Any) -> tuple[Pair, Pair]:
        """Rows `((p, q), (r, s))` with `data = p x + q output` and `noise = r x + s output`, by one 2x2 solve.

        Raises ValueError where the output does not determine them (noise at alpha = 0, data at sigma = 0, ...).
        """
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        a, b = self.row(schedule, t)
        # x = alpha D + sigma E and output = a D + b E
        det = alpha_t * b - sigma_t * a
        singular = (det == 0) | ~np.isfinite(det)
        if np.any(singular):
            bad = np.asarray(t)[np.asarray(singular)].flat[0]
            raise ValueError(
                f"{type(self).__name__} does not determine data and noise at t = {bad:.6g}, where alpha = "
                f"{schedule.alpha(bad):.6g} and sigma = {schedule.sigma(bad):.6g}: start or end the grid elsewhere"
            )
        return (b / det, -sigma_t / det), (-a / det, alpha_t / det)


@dataclass(frozen=True)
class NoisePrediction(Prediction):
    """`eps` (arXiv:2006.11239)."""

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return 0.0, 1.0


@dataclass(frozen=True)
class DataPrediction(Prediction):
    """`x0`, the denoised sample."""

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return 1.0, 0.0


@dataclass(frozen=True)
class VPrediction(Prediction):
    """`v = alpha eps - sigma x0` (arXiv:2202.00512)."""

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return -schedule.sigma(t), schedule.alpha(t)


@dataclass(frozen=True)
class ScorePrediction(Prediction):
    """`grad log p_t(x) = -eps / sigma` (arXiv:2011.13456)."""

    def row(self, schedule: Schedule, t: Any) -> Pair:
        with np.errstate(divide="ignore"):
            return 0.0, np.divide(-1.0, schedule.sigma(t))


@dataclass(frozen=True)
class FlowPrediction(Prediction):
    """`eps - x0`, the velocity of the straight line from data to noise (arXiv:2209.03003)."""

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return -1.0, 1.0


@dataclass(frozen=True)
class EDMPrediction(Prediction):
    """The raw network F inside EDM's preconditioning, `D = c_skip y + c_out F(c_in y)` with `y = x / alpha`
    (arXiv:2206.00364).

    `data_std` is the standard deviation of the data. EDM's own time number is `log(sigma / alpha) / 4`, a time map.
    """

    data_std: float = 0.5

    def row(self, schedule: Schedule, t: Any) -> Pair:
        # F = (s D - c^2 E) / (c sqrt(s^2 + c^2)) with s = sigma / alpha, c = data_std
        c, scale = self.data_std, self.input_scale(schedule, t)
        return schedule.sigma(t) * scale / c, -c * schedule.alpha(t) * scale

    def input_scale(self, schedule: Schedule, t: Any) -> Any:
        # c_in y = x / sqrt(sigma^2 + alpha^2 c^2)
        return 1 / np.sqrt(schedule.sigma(t) ** 2 + (self.data_std * schedule.alpha(t)) ** 2)


@dataclass(frozen=True)
class Negated(Prediction):
    """Another prediction with its sign turned: the velocity `x0 - eps` of flows whose time 0 is noise
    (arXiv:2210.02747), unless told otherwise.
    """

    of: Prediction = FlowPrediction()

    def row(self, schedule: Schedule, t: Any) -> Pair:
        a, b = self.of.row(schedule, t)
        return -a, -b

    def input_scale(self, schedule: Schedule, t: Any) -> Any:
        return self.of.input_scale(schedule, t)
