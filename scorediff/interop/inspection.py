"""What a network seems to be: whether its outputs make sense, and a first guess at what is wrong where they do not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core import registry
from scorediff.denoiser import Denoiser, DenoiserBase, NetworkOutput, as_denoiser
from scorediff.denoiser.doubts import noisy_modules
from scorediff.guidance import Guidance
from scorediff.noise import start_noise
from scorediff.predictions import EDMPrediction, Prediction
from scorediff.problems import ProbabilityFlow
from scorediff.sampling import sample
from scorediff.schedules import Schedule

__all__ = ["Inspection", "Meaning", "inspect"]

_LEAST, _MOST, _LEVELS = -2.0, 2.0, 5  # log-SNRs where images are neither noise nor clean
#: Numbers that networks are given for a time, by how they are written.
_TIMES: Mapping[str, Callable[[Schedule, float], float]] = {
    "t": lambda schedule, t: t,
    "1 - t": lambda schedule, t: 1 - t,
    "999 t": lambda schedule, t: 999 * t,
    "1000 t": lambda schedule, t: 1000 * t,
    "1000 t - 1": lambda schedule, t: 1000 * t - 1,
    "sigma / alpha": lambda schedule, t: schedule.sigma(t) / schedule.alpha(t),
    "log(sigma / alpha) / 4": lambda schedule, t: -schedule.log_snr(t) / 4,
}
_BETTER, _BETTER_GENERATED = 1.25, 1.5  # by this factor in error another meaning must be better to be mentioned
_SURE = 3.0  # and by so many standard errors over the samples
_LEARNT = 0.8  # generated samples that look as good as this are taken for good ones
_VAST = 50.0
_ROUNDING, _MOST_ROUNDING = 300.0, 0.02  # units in the last place by which kernels may differ from run to run
_SENSITIVE = 1e-3


@dataclass(frozen=True)
class Meaning:
    """What a network may be: its `prediction`, the number it may be given for the `time`, as it is written, and the
    `error` of its data when it is taken so.

    That is the mean square over what the best linear denoiser leaves, the geometric mean over noise levels: below 1 it
    has learnt something.
    """

    prediction: Prediction
    time: str
    error: float

    def __str__(self) -> str:
        return f"{self.prediction!r}, with {self.time} for the time: error {self.error:.3g}"


@dataclass(frozen=True)
class Inspection:
    """What was found of a denoiser.

    `said` is what it says of itself, as plain data, `schedule` its own, and `finite` says whether data and noise are so
    at every noise level. `repeated`: the largest relative distance of a second output for the same input from the
    first, 0 as it should be, up to `rounding`, and `in_training` names the modules that are in training mode and act
    otherwise there. `recombined`: the largest relative distance of `alpha data + sigma noise` from the state.
    `sensitivity`: how far the output moves, relative to its size, when the network is given the other times; None where
    that cannot be tried. `declared`: the error of its data as it declares them, see `Meaning`; `hopeless`: whether that
    is above 1, beyond the scatter of the samples. `better`: what fits better by far, if anything does. `generated`:
    whether it was looked at on samples that it generated, for want of data.
    """

    said: Mapping[str, Any]
    schedule: Schedule
    finite: bool
    repeated: float
    rounding: float
    in_training: tuple[str, ...]
    recombined: float
    sensitivity: float | None
    declared: float
    hopeless: bool
    better: Meaning | None
    generated: bool

    @property
    def faults(self) -> tuple[str, ...]:
        """What looks wrong, in words."""
        words = []
        if not self.finite:
            words.append("its data or noise are not finite at every noise level: look at its weights and its dtype")
        if self.repeated > self.rounding:
            words.append(
                f"the same input gives another output the second time, apart by {self.repeated:.2g} of its size: "
                "dropout, or noise of another kind; call eval() of the network"
            )
        if self.in_training:
            words.append(f"it is in training mode: {', '.join(self.in_training)}; call eval() of the network")
        if self.recombined > 1e-2:
            words.append("alpha data + sigma noise is not the state: its data and its noise do not belong together")
        if self.sensitivity is not None and self.sensitivity < _SENSITIVE:
            words.append("it hardly looks at the time: the number it is given may be of another scale")
        if self.better is not None:
            words.append(f"it looks like {self.better}")
        if self.hopeless:
            on = "samples that it generated" if self.generated else "these data"
            more = "; give data= to look at it with" if self.generated else ""
            words.append(
                f"on {on} it is no better than a linear denoiser: what it predicts, its time, its schedule or the "
                f"scale of the data may be another{more}"
            )
        return tuple(words)

    @property
    def ok(self) -> bool:
        """Whether nothing looks wrong."""
        return not self.faults

    def __str__(self) -> str:
        first, last = self.schedule.t_start, self.schedule.t_end
        ends = " .. ".join(f"{self.schedule.log_snr(t):.3g}" for t in (first, last))
        moved = "not tried: only a Denoiser can be given another"
        if self.sensitivity is not None:
            moved = f"the output moves by {self.sensitivity:.2g} of its size when given other times"
        on = "samples that it generated" if self.generated else "the data given"
        lines = [
            f"declared     {_words(self.said)}",
            f"schedule     {self.schedule!r}, t = {first:.6g} .. {last:.6g}, log-SNR {ends}",
            f"repeats      a second output differs by {self.repeated:.1e}",
            f"recombines   alpha data + sigma noise is the state to {self.recombined:.1e}",
            f"time         {moved}",
            f"data         error {self.declared:.3g} of the best linear denoiser's, on {on}",
        ]
        verdict = ["verdict      nothing looks wrong"] if self.ok else [f"verdict      {w}" for w in self.faults]
        return "\n".join(lines + verdict)


def inspect(
    denoiser: DenoiserBase,
    shape: Sequence[int],
    *,
    data: Tensor | None = None,
    cond: Mapping[str, Any] | None = None,
    n: int = 16,
    seed: int = 0,
) -> Inspection:
    """Look at a denoiser of samples of `shape`, with what it was trained on as `data` of shape (N, ...), or else with
    samples that it generates: those tell a wrong time from a right one, and that something is wrong, but seldom what.

    A `Denoiser` is also taken as if it predicted something else, or were given another number for the time. `cond` are
    conditions for `n` samples, noise is drawn from `seed`. Raises TypeError for a guidance, whose network is to be
    looked at, ValueError for data of another shape, of fewer samples, or all alike.
    """
    denoiser = as_denoiser(denoiser, "inspect")
    if isinstance(denoiser, Guidance):
        raise TypeError(f"{type(denoiser).__name__} is not a network: look at the denoiser that it guides")
    cond, generated = dict(cond or {}), data is None
    if data is None:
        options: dict[str, Any] = {"steps": 12, "cond": cond, "seed": seed, "progress": False, "dtype": torch.float32}
        data = sample(ProbabilityFlow(denoiser), (n, *shape), "dpm++2m", **options).x
    elif data.shape[1:] != tuple(shape) or len(data) < n:
        raise ValueError(f"data of shape {tuple(data.shape)} for {n} samples of shape {tuple(shape)}")
    x0 = data[:n].to(device=denoiser.device, dtype=torch.float32)
    if not generated and not float(x0.var()) > 0:
        raise ValueError("these data are all alike: nothing can be seen on them")
    probe = _Probe(denoiser.schedule, x0, cond, seed)
    with torch.no_grad():
        outputs = [(t, x, denoiser(t, x, **cond)) for t, x in probe.states()]
        again = [denoiser(t, x, **cond) for t, x in probe.states()]
        declared = probe.errors([(t, output[0]) for t, x, output in outputs])
        # of a network alone it is known what it is given and how its output is taken
        network = denoiser if isinstance(denoiser, Denoiser) else None
        meanings = [] if network is None else list(_meanings(network, probe))
        sensitivity = None if network is None else _sensitivity(network, probe)
    best, errors = min(meanings, key=lambda found: found[0].error, default=(None, declared))
    enough = np.log(_BETTER_GENERATED if generated else _BETTER)
    by_far = _sure(declared - errors) and np.mean(declared - errors) > enough
    by_far &= not generated or _overall(declared) > _LEARNT
    return Inspection(
        said=denoiser.to_dict(),
        schedule=denoiser.schedule,
        finite=all(bool(torch.isfinite(part).all()) for *_, output in outputs for part in output),
        repeated=max(_moved(output, second) for (*_, output), second in zip(outputs, again, strict=True)),
        rounding=min(_ROUNDING * torch.finfo(denoiser.dtype or torch.float32).eps, _MOST_ROUNDING),
        in_training=tuple(noisy_modules(denoiser)),
        recombined=max(probe.apart(t, x, output) for t, x, output in outputs),
        sensitivity=sensitivity,
        declared=_overall(declared),
        hopeless=_sure(declared),
        better=best if best is not None and best.error < 1 and by_far else None,
        generated=generated,
    )


def _moved(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """How far data and noise are from those of another evaluation, relative to their size; 0 where not finite."""
    apart = [float((b - a).norm() / a.norm().clamp(min=1e-12)) for a, b in zip(first, second, strict=True)]
    return float(np.nan_to_num(apart, nan=0.0).max())


def _overall(logs: np.ndarray) -> float:
    return float(np.exp(np.mean(logs)))


def _sure(logs: np.ndarray) -> bool:
    """Whether these are positive on average, by more than their scatter allows."""
    mean = float(np.mean(logs))
    return bool(mean > _SURE * float(np.std(logs, ddof=1)) / np.sqrt(len(logs)))


@dataclass(frozen=True)
class _Probe:
    """Samples with noise of several levels on them."""

    schedule: Schedule
    x0: Tensor
    cond: Mapping[str, Any]
    seed: int

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Times at several log-SNRs where images are neither noise nor clean, or else within the schedule's range."""
        ends = [float(np.clip(self.schedule.log_snr(t), -10, 10)) for t in (self.schedule.t_start, self.schedule.t_end)]
        least, most = max(ends[0], _LEAST), min(ends[1], _MOST)
        if most - least < (ends[1] - ends[0]) / 4:
            least, most = ends
        inner = np.linspace(least, most, _LEVELS + 2)[1:-1]
        return tuple(float(self.schedule.time_at(level)) for level in inner)

    def states(self) -> Iterator[tuple[float, Tensor]]:
        """Times, and the noisy samples there."""
        for k, t in enumerate(self.times):
            noise = start_noise(self.seed + k, self.x0)
            yield t, self.x0 * float(self.schedule.alpha(t)) + noise * float(self.schedule.sigma(t))

    def errors(self, found: Sequence[tuple[float, Tensor]]) -> np.ndarray:
        """The logarithm of the error of data found at some times, over that of the best linear denoiser, mean over the
        times, one a sample; vast where it is not finite.
        """
        v = max(float(self.x0.var()), 1e-12)
        logs = []
        for t, data in found:
            alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
            # the variance of x0 given x_t, were x0 white noise of variance v
            linear = v * sigma**2 / (alpha**2 * v + sigma**2)
            squares = (data.float() - self.x0).square().flatten(1).mean(1).double().cpu().numpy()
            logs.append(np.log(np.maximum(squares / linear, 1e-12)))
        return np.nan_to_num(np.mean(logs, axis=0), nan=_VAST, posinf=_VAST)

    def apart(self, t: float, x: Tensor, output: Sequence[Tensor]) -> float:
        """How far data and noise are from making up the state."""
        made = output[0] * float(self.schedule.alpha(t)) + output[1] * float(self.schedule.sigma(t))
        return float((made - x).norm() / x.norm())


