"""A network, its schedule and its prediction, as a denoiser."""

import re
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from scorediff._core import registry
from scorediff._core.conditions import Conditions, note_call
from scorediff._core.reprs import brief
from scorediff._core.states import per_sample
from scorediff.denoiser.base import DenoiserBase
from scorediff.denoiser.output import NetworkOutput
from scorediff.predictions import Prediction
from scorediff.schedules import Schedule

__all__ = ["Denoiser"]

TimeMap = Callable[[Any], Any]
_CACHED_TIMES = 4096


@final
class Denoiser(DenoiserBase):
    """A network that predicts `prediction` on `schedule`, evaluated as `(data, noise)`.

    `net` is any module or callable `(x, t, **cond) -> output` with `x` and the output of shape (B, ...) and `t` of
    shape (B,). It is called in its own dtype (that of its first floating parameter, else that of the state) with `t` in
    float32, or float64 for a float64 network. `schedule` and `prediction` are objects or go by name: "vp-linear", and
    "noise-prediction" or, as it is called elsewhere, "epsilon". `time` maps the schedule's time to the number the
    network is given, on the host (floats and float64 arrays): `schedule.index` for a network trained on integer steps,
    `lambda t: 999 * t`; None, the default, gives it the time itself.

    Raises TypeError or ValueError where the network returns anything but a floating tensor of the state's shape.

    >>> import torch
    >>> model = Denoiser(lambda x, t: torch.zeros_like(x), "vp-linear", "epsilon")
    >>> data, noise = model(0.5, torch.ones(2, 3))
    >>> bool(torch.allclose(data, torch.ones(2, 3) / VPLinear().alpha(0.5)))
    True
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        schedule: Schedule | str,
        prediction: Prediction | str,
        *,
        time: TimeMap | None = None,
    ) -> None:
        if not callable(net):
            raise TypeError(f"net must be a module or a callable (x, t, **cond), got {type(net).__name__}")
        self.net, self.time = net, time
        self.schedule = registry.resolve(Schedule, schedule)  # type: ignore[type-abstract]
        self.prediction = registry.resolve(Prediction, prediction)  # type: ignore[type-abstract]
        self._at: dict[float, tuple[Any, float, float]] = {}

    def __repr__(self) -> str:
        said = [_named(self.net), repr(self.schedule), repr(self.prediction)]
        return f"Denoiser({', '.join(said if self.time is None else [*said, f'time={brief(self.time)}'])})"

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return (self.net,)

    @property
    def dtype(self) -> torch.dtype | None:
        """The network's dtype, None for a callable without parameters."""
        first = _first_floating(self.net)
        return None if first is None else first.dtype

    @property
    def device(self) -> torch.device | None:
        """The network's device, None for a callable without parameters."""
        first = _first_floating(self.net)
        return None if first is None else first.device

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> NetworkOutput:
        return self.evaluate(t, x, Conditions.of(cond, x.shape[0])).in_own_memory()

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> NetworkOutput:
        if not isinstance(t, float):
            t = _host_times(t, x)
        coefficients, scale, number = (isinstance(t, float) and self._at.get(t)) or self._numbers(t)
        first = _first_floating(self.net)
        dtype = x.dtype if first is None else first.dtype
        time_dtype = torch.float64 if dtype is torch.float64 else torch.float32
        if isinstance(number, float):
            times = torch.full((len(x),), number, dtype=time_dtype, device=x.device)
        else:
            times = torch.as_tensor(number, dtype=time_dtype).to(x.device)
        scaled = x if isinstance(scale, float) and scale == 1.0 else x * per_sample(scale, x)
        written = None if x.is_inference() else x._version  # in inference mode torch counts no writes
        if written is None and scaled is x:
            scaled = x.clone()
        try:
            output = self.net(scaled if scaled.dtype is dtype else scaled.to(dtype), times, **cond)
        except Exception as error:
            _explain(first, x, cond, error)
            note_call(error, f"the network {_named(self.net)}", x, t, number, cond)
            raise
        if written is not None and x._version != written:
            raise ValueError(
                "the network wrote into its input, the state: give it a copy, lambda x, t: net(x.clone(), t)"
            )
        _check_output(output, x, t)
        return NetworkOutput(x, output if output.dtype is x.dtype else output.to(x.dtype), coefficients)

    def to_dict(self) -> dict[str, Any]:
        said = {"prediction": registry.to_dict(self.prediction), "time": registry.to_dict(self.time)}
        return {"type": "Denoiser", **said}

    def _numbers(self, t: Any) -> tuple[Any, Any, Any]:
        """What the host must know at `t`: the coefficients of data and noise, the input scale, the network's time."""
        if not isinstance(t, float):
            return self._numbers_at(t)
        if len(self._at) >= _CACHED_TIMES:
            self._at.clear()
        (data, noise), scale, number = self._numbers_at(t)
        coefficients = (tuple(map(float, data)), tuple(map(float, noise)))
        known = self._at[t] = (coefficients, float(scale), float(number))
        return known

    def _numbers_at(self, t: Any) -> tuple[Any, Any, Any]:
        number = t if self.time is None else _checked_number(self.time(t), t)
        return self.prediction.solve(self.schedule, t), self.prediction.input_scale(self.schedule, t), number


