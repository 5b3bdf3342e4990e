"""Guidance by the difference of two readings: with and without the condition, by a good and by a weak network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from scorediff.denoiser import DenoiserLike, Reading
from scorediff.guidance.base import Guidance, in_v, kinks, read
from scorediff.predictions import DataPrediction, Prediction
from scorediff.states import per_sample

__all__ = ["Autoguidance", "ClassifierFree", "Rescaled"]


@final
@dataclass(frozen=True, eq=False)
class ClassifierFree(Guidance):
    """`negative + scale (positive - negative)`: a network told its conditions, against the same one told others
    (arXiv:2207.12598).

    `scale` is that of Imagen and of diffusers' `guidance_scale`: 1 is no guidance, 0 ignores the conditions. The
    paper's own weight `w`, of which 0 is none, is `ClassifierFree.of_weight`. Both readings run as one batch of 2 B
    rows, or of B where the scale is 0 or 1.

    What the second reading is told instead is in `null`, the same for every sample (a number, or a tensor without the
    batch dimension), or comes with the conditions under a name that begins with `negative_`, one a sample, and then
    holds. Conditions with neither go to both. Raises ValueError where the readings would be told the same.

    >>> model = Denoiser(lambda x, t, label: x * label[:, None], VPLinear(), NoisePrediction())
    >>> guided = ClassifierFree(model, scale=3.0, null={"label": 0.0})
    >>> reading = guided(0.5, torch.ones(2, 1), label=torch.tensor([1.0, 2.0]))
    >>> reading.output.flatten().tolist(), reading.rows
    ([3.0, 6.0], 4)
    """

    denoiser: DenoiserLike
    scale: float
    null: Mapping[str, Any] = field(default_factory=dict)
    prefix: ClassVar[str] = "negative_"

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    @classmethod
    def of_weight(
        cls, denoiser: DenoiserLike, weight: float, null: Mapping[str, Any] | None = None
    ) -> "ClassifierFree":
        """`(1 + weight) positive - weight negative`: the convention of the paper, 0 is no guidance."""
        return cls(denoiser, 1 + weight, null or {})

    def pair(self, t: Any, x: Tensor, **cond: Any) -> tuple[Reading, Reading]:
        if self.scale == 1:
            reading = self.plain(t, x, **cond)
            return reading, reading
        positive, negative = self._told(cond, x)
        both = {key: _side_by_side(key, value, negative[key], len(x)) for key, value in positive.items()}
        times = t if isinstance(t, float) else np.concatenate([t, t])
        told, not_told = _halves(read(self.denoiser, times, torch.cat([x, x]), both))
        return _contrast(told, not_told, self.scale), told

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> Reading:
        if self.scale == 0:
            return read(self.denoiser, t, x, self._told(cond, x)[1])
        return self.pair(t, x, **cond)[0]

    def _told(self, cond: Mapping[str, Any], x: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """What each reading is told; tensors of the second as many rows as the state."""
        positive, given = self._of_denoiser(cond), self._of_guidance(cond)
        lost = given.keys() - positive.keys()
        if lost:
            raise ValueError(f"negative_{min(lost)} is given, but {min(lost)} is not: a negative wants its positive")
        others = {**{k: _for_all(k, v, positive[k]) for k, v in self.null.items() if k in positive}, **given}
        if not others:
            told = ", ".join(sorted(positive)) or "none"
            raise ValueError(
                f"both readings would be told the same (conditions: {told}): give null={{...}}, what a network without "
                "a condition is told, or cond={'negative_...': ...}"
            )
        return positive, {**positive, **others}


@final
@dataclass(frozen=True, eq=False)
class Autoguidance(Guidance):
    """`weak + scale (good - weak)`: a network guided by a smaller or less trained one, both told the same conditions
    (arXiv:2406.02507). A scale of 1 is no guidance, and does not ask the weak one.

    Raises ValueError where the two are on different schedules.
    """

    denoiser: DenoiserLike
    weak: DenoiserLike
    scale: float

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if self.weak.schedule != self.denoiser.schedule:
            raise ValueError(
                f"the weak network is on {self.weak.schedule!r}, the other on {self.denoiser.schedule!r}: give "
                "weak.on(schedule)"
            )

    def pair(self, t: Any, x: Tensor, **cond: Any) -> tuple[Reading, Reading]:
        good = read(self.denoiser, t, x, cond)
        if self.scale == 1:
            return good, good
        weak = read(self.weak, t, x, cond)
        # the two may predict different things
        one, other = (in_v(reading, self.schedule, t, x) for reading in (good, weak))
        guided = _contrast(one, other, self.scale)
        guided.rows, guided.vjps = good.rows + weak.rows, good.vjps + weak.vjps
        return guided, good

    @property
    def breaks(self) -> tuple[float, ...]:
        return (*super().breaks, *getattr(self.weak, "breaks", ()))

    @property
    def kinks(self) -> tuple[str, ...]:
        return (*super().kinks, *kinks(self.weak))

    def check(self, t_start: float, t_end: float) -> None:
        super().check(t_start, t_end)
        if hasattr(self.weak, "check"):
            self.weak.check(t_start, t_end)


@final
@dataclass(frozen=True, eq=False)
class Rescaled(Guidance):
    """A guided output brought back to the standard deviation of the unguided one, by the share `phi`
    (arXiv:2305.08891, section 3.4).

    `of` is the output whose standard deviation over a sample is meant. The paper's, and that of diffusers'
    `guidance_rescale`, is what the network predicts.
    """

    denoiser: Guidance
    phi: float = 0.7
    of: Prediction = DataPrediction()

    def __post_init__(self) -> None:
        if not isinstance(self.denoiser, Guidance):
            raise TypeError(f"only a guidance can be rescaled, such as ClassifierFree, got {self.denoiser!r}")
        if not 0 <= self.phi <= 1:
            raise ValueError(f"phi = {self.phi}: a share from 0 to 1")

    def pair(self, t: Any, x: Tensor, **cond: Any) -> tuple[Reading, Reading]:
        guided, plain = self.denoiser.pair(t, x, **cond)
        a, b = self.of.row(self.schedule, t)
        output, before = (_combined(reading, a, b, x) for reading in (guided, plain))
        stds = [v.flatten(1).std(1).reshape(-1, *(1,) * (x.ndim - 1)) for v in (before, output)]
        # phi output std(plain) / std(guided) + (1 - phi) output
        output = output * (self.phi * stds[0] / stds[1] + (1 - self.phi))
        return Reading(x, output, self.of.solve(self.schedule, t), rows=guided.rows, vjps=guided.vjps), plain

    def plain(self, t: Any, x: Tensor, **cond: Any) -> Reading:
        return self.denoiser.plain(t, x, **cond)


def _check_scale(scale: Any) -> None:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not np.isfinite(scale):
        raise ValueError(f"scale = {scale!r}: a finite number, of which 1 is no guidance")


def _contrast(towards: Reading, away: Reading, scale: float) -> Reading:
    """`away + scale (towards - away)` of two readings of one state with the same coefficients."""
    # data and noise are linear in the output, so the output alone is combined, whatever it predicts
    output = torch.lerp(away.output, towards.output, scale)
    return Reading(towards.x, output, towards.coefficients, rows=towards.rows, vjps=towards.vjps)


def _combined(reading: Reading, a: Any, b: Any, x: Tensor) -> Tensor:
    return reading[0] * per_sample(a, x) + reading[1] * per_sample(b, x)


def _halves(wide: Reading) -> tuple[Reading, Reading]:
    """The readings of the first and of the second half of a batch, each with the counts of the whole."""
    n = len(wide.x) // 2
    (p, q), (r, s) = ((c if np.ndim(c) == 0 else c[:n] for c in row) for row in wide.coefficients)
    first, second = (
        Reading(wide.x[rows], wide.output[rows], ((p, q), (r, s)), rows=wide.rows, vjps=wide.vjps)
        for rows in (slice(0, n), slice(n, None))
    )
    return first, second


def _side_by_side(name: str, positive: Any, negative: Any, batch: int) -> Any:
    """A condition for twice as many rows, first the positive ones."""
    tensors = isinstance(positive, Tensor) and isinstance(negative, Tensor)
    if tensors and positive.shape[:1] == (batch,):
        if positive.shape != negative.shape:
            raise ValueError(
                f"negative_{name} has shape {tuple(negative.shape)} and {name} {tuple(positive.shape)}: both run as "
                "one batch, pad the shorter"
            )
        return torch.cat([positive, negative.to(positive)])
    if positive is not negative:
        raise ValueError(f"{name} and its negative are to run as one batch: give tensors with a row for each sample")
    return positive


def _for_all(name: str, null: Any, positive: Any) -> Any:
    """What one sample is told where it is told nothing, for as many as a condition has rows."""
    if not isinstance(positive, Tensor):
        return null
    value = torch.as_tensor(null).to(positive)
    try:
        return value.expand_as(positive)
    except RuntimeError:
        raise ValueError(
            f"null[{name!r}] has shape {tuple(value.shape)}, that of one sample is {tuple(positive.shape[1:])}"
        ) from None
