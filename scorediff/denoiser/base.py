"""What every denoiser is; the same one on another schedule; and a user-defined callable as one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from scorediff._core import registry
from scorediff._core.conditions import Conditions, note_call
from scorediff._core.reprs import brief
from scorediff._core.states import per_sample, version
from scorediff.denoiser.output import ModelOutput, PairOutput
from scorediff.predictions import DataPrediction, Prediction
from scorediff.schedules import Schedule

__all__ = ["CallableDenoiser", "DenoiserBase", "Rescheduled", "as_denoiser"]


class DenoiserBase(ABC):
    """What a problem is built on: the data and the noise in a noisy state, on a `schedule`.

    `model(t, x, **cond)` is one evaluation. `t` is a float, or a float64 array of shape (B,) with one time per sample;
    `x` has shape (B, ...), and so have data and noise. A tensor among the conditions has a row for each sample; what is
    the same for all is given as `shared(value)`, or is not a tensor.

    A concrete class sets `schedule` and states `evaluate`; all else has a default, and is overridden by a property or
    an attribute of the class. `prediction` is what its output is, where one is meant: the data, unless a network says
    otherwise.
    """

    schedule: Schedule
    prediction: Prediction = DataPrediction()

    @abstractmethod
    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> ModelOutput:
        """One evaluation, given conditions of which it is known which have a row for each sample.

        Whoever keeps the output beyond the next evaluation asks for it `in_own_memory()`, as a call does.
        """

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> ModelOutput:
        return self.evaluate(t, x, Conditions.of(cond, x.shape[0])).in_own_memory()

    def score(self, t: Any, x: Tensor, **cond: Any) -> Tensor:
        """`grad log p_t(x) = -noise / sigma_t`, of the shape of `x`."""
        return self(t, x, **cond)[1] * per_sample(-1 / self.schedule.sigma(t), x)

    def velocity(self, t: Any, x: Tensor, **cond: Any) -> Tensor:
        """The drift of the probability flow, `alpha' data + sigma' noise`, of the shape of `x`."""
        data, noise = self(t, x, **cond)
        return data * per_sample(self.schedule.d_alpha(t), x) + noise * per_sample(self.schedule.d_sigma(t), x)

    def on(self, schedule: Schedule) -> "Rescheduled":
        """The same denoiser on another schedule: same log-SNR, state rescaled, exact."""
        return Rescheduled(self, schedule)

    @property
    def made_of(self) -> tuple["DenoiserBase", ...]:
        """The denoisers that this one is made of, the one that it stands for first."""
        return ()

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The networks and other functions that it calls itself, besides what it is made of: modules among its
        attributes.
        """
        return tuple(value for value in vars(self).values() if isinstance(value, nn.Module))

    @property
    def dtype(self) -> torch.dtype | None:
        """The network's dtype, if there is a network that has one."""
        return self.made_of[0].dtype if self.made_of else None

    @property
    def device(self) -> torch.device | None:
        """The network's device, if there is a network that has one."""
        return self.made_of[0].device if self.made_of else None

    @property
    def discontinuities(self) -> tuple[float, ...]:
        """Times at which the evaluation jumps: adaptive solvers step to them and never over."""
        return tuple(t for denoiser in self.made_of for t in denoiser.discontinuities)

    @property
    def kinks(self) -> tuple[str, ...]:
        """What in it is not a smooth function of the state, by name: no solver keeps an order above 1 there."""
        return tuple(name for denoiser in self.made_of for name in denoiser.kinks)

    def check(self, t_start: float, t_end: float) -> None:
        """Raise ValueError where a run between these times leaves what a network was trained on."""
        for denoiser in self.made_of:
            denoiser.check(t_start, t_end)

    def to_dict(self) -> dict[str, Any]:
        """What it is, as plain data."""
        return {"type": type(self).__name__}


