"""What a network seems to be: whether its readings make sense, and a first guess at what is wrong where they do not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff.denoiser import Denoiser, DenoiserBase, ModelOutput, described
from scorediff.guidance import Guidance
from scorediff.noise import start_noise
from scorediff.predictions import (
    DataPrediction,
    EDMPrediction,
    FlowPrediction,
    Negated,
    NoisePrediction,
    Prediction,
    ScorePrediction,
    VPrediction,
)
from scorediff.problems import ProbabilityFlow
from scorediff.sampling import sample
from scorediff.schedules import Schedule

__all__ = ["Inspection", "Meaning", "inspect"]

_LEAST, _MOST, _LEVELS = -2.0, 2.0, 5  # log-SNRs where images are neither noise nor clean
_PREDICTIONS = (
    NoisePrediction(),
    DataPrediction(),
    VPrediction(),
    Negated(VPrediction()),
    ScorePrediction(),
    FlowPrediction(),
    Negated(FlowPrediction()),
    EDMPrediction(0.5),
    EDMPrediction(1.0),
)
#: Numbers that networks are told for a time, by how they are written.
_TIMES: Mapping[str, Callable[[Schedule, float], float]] = {
    "t": lambda schedule, t: t,
    "1 - t": lambda schedule, t: 1 - t,
    "999 t": lambda schedule, t: 999 * t,
    "1000 t": lambda schedule, t: 1000 * t,
    "1000 t - 1": lambda schedule, t: 1000 * t - 1,
    "sigma / alpha": lambda schedule, t: schedule.sigma(t) / schedule.alpha(t),
    "log(sigma / alpha) / 4": lambda schedule, t: -schedule.log_snr(t) / 4,
}
_BETTER, _BETTER_OWN = 1.25, 1.5  # by this factor in error another meaning must be better, to be worth a word
_SURE = 3.0  # and by so many standard errors over the samples
_LEARNT = 0.8  # samples of its own that look as good as this are taken for good ones
_VAST = 50.0
_SENSITIVE = 1e-3


@dataclass(frozen=True)
class Meaning:
    """What a network may predict, what it may be told for the time, and the `error` of its data when it is read so.

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

    `recombined`: the largest relative distance of `alpha data + sigma noise` from the state. `sensitivity`: how far the
    output moves, relative to its size, when the network is told the other times; None where that cannot be tried.
    `declared`: the error of its data as it is read, see `Meaning`; `hopeless`: is that above 1, beyond the scatter of
    the samples? `better`: what fits better by far, if anything does. `own`: was it looked at on samples of its own, for
    want of data?
    """

    said: Mapping[str, Any]
    schedule: Schedule
    finite: bool
    recombined: float
    sensitivity: float | None
    declared: float
    hopeless: bool
    better: Meaning | None
    own: bool

    @property
    def faults(self) -> tuple[str, ...]:
        """What looks wrong, in words."""
        words = []
        if not self.finite:
            words.append("its readings are not finite at every noise level: look at its weights and its dtype")
        if self.recombined > 1e-2:
            words.append("alpha data + sigma noise is not the state: its data and its noise do not belong together")
        if self.sensitivity is not None and self.sensitivity < _SENSITIVE:
            words.append("it hardly looks at the time: the number it is told may be of another scale")
        if self.better is not None:
            words.append(f"it looks like {self.better}")
        if self.hopeless:
            on = "samples of its own" if self.own else "these data"
            more = "; give data= to look at it with" if self.own else ""
            words.append(
                f"on {on} it is no better than a linear denoiser: what it predicts, its time, its schedule or the "
                f"scale of the data may be another{more}"
            )
        return tuple(words)

    @property
    def ok(self) -> bool:
        """Does nothing look wrong?"""
        return not self.faults

    def __str__(self) -> str:
        first, last = self.schedule.t_start, self.schedule.t_end
        ends = " .. ".join(f"{self.schedule.log_snr(t):.3g}" for t in (first, last))
        moved = "not tried: only a Denoiser can be told another"
        if self.sensitivity is not None:
            moved = f"the output moves by {self.sensitivity:.2g} of its size when told other times"
        on = "samples of its own" if self.own else "the data given"
        lines = [
            f"reads as     {_words(self.said)}",
            f"schedule     {self.schedule!r}, t = {first:.6g} .. {last:.6g}, log-SNR {ends}",
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
    samples of its own: those tell a wrong time from a right one, and that something is wrong, but seldom what.

    A `Denoiser` is also read as if it predicted something else, or were told another number for the time. `cond` are
    conditions for `n` samples. Raises TypeError for a guidance, whose network is to be looked at, ValueError for data
    of another shape, of fewer samples, or all alike.
    """
    if isinstance(denoiser, Guidance):
        raise TypeError(f"{type(denoiser).__name__} is no network's own reading: look at the denoiser that it guides")
    cond, own = dict(cond or {}), data is None
    if data is None:
        options: dict[str, Any] = {"steps": 12, "cond": cond, "seed": seed, "progress": False, "dtype": torch.float32}
        data = sample(ProbabilityFlow(denoiser), (n, *shape), "dpm++2m", **options).x
    elif data.shape[1:] != tuple(shape) or len(data) < n:
        raise ValueError(f"data of shape {tuple(data.shape)} for {n} samples of shape {tuple(shape)}")
    x0 = data[:n].to(device=getattr(denoiser, "device", None), dtype=torch.float32)
    if not own and not float(x0.var()) > 0:
        raise ValueError("these data are all alike: nothing can be seen on them")
    probe = _Probe(denoiser.schedule, x0, cond, seed)
    with torch.no_grad():
        # as it gives them: made into a ModelOutput, they would belong together
        readings = [(t, x, denoiser(t, x, **cond)) for t, x in probe.states()]
        declared = probe.errors([(t, r[0]) for t, x, r in readings])
        meanings = list(_meanings(denoiser, probe)) if isinstance(denoiser, Denoiser) else []
        sensitivity = _sensitivity(denoiser, probe) if isinstance(denoiser, Denoiser) else None
    best, errors = min(meanings, key=lambda found: found[0].error, default=(None, declared))
    by_far = _sure(declared - errors) and np.mean(declared - errors) > np.log(_BETTER_OWN if own else _BETTER)
    by_far &= not own or _overall(declared) > _LEARNT
    return Inspection(
        said=described(denoiser),
        schedule=denoiser.schedule,
        finite=all(bool(torch.isfinite(part).all()) for *_, r in readings for part in (r[0], r[1])),
        recombined=max(probe.apart(t, x, r) for t, x, r in readings),
        sensitivity=sensitivity,
        declared=_overall(declared),
        hopeless=_sure(declared),
        better=best if best is not None and best.error < 1 and by_far else None,
        own=own,
    )


