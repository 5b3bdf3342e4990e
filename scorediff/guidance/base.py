"""What every guidance is: a denoiser made of another, that can also be read without it."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any, ClassVar

from torch import Tensor

from scorediff._core import registry
from scorediff._core.conditions import Conditions
from scorediff._core.states import per_sample
from scorediff.denoiser import DenoiserBase, DenoiserWrapper, ModelOutput, Rescheduled, checked_pair, described, told
from scorediff.predictions import VPrediction
from scorediff.schedules import Schedule

__all__ = ["Guidance", "check_scale", "in_v", "kinks", "read", "warn_of_kinks"]

_V = VPrediction()


class Guidance(DenoiserWrapper, ABC):
    """A denoiser made of another one, its `denoiser`: every solver sees one equation, whatever it is made of.

    Times `t` are floats or float64 arrays of shape (B,), states `x` of shape (B, ...), as for `DenoiserBase`.
    """

    denoiser: DenoiserBase

    #: Is the reading a smooth function of the state? Where not, no solver keeps an order above 1.
    smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (callable(self.denoiser) and hasattr(self.denoiser, "schedule")):
            raise TypeError(f"{type(self).__name__} wants a denoiser, got {type(self.denoiser).__name__}")

    @abstractmethod
    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[ModelOutput, ModelOutput]:
        """The guided reading, and the one without guidance, by the same evaluations."""

    def own(self, cond: Conditions) -> Conditions:
        """What the denoiser is told of what the guidance is told."""
        return cond

    def plain(self, t: Any, x: Tensor, cond: Conditions) -> ModelOutput:
        """The reading without guidance, alone."""
        return read(self.denoiser, t, x, self.own(cond))

    def told(self, t: Any, x: Tensor, cond: Conditions) -> ModelOutput:
        """The guided reading, under conditions of which it is said which are per sample."""
        return self.pair(t, x, cond)[0]

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> ModelOutput:
        return self.told(t, x, Conditions.of(cond, x.shape[0]))

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def breaks(self) -> tuple[float, ...]:
        """Times at which the reading jumps: adaptive solvers step to them."""
        return tuple(getattr(self.denoiser, "breaks", ()))

    @property
    def kinks(self) -> tuple[str, ...]:
        """What in it is not smooth, by name."""
        return ((type(self).__name__,) if not self.smooth else ()) + kinks(self.denoiser)

    def on(self, schedule: Schedule) -> Rescheduled:
        """The same equation on another schedule: same log-SNR, state rescaled, exact."""
        return Rescheduled(self, schedule)

    def check(self, t_start: float, t_end: float) -> None:
        """Raise ValueError where a run between these times leaves what a network was trained on."""
        if hasattr(self.denoiser, "check"):
            self.denoiser.check(t_start, t_end)

    def to_dict(self) -> dict[str, Any]:
        """What it is, as plain data; tensors by their shapes."""
        return _fields(self)


def check_scale(scale: Any) -> None:
    """Raise ValueError unless it is a finite number."""
    if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise ValueError(f"scale = {scale!r}: a finite number is wanted")


def kinks(denoiser: Any) -> tuple[str, ...]:
    """What in a denoiser is not smooth, by name."""
    return tuple(getattr(denoiser, "kinks", ()))


def warn_of_kinks(denoiser: Any, t_start: float, t_end: float, *, stacklevel: int = 3) -> None:
    """Warn where an order measured on a denoiser would say more of the denoiser than of the solver: it is not smooth
    between these times.
    """
    low, high = sorted((t_start, t_end))
    words = [f"{name} is not smooth" for name in kinks(denoiser)]
    words += [f"it jumps at t = {t:.6g}" for t in getattr(denoiser, "breaks", ()) if low < t < high]
    if words:
        warnings.warn(
            f"an order measured on this denoiser is not the solver's own: {', '.join(words)}", stacklevel=stacklevel
        )


def read(denoiser: DenoiserBase, t: Any, x: Tensor, cond: Conditions) -> ModelOutput:
    """One evaluation, whatever the denoiser returns. Raises ValueError for what is not as the state."""
    pair = told(denoiser, t, x, cond)
    return pair if isinstance(pair, ModelOutput) else _of_v(*checked_pair(pair, x), denoiser.schedule, t, x)


def in_v(reading: ModelOutput, schedule: Schedule, t: Any, x: Tensor) -> ModelOutput:
    """The same reading as one of the v-prediction at `x`, with its counts."""
    made = _of_v(reading[0], reading[1], schedule, t, x)
    made.rows, made.vjps = reading.rows, reading.vjps
    return made


def _of_v(data: Tensor, noise: Tensor, schedule: Schedule, t: Any, x: Tensor) -> ModelOutput:
    # v = alpha eps - sigma x0: the combination from which both come back without a division by alpha or sigma
    v = noise * per_sample(schedule.alpha(t), x) - data * per_sample(schedule.sigma(t), x)
    return ModelOutput(x, v, _V.solve(schedule, t))


def _fields(value: Any) -> dict[str, Any]:
    return {"type": type(value).__name__} | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"type": "Tensor", "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if hasattr(value, "to_dict"):
        return described(value)
    if hasattr(value, "schedule"):
        return {"type": type(value).__name__}  # a denoiser, as it would say of itself
    return _fields(value) if is_dataclass(value) else registry.to_dict(value)