def _checked_number(number: Any, t: Any) -> Any:
    """What `time(t)` gave, one number or as many as there are times. Raises ValueError where it is not, or is NaN."""
    try:
        numbers = np.array(number)
        if numbers.dtype.kind not in "iuf":
            raise TypeError(f"it is of {numbers.dtype}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"time(t) = {brief(number)} at t = {_first(t):.6g}: a number on the host is wanted") from error
    numbers = numbers.astype(np.float64)
    if numbers.shape not in ((), np.shape(t)):
        raise ValueError(f"time(t) is of shape {numbers.shape} for times of shape {np.shape(t)}: both must agree")
    if np.isnan(numbers).any():
        at = _first(t) if numbers.ndim == 0 else float(t[np.isnan(numbers)][0])
        raise ValueError(f"time(t) is NaN at t = {at:.6g}: no network can be given that for the time")
    return float(numbers) if numbers.ndim == 0 else numbers


def _first_floating(net: Any) -> Tensor | None:
    """A network's first floating parameter, or buffer where it has none.

    Looked up whenever it is asked for: `load_state_dict(assign=True)`, `to_empty` and a layer put in the place of
    another make new ones.
    """
    if not isinstance(net, nn.Module):
        return None
    first = _first_parameter(net)
    return next((b for b in net.buffers() if b.is_floating_point()), None) if first is None else first


def _first_parameter(module: nn.Module) -> Tensor | None:
    # the first of module.parameters(), which takes ten times as long to begin
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_floating_point():
            return parameter
    for child in module._modules.values():
        found = None if child is None else _first_parameter(child)
        if found is not None:
            return found
    return None


def _named(net: Any) -> str:
    """A network in words: its class, and how many parameters it has; a function by its name."""
    if not isinstance(net, nn.Module):
        return brief(net)
    return f"{type(net).__name__} of {sum(p.numel() for p in net.parameters()):,} parameters"


def _check_output(output: Any, x: Tensor, t: Any) -> None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"the network returned {kind}, not a floating tensor: wrap it in a function that returns one")
    if output.shape != x.shape:
        raise ValueError(
            f"the network returned shape {tuple(output.shape)} for a state of shape {tuple(x.shape)} at "
            f"t = {_first(t):.6g}: both must agree (drop a learned variance)"
        )


def _explain(first: Tensor | None, x: Tensor, cond: Mapping[str, Any], error: Exception) -> None:
    """Raise ValueError where what a network was given lies on another device than it, or has another floating type."""
    if first is None or not isinstance(error, RuntimeError) or not re.search("device|dtype|type", str(error)):
        return
    for name, value in {"the state": x, **{f"cond[{key!r}]": value for key, value in cond.items()}}.items():
        if not isinstance(value, Tensor):
            continue
        if value.device != first.device:
            raise ValueError(f"{name} is on {value.device}, the network on {first.device}: move one of them") from error
        if value is not x and value.is_floating_point() and value.dtype != first.dtype:
            raise ValueError(f"{name} is of {value.dtype}, the network of {first.dtype}: convert it") from error


def _host_times(t: Any, x: Tensor) -> Any:
    """`t` as a float, or a float64 array of shape (B,)."""
    times = np.asarray(t.cpu() if isinstance(t, Tensor) else t, dtype=np.float64)
    if times.ndim == 0:
        return float(times)
    if times.shape != (x.shape[0],):
        raise ValueError(f"times of shape {times.shape} for {x.shape[0]} samples: give one time, or one per sample")
    return times


def _first(t: Any) -> float:
    return t if isinstance(t, float) else float(t[0])
