"""A network, its schedule and its prediction, read as `(data, noise)`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch import Tensor, nn

from scorediff._core import registry
from scorediff._core.conditions import Conditions
from scorediff._core.states import per_sample, version
from scorediff.predictions import Pair, Prediction
from scorediff.schedules import Schedule

__all__ = [
    "Denoiser",
    "DenoiserBase",
    "DenoiserWrapper",
    "ModelOutput",
    "Rescheduled",
    "checked_pair",
    "described",
    "told",
]

TimeMap = Callable[[Any], Any]
_CACHED_TIMES = 4096


class DenoiserBase(Protocol):
    """Anything a problem can be built on: it has a `schedule` and reads a noisy state as data and noise.

    `t` is a float, or a float64 array of shape (B,) with one time per sample; `x` has shape (B, ...), and so have both
    results, with `x = alpha_t data + sigma_t noise`. One call is one evaluation.
    """

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> Sequence[Tensor]: ...


class ModelOutput(Sequence[Tensor]):
    """The pair `(data, noise)`, linear in the state and the network's output, each computed when asked for.

    `data = p x + q output` and `noise = r x + s output` with `coefficients` ((p, q), (r, s)), as `Prediction.solve`
    gives them. `rows` is how many rows went through networks for it, one a sample unless told otherwise, and `vjps` how
    many times a batch was led back through one.
    """

    __slots__ = ("_parts", "coefficients", "output", "rows", "vjps", "x")

    def __init__(
        self, x: Tensor, output: Tensor, coefficients: tuple[Pair, Pair], *, rows: int | None = None, vjps: int = 0
    ) -> None:
        self.x, self.output, self.coefficients = x, output, coefficients
        self.rows, self.vjps = x.shape[0] if rows is None else rows, vjps
        self._parts: list[Tensor | None] = [None, None]

    def terms(self, to_data: float, to_noise: float) -> list[tuple[float, Tensor]]:
        """`to_data data + to_noise noise`, for one common time, as `(coefficient, tensor)` terms in state and output.

        What a step adds up need then never be computed on its own.
        """
        (p, q), (r, s) = self.coefficients
        return [(to_data * p + to_noise * r, self.x), (to_data * q + to_noise * s, self.output)]

    def __len__(self) -> int:
        return 2

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(2)[index]]
        part = self._parts[index]
        if part is None:
            p, q = (per_sample(c, self.x) for c in self.coefficients[index])
            part = self._parts[index] = _linear(p, self.x, q, self.output)
        return part


def _linear(p: Any, x: Tensor, q: Any, output: Tensor) -> Tensor:
    if isinstance(p, float) and isinstance(q, float):
        if p == 0.0:
            return output if q == 1.0 else output * q
        return torch.add(x * p, output, alpha=q)
    return x * p + output * q


class Denoiser:
    """A network that predicts `prediction` on `schedule`, read as `(data, noise)`.

    `net` is any module or callable `(x, t, **cond) -> output` with `x` and the output of shape (B, ...) and `t` of
    shape (B,). It is called in its own dtype (that of its first floating parameter, else that of the state) with `t` in
    float32, or float64 for a float64 network. `time` maps the schedule's time to the number the network wants, on the
    host (floats and float64 arrays): `schedule.index` for a network trained on integer steps, `lambda t: 999 * t`, ...

    Raises TypeError or ValueError where the network returns anything but a floating tensor of the state's shape.

    >>> import torch
    >>> model = Denoiser(lambda x, t: torch.zeros_like(x), VPLinear(), NoisePrediction())
    >>> data, noise = model(0.5, torch.ones(2, 3))
    >>> bool(torch.allclose(data, torch.ones(2, 3) / VPLinear().alpha(0.5)))
    True
    """

    def __init__(
        self, net: Callable[..., Tensor], schedule: Schedule, prediction: Prediction, *, time: TimeMap | None = None
    ) -> None:
        if not callable(net):
            raise TypeError(f"net must be a module or a callable (x, t, **cond), got {type(net).__name__}")
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule such as VPLinear(), got {schedule!r}")
        if not isinstance(prediction, Prediction):
            raise TypeError(f"prediction must be a Prediction such as NoisePrediction(), got {prediction!r}")
        self.net, self.schedule, self.prediction, self.time = net, schedule, prediction, time
        tensors = [*net.parameters(), *net.buffers()] if isinstance(net, nn.Module) else []
        # The tensor itself is kept, not its dtype: `net.half()` and `net.to(device)` after this line are followed.
        self._first = next((p for p in tensors if p.is_floating_point()), None)
        self._at: dict[float, tuple[Any, float, float]] = {}

    @property
    def dtype(self) -> torch.dtype | None:
        """The network's dtype, None for a callable without parameters."""
        return None if self._first is None else self._first.dtype

    @property
    def device(self) -> torch.device | None:
        """The network's device, None for a callable without parameters."""
        return None if self._first is None else self._first.device

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> ModelOutput:
        if not isinstance(t, float):
            t = _host_times(t, x)
        coefficients, scale, number = (isinstance(t, float) and self._at.get(t)) or self._numbers(t)
        dtype = x.dtype if self._first is None else self._first.dtype
        time_dtype = torch.float64 if dtype is torch.float64 else torch.float32
        if isinstance(number, float):
            times = torch.full((len(x),), number, dtype=time_dtype, device=x.device)
        else:
            times = torch.as_tensor(number, dtype=time_dtype).to(x.device)
        scaled = x if isinstance(scale, float) and scale == 1.0 else x * per_sample(scale, x)
        written = version(x)
        try:
            output = self.net(scaled if scaled.dtype is dtype else scaled.to(dtype), times, **cond)
        except RuntimeError as error:
            _explain(self._first, x, cond, error)
            raise
        if version(x) != written:
            raise ValueError(
                "the network wrote into its input, the state: give it a copy, lambda x, t: net(x.clone(), t)"
            )
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(
                f"the network returned {kind}, not a floating tensor: wrap it in a function that returns one"
            )
        if output.shape != x.shape:
            raise ValueError(
                f"the network returned shape {tuple(output.shape)} for a state of shape {tuple(x.shape)} at "
                f"t = {_first(t):.6g}: both must agree (drop a learned variance)"
            )
        return ModelOutput(x, output if output.dtype is x.dtype else output.to(x.dtype), coefficients)

    def score(self, t: Any, x: Tensor, **cond: Any) -> Tensor:
        """`grad log p_t(x) = -noise / sigma_t`, of the shape of `x`."""
        return self(t, x, **cond)[1] * per_sample(-1 / self.schedule.sigma(t), x)

    def velocity(self, t: Any, x: Tensor, **cond: Any) -> Tensor:
        """The drift of the probability flow, `alpha' data + sigma' noise`, of the shape of `x`."""
        data, noise = self(t, x, **cond)
        return data * per_sample(self.schedule.d_alpha(t), x) + noise * per_sample(self.schedule.d_sigma(t), x)

    def on(self, schedule: Schedule) -> "Rescheduled":
        """The same network on another schedule: same log-SNR, state rescaled, exact."""
        return Rescheduled(self, schedule)

    def to_dict(self) -> dict[str, Any]:
        """What it is, as plain data."""
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
        coefficients = self.prediction.solve(self.schedule, t)
        return coefficients, self.prediction.input_scale(self.schedule, t), t if self.time is None else self.time(t)


