"""Guidance by the difference of two evaluations: with and without the condition, by a good and by a weak network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff._core.states import per_sample
from scorediff.denoiser import DenoiserBase, NetworkOutput, as_denoiser
from scorediff.guidance.base import Guidance, check_scale, network_output
from scorediff.predictions import Prediction

__all__ = ["Autoguidance", "ClassifierFree", "Rescaled"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class ClassifierFree(Guidance):
    """`negative + scale (positive - negative)`: a network that is given its conditions, against the same one that is
    given others (arXiv:2207.12598).

    `denoiser` is the network. `scale` is that of Imagen and of diffusers' `guidance_scale`: 1 means no guidance, 0
    ignores the conditions; which one suits depends on the network, so there is no default. The paper's own weight `w`,
    of which 0 is none, is `ClassifierFree.of_weight`. Both evaluations run as one batch of 2 B rows; at scale 1 there
    is only one.

    What the second evaluation is given instead is in `null`, the same for every sample (a number, or a tensor without
    the batch dimension), empty by default; or it comes with the conditions under a name that begins with `negative_`,
    one a sample, and then holds. Conditions with neither go to both. Raises ValueError where both would be given the
    same.

    >>> model = Denoiser(lambda x, t, label: x * label[:, None], VPLinear(), NoisePrediction())
    >>> guided = ClassifierFree(model, scale=3.0, null={"label": 0.0})
    >>> output = guided(0.5, torch.ones(2, 1), label=torch.tensor([1.0, 2.0]))
    >>> output.output.flatten().tolist(), output.rows
    ([3.0, 6.0], 4)
    """

    denoiser: DenoiserBase
    scale: float
    null: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale)

    @classmethod
    def of_weight(
        cls, denoiser: DenoiserBase, weight: float, null: Mapping[str, Any] | None = None
    ) -> "ClassifierFree":
        """`(1 + weight) positive - weight negative`: the convention of the paper, where 0 means no guidance."""
        return cls(denoiser, 1 + weight, null or {})

    def passed_on(self, cond: Conditions) -> Conditions:
        return cond.without(_NEGATIVE)

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        if self.scale == 1:
            plain = self.plain(t, x, cond)
            return plain, plain
        positive = self.passed_on(cond)
        negative = self._negative(positive, cond.beginning(_NEGATIVE))
        wide = Conditions(
            {k: torch.cat([v, negative.get(k, v)]) if k in positive.per_sample else v for k, v in positive.items()},
            positive.per_sample,
        )
        times = t if isinstance(t, float) else np.concatenate([t, t])
        towards, away = _halves(network_output(self.denoiser, times, torch.cat([x, x]), wide))
        return _contrast(towards, away, self.scale), towards

    def _negative(self, positive: Conditions, given: Conditions) -> dict[str, Tensor]:
        """What the second evaluation is given instead, as many rows as there are of the first."""
        known = ", ".join(positive) or "none"
        for name in given.keys() - positive.keys():
            raise ValueError(f"negative_{name} is given, but {name} is not (conditions: {known})")
        for name in self.null.keys() - positive.keys():
            raise ValueError(f"null has {name}, which is not among the conditions ({known}): give it in cond=")
        made = {}
        for name, value in {**self.null, **given}.items():
            if name not in positive.per_sample:
                raise ValueError(
                    f"{name} and its negative run as one batch: give it as a tensor, a row for each sample"
                )
            made[name] = _as_rows(name, value, positive[name], of_each=name in given.per_sample)
        if not made:
            raise ValueError(
                f"both evaluations would be given the same (conditions: {known}): give null={{...}}, what stands for "
                "no condition, or cond={'negative_...': ...}"
            )
        return made


@final
@dataclass(frozen=True, eq=False, repr=False)
class Autoguidance(Guidance):
    """`weak + scale (good - weak)`: a network guided by a smaller or less trained one, both given the same conditions
    (arXiv:2406.02507).

    `denoiser` is the good one, `weak` the other. `scale` has no default, since it depends on both; 1 means no guidance,
    and does not evaluate the weak one. Raises ValueError where the two are on different schedules.
    """

    denoiser: DenoiserBase
    weak: DenoiserBase
    scale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale)
        object.__setattr__(self, "weak", as_denoiser(self.weak, "Autoguidance"))
        if self.weak.schedule != self.denoiser.schedule:
            raise ValueError(
                f"the weak network is on {self.weak.schedule!r}, the other on {self.denoiser.schedule!r}: give "
                "weak.on(schedule)"
            )

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        good = network_output(self.denoiser, t, x, cond)
        if self.scale == 1:
            return good, good
        weak = network_output(self.weak, t, x, cond)
        # the two may predict different things
        towards, away = (output.in_v(self.schedule, t, x) for output in (good, weak))
        guided = _contrast(towards, away, self.scale)
        return guided.with_output(guided.output, rows=weak.rows, vjps=weak.vjps), good

    @property
    def made_of(self) -> tuple[DenoiserBase, ...]:
        return (self.denoiser, self.weak)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Rescaled(Guidance):
    """A guided output brought back towards the standard deviation of the unguided one (arXiv:2305.08891, section 3.4).

    `denoiser` is the guidance. `phi` is how far: 0 leaves the guided output, 1 gives it the whole standard deviation of
    the other, 0.7, the default, is the paper's. `of` is the prediction whose standard deviation over a sample is meant;
    None, the default, is what the network predicts, as in the paper and by diffusers' `guidance_rescale`. Raises
    TypeError for a denoiser that is not a guidance.
    """

    denoiser: Guidance
    phi: float = 0.7
    of: Prediction | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.denoiser, Guidance):
            raise TypeError(f"only a guidance can be rescaled, such as ClassifierFree, got {self.denoiser!r}")
        super().__post_init__()
        if not 0 <= self.phi <= 1:
            raise ValueError(f"phi = {self.phi}: a fraction from 0 to 1")

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        guided, plain = self.denoiser.pair(t, x, cond)
        if not len(x):  # of which torch knows no standard deviation
            return guided, plain
        of = self.prediction if self.of is None else self.of
        a, b = (per_sample(c, x) for c in of.row(self.schedule, t))
        output, before = (found[0] * a + found[1] * b for found in (guided, plain))
        stds = [v.flatten(1).std(1, correction=0).reshape(-1, *(1,) * (x.ndim - 1)) for v in (before, output)]
        # phi output std(plain) / std(guided) + (1 - phi) output: what it adds to the output, 0 where nothing varies
        added = output * (self.phi * (torch.where(stds[1] > 0, stds[0] / stds[1], 1.0) - 1))
        (_, q), (_, s) = of.solve(self.schedule, t)
        # data and noise gain q and s times that, so v gains alpha s - sigma q times that
        gain = self.schedule.alpha(t) * s - self.schedule.sigma(t) * q
        made = guided.in_v(self.schedule, t, x)
        return made.with_output(made.output + added * per_sample(gain, x)), plain

    def plain(self, t: Any, x: Tensor, cond: Conditions) -> NetworkOutput:
        return self.denoiser.plain(t, x, cond)


_NEGATIVE = "negative_"


def _contrast(towards: NetworkOutput, away: NetworkOutput, scale: float) -> NetworkOutput:
    """`away + scale (towards - away)` of two outputs at one state with the same coefficients."""
    # data and noise are linear in the output, so the output alone is combined, whatever it predicts
    output = torch.lerp(away.output, towards.output, float(scale))
    return towards.with_output(output)


def _halves(wide: NetworkOutput) -> tuple[NetworkOutput, NetworkOutput]:
    """The outputs at the first and at the second half of a batch, each with the counts of the whole."""
    n = len(wide.x) // 2
    (p, q), (r, s) = ((c if np.ndim(c) == 0 else c[:n] for c in row) for row in wide.coefficients)
    first, second = (
        NetworkOutput(wide.x[rows], wide.output[rows], ((p, q), (r, s)), rows=wide.rows, vjps=wide.vjps)
        for rows in (slice(0, n), slice(n, None))
    )
    return first, second


def _as_rows(name: str, value: Any, positive: Tensor, *, of_each: bool) -> Tensor:
    """What the second evaluation is given, in the shape of what the first one is: from a row `of_each` sample, or from
    a number or one row for all. What broadcasts by chance, since a side is as long as the batch, is refused.
    """
    try:
        rows = torch.as_tensor(value).to(positive)
        if not of_each:
            one = rows[0] if rows.ndim == positive.ndim and len(rows) == 1 else rows
            return one.expand(positive.shape[1:]).expand_as(positive)
        if rows.ndim == positive.ndim:
            return rows.expand_as(positive)
    except (TypeError, RuntimeError):
        pass
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    raise ValueError(
        f"{name} is of shape {tuple(positive.shape)}, its negative {type(value).__name__}{shape}: both run as one "
        "batch, give a number, a tensor of that shape, or one without the batch dimension; pad the shorter text"
    )
