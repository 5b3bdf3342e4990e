"""What every guidance is: a denoiser made of another, that can also be read without it."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorediff import registry
from scorediff.denoiser import DenoiserLike, Reading, Rescheduled, described
from scorediff.predictions import VPrediction
from scorediff.schedules import Schedule
from scorediff.states import per_sample

__all__ = ["Guidance", "as_reading", "in_v", "kinks", "read", "warn_of_kinks"]

_V = VPrediction()


class Guidance(ABC):
    """A denoiser made of another one, its `denoiser`: every solver sees one equation, whatever it is made of.

    Times `t` are floats or float64 arrays of shape (B,), states `x` of shape (B, ...), as for `DenoiserLike`.
    """

    denoiser: DenoiserLike

    #: Is the reading a smooth function of the state? Where not, no solver keeps an order above 1.
    smooth: ClassVar[bool] = True
    #: Conditions whose names begin so are for the guidance; the denoiser does not see them.
    prefix: ClassVar[str] = ""

    @abstractmethod
    def pair(self, t: Any, x: Tensor, **cond: Any) -> tuple[Reading, Reading]:
        """The guided reading, and the one without guidance, by the same evaluations."""

    def plain(self, t: Any, x: Tensor, **cond: Any) -> Reading:
        """The reading without guidance, alone."""
        return read(self.denoiser, t, x, self._of_denoiser(cond))

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> Reading:
        return self.pair(t, x, **cond)[0]

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def dtype(self) -> torch.dtype | None:
        """The network's dtype, if it has one."""
        return getattr(self.denoiser, "dtype", None)

    @property
    def device(self) -> torch.device | None:
        """The network's device, if it has one."""
        return getattr(self.denoiser, "device", None)

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
        said = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"type": type(self).__name__, **said}

    def _of_denoiser(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in cond.items() if not (self.prefix and key.startswith(self.prefix))}

    def _of_guidance(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        n = len(self.prefix)
        return {key[n:]: value for key, value in cond.items() if n and key.startswith(self.prefix)}


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


def read(denoiser: DenoiserLike, t: Any, x: Tensor, cond: Mapping[str, Any]) -> Reading:
    """One evaluation, as a `Reading` whatever the denoiser returns."""
    return as_reading(denoiser(t, x, **cond), denoiser.schedule, t, x)


def as_reading(pair: Sequence[Tensor], schedule: Schedule, t: Any, x: Tensor) -> Reading:
    """`(data, noise)` as a `Reading`, or itself where it is one."""
    if isinstance(pair, Reading):
        return pair
    data, noise = pair
    # v = alpha eps - sigma x0: the combination from which both come back without a division by alpha or sigma
    v = noise * per_sample(schedule.alpha(t), x) - data * per_sample(schedule.sigma(t), x)
    return Reading(x, v, _V.solve(schedule, t))


def in_v(reading: Reading, schedule: Schedule, t: Any, x: Tensor) -> Reading:
    """The same reading as one of the v-prediction at `x`, with its counts."""
    made = as_reading((reading[0], reading[1]), schedule, t, x)
    made.rows, made.vjps = reading.rows, reading.vjps
    return made


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return described(value)
    if isinstance(value, Tensor):
        return {"type": "Tensor", "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return registry.to_dict(value)