class DenoiserWrapper:
    """What every denoiser around another one, its `denoiser`, passes on."""

    denoiser: DenoiserBase

    @property
    def dtype(self) -> torch.dtype | None:
        """The network's dtype, if it has one."""
        return getattr(self.denoiser, "dtype", None)

    @property
    def device(self) -> torch.device | None:
        """The network's device, if it has one."""
        return getattr(self.denoiser, "device", None)


class Rescheduled(DenoiserWrapper):
    """A denoiser run on a schedule it was not made for: at the same log-SNR the states differ by `alpha` alone."""

    def __init__(self, denoiser: DenoiserBase, schedule: Schedule) -> None:
        self.denoiser, self.schedule = denoiser, schedule

    @property
    def breaks(self) -> tuple[float, ...]:
        """Times of this schedule at which the denoiser jumps."""
        levels = [self.denoiser.schedule.log_snr(t) for t in getattr(self.denoiser, "breaks", ())]
        least, most = (self.schedule.log_snr(t) for t in reversed(self.schedule.domain))
        return tuple(float(self.schedule.time_at(level)) for level in levels if least <= level <= most)

    @property
    def kinks(self) -> tuple[str, ...]:
        """What in the denoiser is not smooth, by name."""
        return tuple(getattr(self.denoiser, "kinks", ()))

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> Sequence[Tensor]:
        return self.told(t, x, Conditions.of(cond, x.shape[0]))

    def told(self, t: Any, x: Tensor, cond: Conditions) -> Sequence[Tensor]:
        """The reading under conditions of which it is said which are per sample."""
        own = self.denoiser.schedule
        t_own = own.time_at(self.schedule.log_snr(t))
        # x_own / alpha_own = x / alpha, and also x_own / sigma_own = x / sigma: whichever does not vanish
        here, there = (self.schedule.alpha(t), own.alpha(t_own)), (self.schedule.sigma(t), own.sigma(t_own))
        ratio = (here[1] + there[1]) / (here[0] + there[0])
        return told(self.denoiser, t_own, x * per_sample(ratio, x), cond)

    def on(self, schedule: Schedule) -> "Rescheduled":
        """The same network on yet another schedule."""
        return Rescheduled(self.denoiser, schedule)

    def to_dict(self) -> dict[str, Any]:
        """What it is, as plain data."""
        own = registry.to_dict(self.denoiser.schedule)
        return {"type": "Rescheduled", "denoiser": described(self.denoiser), "trained_on": own}

    def check(self, t_start: float, t_end: float) -> None:
        """Raise ValueError where a run between these times leaves what the network was trained on."""
        for t in (t_start, t_end):
            try:
                self.denoiser.schedule.time_at(self.schedule.log_snr(t))
            except ValueError as error:
                raise ValueError(
                    f"at t = {t:.6g} of {self.schedule!r}: {error}; start and end the run inside"
                ) from None


def told(denoiser: DenoiserBase, t: Any, x: Tensor, cond: Conditions) -> Sequence[Tensor]:
    """One evaluation: a denoiser made of others is given the conditions with what is said of them, one of a network
    each by its name.
    """
    return denoiser.told(t, x, cond) if hasattr(denoiser, "told") else denoiser(t, x, **cond)


def checked_pair(pair: Sequence[Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """`(data, noise)` of a denoiser of one's own. Raises ValueError unless both are as the state is."""
    data, noise = pair
    for part in (data, noise):
        if not isinstance(part, Tensor) or part.shape != x.shape or part.dtype != x.dtype:
            what = f"{part.dtype} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"the denoiser returned {what} for a state of {x.dtype} of shape {tuple(x.shape)}")
    return data, noise


def described(denoiser: Any) -> dict[str, Any]:
    """What a denoiser says of itself, as plain data; its type at least."""
    return denoiser.to_dict() if hasattr(denoiser, "to_dict") else {"type": type(denoiser).__name__}


def _explain(first: Tensor | None, x: Tensor, cond: Mapping[str, Any], error: RuntimeError) -> None:
    """Raise ValueError where what a network was given lies on another device than it, or has another floating type."""
    if first is None or not re.search("device|dtype|type", str(error)):
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
