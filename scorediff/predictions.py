"""What a network predicts: its output is `a_t x0 + b_t eps`, one row that is also its training target."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from scorediff._core.arrays import positive
from scorediff._core.typed import TypedFields
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
class Prediction(TypedFields, ABC):
    """A kind of network output, `a_t x0 + b_t eps`. Times and coefficients are floats or float64 arrays on the host.

    A concrete class goes by the names that its `variants` list, among them those of other libraries.
    """

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


@final
@dataclass(frozen=True)
class NoisePrediction(Prediction):
    """`output = eps` (arXiv:2006.11239)."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"noise-prediction": {}, "epsilon": {}}

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return 0.0, 1.0


@final
@dataclass(frozen=True)
class DataPrediction(Prediction):
    """`output = x0`, the denoised sample."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"data-prediction": {}, "sample": {}}

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return 1.0, 0.0


@final
@dataclass(frozen=True)
class VPrediction(Prediction):
    """`v = alpha eps - sigma x0` (arXiv:2202.00512)."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"v-prediction": {}, "v_prediction": {}}

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return -schedule.sigma(t), schedule.alpha(t)


@final
@dataclass(frozen=True)
class ScorePrediction(Prediction):
    """`grad log p_t(x) = -eps / sigma` (arXiv:2011.13456)."""

    def row(self, schedule: Schedule, t: Any) -> Pair:
        with np.errstate(divide="ignore"):
            return 0.0, np.divide(-1.0, schedule.sigma(t))


@final
@dataclass(frozen=True)
class FlowPrediction(Prediction):
    """`eps - x0`, the velocity of the straight line from data to noise (arXiv:2209.03003)."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"flow-prediction": {}, "flow_prediction": {}}

    def row(self, schedule: Schedule, t: Any) -> Pair:
        return -1.0, 1.0


@final
@dataclass(frozen=True)
class EDMPrediction(Prediction):
    """The raw network F inside EDM's preconditioning, `D = c_skip y + c_out F(c_in y)` with `y = x / alpha`
    (arXiv:2206.00364).

    `data_std` is the standard deviation of the data that the network was trained for, in the units of the data: 0.5
    for EDM's images in [-1, 1], 1 for data brought to unit variance. The number that EDM gives the network for the time
    is `log(sigma / alpha) / 4`, a time map of `Denoiser`. Raises ValueError unless `data_std` is positive.
    """

    data_std: float = 0.5
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "edm-prediction": {},
        "edm-prediction-of-unit-variance": {"data_std": 1.0},
    }

    def __post_init__(self) -> None:
        positive("data_std", self.data_std, "the standard deviation of the data")

    def row(self, schedule: Schedule, t: Any) -> Pair:
        # F = (s D - c^2 E) / (c sqrt(s^2 + c^2)) with s = sigma / alpha, c = data_std
        c, scale = self.data_std, self.input_scale(schedule, t)
        return schedule.sigma(t) * scale / c, -c * schedule.alpha(t) * scale

    def input_scale(self, schedule: Schedule, t: Any) -> Any:
        # c_in y = x / sqrt(sigma^2 + alpha^2 c^2)
        return 1 / np.sqrt(schedule.sigma(t) ** 2 + (self.data_std * schedule.alpha(t)) ** 2)


@final
@dataclass(frozen=True)
class Negated(Prediction):
    """Another prediction with its sign turned.

    `of` is the prediction that is meant; by default `FlowPrediction`, which then is the velocity `x0 - eps` of flows
    whose time 0 is noise (arXiv:2210.02747).
    """

    of: Prediction = FlowPrediction()
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"negated": {}, "negated-v-prediction": {"of": VPrediction()}}

    def row(self, schedule: Schedule, t: Any) -> Pair:
        a, b = self.of.row(schedule, t)
        return -a, -b

    def input_scale(self, schedule: Schedule, t: Any) -> Any:
        return self.of.input_scale(schedule, t)