def _meanings(denoiser: Denoiser, probe: _Probe) -> Iterator[tuple[Meaning, np.ndarray]]:
    """What else the network may predict, and be given, with the errors of each sample."""
    schedule = denoiser.schedule
    times = {"what it is given now": denoiser.time} | {
        words: (lambda t, number=number: number(schedule, t)) for words, number in _TIMES.items()
    }
    known = dict.fromkeys(registry.names(Prediction).values())  # type: ignore[type-abstract]
    for words, time in times.items():
        outputs: dict[tuple[float, ...], list[NetworkOutput]] = {}
        for prediction in (denoiser.prediction, *known, EDMPrediction(round(float(probe.x0.std()), 2))):
            model = Denoiser(denoiser.net, schedule, prediction, time=time)
            key = tuple(float(prediction.input_scale(schedule, t)) for t in probe.times)
            try:
                # predictions that scale the state alike share the network's outputs
                if key not in outputs:
                    outputs[key] = [model(t, x, **probe.cond) for t, x in probe.states()]
                found = [
                    (t, NetworkOutput(x, output.output, prediction.solve(schedule, t))[0])
                    for (t, x), output in zip(probe.states(), outputs[key], strict=True)
                ]
            except Exception:  # a network may not take such a number at all
                continue
            errors = probe.errors(found)
            yield Meaning(prediction, words, _overall(errors)), errors


def _sensitivity(denoiser: Denoiser, probe: _Probe) -> float:
    """The largest change of the output, over its size, when the network is given another of the times."""
    moved = []
    for t, x in probe.states():
        output = denoiser(t, x, **probe.cond).output
        for other in probe.times:
            # the same input to the network: undo the scale of the other time
            scales = [float(denoiser.prediction.input_scale(denoiser.schedule, u)) for u in (t, other)]
            moved_to = denoiser(other, x * (scales[0] / scales[1]), **probe.cond).output
            moved.append(float((moved_to - output).norm() / output.norm().clamp(min=1e-12)))
    return max(moved)


def _words(said: Mapping[str, Any]) -> str:
    parts = [
        f"{k} = {v['type'] if isinstance(v, Mapping) and 'type' in v else v}" for k, v in said.items() if k != "type"
    ]
    return f"{said['type']}" + (f" ({', '.join(parts)})" if parts else "")