@final
class Rescheduled(DenoiserBase):
    """A denoiser run on a schedule it was not made for: at the same log-SNR the states differ by `alpha` alone.

    `denoiser` is the one on its own schedule, `schedule` the other one; both are arguments.
    """

    def __init__(self, denoiser: DenoiserBase, schedule: Schedule) -> None:
        self.denoiser, self.schedule = as_denoiser(denoiser, "Rescheduled"), schedule
        self.prediction = self.denoiser.prediction

    def __repr__(self) -> str:
        return f"Rescheduled({self.denoiser!r}, {self.schedule!r})"

    @property
    def made_of(self) -> tuple[DenoiserBase, ...]:
        return (self.denoiser,)

    @property
    def discontinuities(self) -> tuple[float, ...]:
        """Times of this schedule at which the denoiser jumps."""
        levels = [self.denoiser.schedule.log_snr(t) for t in self.denoiser.discontinuities]
        least, most = (self.schedule.log_snr(t) for t in reversed(self.schedule.domain))
        return tuple(float(self.schedule.time_at(level)) for level in levels if least <= level <= most)

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> ModelOutput:
        trained_on = self.denoiser.schedule
        u = trained_on.time_at(self.schedule.log_snr(t))
        # x_u / alpha_u = x / alpha_t, and also x_u / sigma_u = x / sigma_t: whichever does not vanish
        here, there = (self.schedule.alpha(t), trained_on.alpha(u)), (self.schedule.sigma(t), trained_on.sigma(u))
        ratio = (here[1] + there[1]) / (here[0] + there[0])
        return self.denoiser.evaluate(u, x * per_sample(ratio, x), cond)

    def on(self, schedule: Schedule) -> "Rescheduled":
        """The same denoiser on yet another schedule."""
        return Rescheduled(self.denoiser, schedule)

    def to_dict(self) -> dict[str, Any]:
        trained_on = registry.to_dict(self.denoiser.schedule)
        return {"type": "Rescheduled", "denoiser": self.denoiser.to_dict(), "trained_on": trained_on}

    def check(self, t_start: float, t_end: float) -> None:
        """Raise ValueError where a run between these times leaves what the network was trained on."""
        for t in (t_start, t_end):
            try:
                self.denoiser.schedule.time_at(self.schedule.log_snr(t))
            except ValueError as error:
                raise ValueError(
                    f"at t = {t:.6g} of {self.schedule!r}: {error}; start and end the run inside"
                ) from None


@final
class CallableDenoiser(DenoiserBase):
    """A user-defined `function` `(t, x, **cond) -> (data, noise)` on a `schedule`.

    What is `shared` among the conditions is unwrapped, and remains so for a denoiser that the function hands it on to.
    A denoiser that has more to say of itself, such as its discontinuities, is a subclass of `DenoiserBase` instead.
    Raises ValueError where data or noise is not of the shape and dtype of the state, or the state was written into.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], schedule: Schedule) -> None:
        self.function, self.schedule = function, schedule

    def __repr__(self) -> str:
        return f"CallableDenoiser({brief(self.function)}, {self.schedule!r})"

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return (self.function,)

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> ModelOutput:
        written = version(x)
        # a copy in inference mode, where torch counts no writes
        given = x.clone() if isinstance(x, Tensor) and x.is_inference() else x
        with cond.unwrapped():
            try:
                found = self.function(t, given, **cond)
            except Exception as error:
                note_call(error, f"the denoiser {brief(self.function)}", x, t, t, cond)
                raise
        if version(x) != written:
            raise ValueError(f"{brief(self.function)} wrote into the state that it was given: let it work on x.clone()")
        if isinstance(found, ModelOutput):  # that of a denoiser which the function calls, with its counts
            return found
        data, noise = found
        return PairOutput(x, data, noise)

    def to_dict(self) -> dict[str, Any]:
        return {"type": type(self.function).__name__}


def as_denoiser(given: Any, wanted_by: str) -> DenoiserBase:
    """A denoiser itself, or a user's callable with a `schedule` as one: done once, where it enters.

    Raises TypeError for anything else, in the name of `wanted_by`.
    """
    if isinstance(given, DenoiserBase):
        return given
    schedule = getattr(given, "schedule", None)
    if not callable(given) or not isinstance(schedule, Schedule):
        raise TypeError(
            f"{wanted_by} wants a denoiser, got {type(given).__name__}: wrap a network in "
            "Denoiser(net, schedule, prediction), or give a callable (t, x, **cond) -> (data, noise) with a schedule"
        )
    return CallableDenoiser(given, schedule)