def _overall(logs: np.ndarray) -> float:
    return float(np.exp(np.mean(logs)))


def _sure(logs: np.ndarray) -> bool:
    """Are these positive on average, by more than their scatter allows?"""
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

    def apart(self, t: float, x: Tensor, reading: Sequence[Tensor]) -> float:
        """How far data and noise are from making up the state."""
        made = reading[0] * float(self.schedule.alpha(t)) + reading[1] * float(self.schedule.sigma(t))
        return float((made - x).norm() / x.norm())


def _meanings(denoiser: Denoiser, probe: _Probe) -> Iterator[tuple[Meaning, np.ndarray]]:
    """What else the network may predict, and be told, with the errors of each sample."""
    schedule = denoiser.schedule
    times = {"what it is told now": denoiser.time} | {
        words: (lambda t, number=number: number(schedule, t)) for words, number in _TIMES.items()
    }
    for words, time in times.items():
        outputs: dict[tuple[float, ...], list[ModelOutput]] = {}
        for prediction in (denoiser.prediction, *_PREDICTIONS, EDMPrediction(round(float(probe.x0.std()), 2))):
            model = Denoiser(denoiser.net, schedule, prediction, time=time)
            key = tuple(float(prediction.input_scale(schedule, t)) for t in probe.times)
            try:
                # predictions that scale the state alike share the network's outputs
                if key not in outputs:
                    outputs[key] = [model(t, x, **probe.cond) for t, x in probe.states()]
                found = [
                    (t, ModelOutput(x, r.output, prediction.solve(schedule, t))[0])
                    for (t, x), r in zip(probe.states(), outputs[key], strict=True)
                ]
            except Exception:  # a network may not take such a number at all
                continue
            errors = probe.errors(found)
            yield Meaning(prediction, words, _overall(errors)), errors


def _sensitivity(denoiser: Denoiser, probe: _Probe) -> float:
    """The largest change of the output, over its size, when the network is told another of the times."""
    moved = []
    for t, x in probe.states():
        output = denoiser(t, x, **probe.cond).output
        for other in probe.times:
            # the same input to the network: undo the scale of the other time
            scales = [float(denoiser.prediction.input_scale(denoiser.schedule, u)) for u in (t, other)]
            told = denoiser(other, x * (scales[0] / scales[1]), **probe.cond).output
            moved.append(float((told - output).norm() / output.norm().clamp(min=1e-12)))
    return max(moved)


def _words(said: Mapping[str, Any]) -> str:
    parts = [
        f"{k} = {v['type'] if isinstance(v, Mapping) and 'type' in v else v}" for k, v in said.items() if k != "type"
    ]
    return f"{said['type']}" + (f" ({', '.join(parts)})" if parts else "")
