"""The two problems a denoiser implies: the probability-flow ODE and the reverse SDE."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff._core.reprs import brief
from scorediff._core.states import per_sample
from scorediff.denoiser import DenoiserBase, as_denoiser
from scorediff.schedules import Schedule

__all__ = ["ProbabilityFlow", "Problem", "ReverseSDE"]


@dataclass(frozen=True)
class ProbabilityFlow:
    """`dx/dt = f x - g^2 score / 2`: the ODE with the marginals of the noising process (arXiv:2011.13456).

    `denoiser` is a `DenoiserBase`, or a user-defined callable `(t, x, **cond) -> (data, noise)` with a `schedule`,
    which then becomes one. Raises TypeError for anything else.
    """

    denoiser: DenoiserBase

    def __post_init__(self) -> None:
        object.__setattr__(self, "denoiser", as_denoiser(self.denoiser, "a problem"))

    def __repr__(self) -> str:
        return f"ProbabilityFlow({self.denoiser!r})"

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def eta(self) -> float:
        return 0.0

    def eta_at(self, t: Any) -> float:
        """The fraction of noise at time `t`: 0."""
        return 0.0

    def drift(self, t: Any, x: Any) -> Any:
        """`dx/dt` at `t`, of the shape (B, ...) of `x`; one evaluation."""
        data, noise = self.denoiser(t, x)
        # dx/dt = alpha' D + sigma' E: f x - g^2 score / 2, but finite wherever alpha' and sigma' are
        return data * per_sample(self.schedule.d_alpha(t), x) + noise * per_sample(self.schedule.d_sigma(t), x)

    def diffusion(self, t: Any) -> float:
        """The coefficient of the noise: 0."""
        return 0.0


@dataclass(frozen=True)
class ReverseSDE:
    """`dx = [f x - (1 + eta^2) g^2 score / 2] dt + eta g dw`, backwards in time (eta = 1: Anderson's;
    arXiv:2011.13456).

    `denoiser` is as for `ProbabilityFlow`. `eta` is the fraction of the noise that Anderson's equation has, 1 by
    default. Every `eta > 0` has the same marginals, and so has a function of time, at least 0, such as SA-Solver's tau
    (arXiv:2309.05019): exponential integrators hold it constant within a step, at its value at the step's start.

    Raises TypeError for a denoiser or an eta that is none, ValueError for an eta that is not positive and finite (0
    everywhere is `ProbabilityFlow`).
    """

    denoiser: DenoiserBase
    eta: float | Callable[[float], float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "denoiser", as_denoiser(self.denoiser, "a problem"))
        if not callable(self.eta) and not isinstance(self.eta, (int, float)):
            raise TypeError(f"eta = {self.eta!r}: give a number, or a function of t that returns one")
        if not callable(self.eta) and not (np.isfinite(self.eta) and self.eta > 0):
            raise ValueError(f"eta = {self.eta} must be positive and finite: for eta = 0 use ProbabilityFlow")

    def __repr__(self) -> str:
        return f"ReverseSDE({self.denoiser!r}, eta={brief(self.eta)})"

    def eta_at(self, t: Any) -> float:
        """Eta at time `t`, a float. Raises ValueError where a function of time gives none that is finite and >= 0."""
        if not callable(self.eta):
            return self.eta
        value = self.eta(float(t))
        if not isinstance(value, (int, float, np.floating)):
            raise TypeError(f"eta(t) = {value!r} at t = {float(t):.6g}: it must be a number")
        eta = float(value)
        if not (np.isfinite(eta) and eta >= 0):
            raise ValueError(f"eta(t) = {eta} at t = {float(t):.6g}: it must be finite and at least 0")
        return eta

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def drift(self, t: Any, x: Any) -> Any:
        """The drift at `t`, of the shape (B, ...) of `x`, for steps `dt < 0`; one evaluation."""
        data, noise = self.denoiser(t, x)
        # alpha' D + sigma' E - eta^2 g^2 score / 2, with score = -E / sigma
        towards_noise = self.schedule.d_sigma(t) + self.eta_at(t) ** 2 * self.schedule.g2(t) / (
            2 * self.schedule.sigma(t)
        )
        return data * per_sample(self.schedule.d_alpha(t), x) + noise * per_sample(towards_noise, x)

    def diffusion(self, t: Any) -> Any:
        """`eta g(t)`."""
        return self.eta_at(t) * np.sqrt(self.schedule.g2(t))


Problem = ProbabilityFlow | ReverseSDE
