"""What every guidance is: a denoiser made of another, that can also be evaluated without what it adds."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any, ClassVar

from torch import Tensor

from scorediff._core import registry
from scorediff._core.conditions import Conditions
from scorediff._core.reprs import by_fields
from scorediff._core.typed import TypedFields
from scorediff.denoiser import DenoiserBase, NetworkOutput, as_denoiser

__all__ = ["Guidance", "check_scale", "network_output", "warn_of_kinks"]


class Guidance(TypedFields, DenoiserBase):
    """A denoiser made of another one, its `denoiser`: every solver sees one equation, whatever it is made of.

    Times `t` are floats or float64 arrays of shape (B,), states `x` of shape (B, ...), as for `DenoiserBase`. A
    concrete class is a frozen dataclass with `repr=False`, whose first field is `denoiser`, and states `pair`.
    Raises TypeError for a denoiser that is none.
    """

    denoiser: DenoiserBase

    #: Whether data and noise are smooth functions of the state. Where not, no solver keeps an order above 1.
    smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        denoiser = as_denoiser(self.denoiser, type(self).__name__)
        for name, value in (
            ("denoiser", denoiser),
            ("schedule", denoiser.schedule),
            ("prediction", denoiser.prediction),
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return by_fields(self)

    @abstractmethod
    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        """The guided output, and the one without guidance, by the same evaluations."""

    def passed_on(self, cond: Conditions) -> Conditions:
        """What the denoiser is given of what the guidance is given."""
        return cond

    def plain(self, t: Any, x: Tensor, cond: Conditions) -> NetworkOutput:
        """The output without guidance, alone."""
        return network_output(self.denoiser, t, x, self.passed_on(cond))

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> NetworkOutput:
        return self.pair(t, x, cond)[0]

    @property
    def made_of(self) -> tuple[DenoiserBase, ...]:
        return (self.denoiser,)

    @property
    def kinks(self) -> tuple[str, ...]:
        """What in it is not smooth, by name."""
        return (() if self.smooth else (type(self).__name__,)) + super().kinks

    def to_dict(self) -> dict[str, Any]:
        """What it is, as plain data; tensors by their shapes."""
        return _fields(self)


def check_scale(scale: Any) -> None:
    """Raise ValueError unless it is a finite number."""
    if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise ValueError(f"scale = {scale!r}: a finite number is wanted")


def warn_of_kinks(denoiser: DenoiserBase, t_start: float, t_end: float, *, stacklevel: int = 3) -> None:
    """Warn where an order measured on a denoiser would say more of the denoiser than of the solver: it is not smooth
    between these times.
    """
    low, high = sorted((t_start, t_end))
    words = [f"{name} is not smooth" for name in denoiser.kinks]
    words += [f"it jumps at t = {t:.6g}" for t in denoiser.discontinuities if low < t < high]
    if words:
        warnings.warn(
            f"an order measured on this denoiser is not the solver's own: {', '.join(words)}", stacklevel=stacklevel
        )


def network_output(denoiser: DenoiserBase, t: Any, x: Tensor, cond: Conditions) -> NetworkOutput:
    """One evaluation as the output of one network, whatever the denoiser is."""
    return denoiser.evaluate(t, x, cond).in_own_memory().as_network(denoiser.schedule, t, x)


def _fields(value: Any) -> dict[str, Any]:
    return {"type": type(value).__name__} | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, DenoiserBase):
        return value.to_dict()
    if isinstance(value, Tensor):
        return {"type": "Tensor", "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    return _fields(value) if is_dataclass(value) else registry.to_dict(value)
