"""What an exact target is, its denoiser, and the Gaussian."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import prod
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.arrays import ArrayLike, Placed, parameter
from scorediff._core.conditions import Conditions
from scorediff._core.states import per_sample
from scorediff.denoiser import DenoiserBase, PairOutput
from scorediff.schedules import Schedule, VPLinear
from scorediff.targets.parameters import Spectrum

__all__ = ["ExactDenoiser", "Gaussian", "Target", "positive_square"]


class Target(ABC):
    """A distribution of the data whose every noised marginal is known: denoiser, density and samples in closed form."""

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @abstractmethod
    def at(self, schedule: Schedule, t: float) -> "Target":
        """The exact distribution of `x_t = alpha x0 + sigma eps` at the time `t`, a target of the same kind."""

    @abstractmethod
    def posterior(self, alpha_t: Any, sigma_t: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(E[x0 | x], E[eps | x])` for `x = alpha x0 + sigma eps` flattened to `rows` of shape (B, D).

        `alpha_t`, `sigma_t`: floats, or float64 arrays of shape (B,). Finite at sigma = 0 and at alpha = 0.
        """

    @abstractmethod
    def _draw(self, n: int, seed: int) -> Tensor:
        """`n` samples of shape (n, D) in float64; the first m of n are the m of the same seed."""

    @abstractmethod
    def _log_density(self, rows: Tensor) -> Tensor:
        """The log-density at `rows` of shape (B, D), of shape (B,)."""

    def denoiser(self, schedule: Schedule) -> "ExactDenoiser":
        """The denoiser of this distribution noised on `schedule`."""
        return ExactDenoiser(self, schedule)

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """`n` independent samples at t = 0, of shape (n, ...), a function of `seed` alone.

        Raises ValueError for a negative `n`.
        """
        if n < 0:
            raise ValueError(f"n is {n}; it wants the number of samples, 0 or more")
        return self._draw(n, seed).reshape(n, *self.event_shape).to(dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density at t = 0 of `x` of shape (B, ...), of shape (B,).

        Raises ValueError where there is no density: a variance or a bandwidth of 0.
        """
        return self._log_density(self.flatten(x)).to(x.dtype)

    def flatten(self, x: Tensor) -> Tensor:
        """`x` of shape (B, ...) as (B, D), in float32 at least.

        Raises TypeError where it is not a tensor of floats, ValueError where its shape is not that of a batch of
        samples.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x wants a tensor of floats, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
        if x.ndim == 0 or x.shape[1:] != self.event_shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; {type(self).__name__} wants {('B', *self.event_shape)}")
        rows = x.reshape(len(x), prod(self.event_shape))
        return rows.float() if x.dtype in (torch.float16, torch.bfloat16) else rows


@final
@dataclass(frozen=True, eq=False)
class ExactDenoiser(DenoiserBase):
    """The minimum mean square error denoiser of a target: `(t, x) -> (E[x0 | x_t], E[eps | x_t])`.

    `target` is the distribution of the data, by default a Gaussian in two dimensions; `schedule` is the one on which it
    is noised, by default VP's. Data and noise are in the dtype of `x`, of shape (B, ...).

    Raises TypeError for conditions (a target has none), ValueError where `t` or `x` has another shape.
    """

    target: Target = field(default_factory=lambda: Gaussian())
    schedule: Schedule = field(default_factory=VPLinear)

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> PairOutput:
        if cond:
            raise TypeError(f"an exact target takes no conditions, got {sorted(cond)}")
        rows = self.target.flatten(x)
        if np.ndim(t) and np.shape(t) != (len(x),):
            raise ValueError(f"t has shape {np.shape(t)}; it wants a float or one time per sample, {(len(x),)}")
        data, noise = self.target.posterior(self.schedule.alpha(t), self.schedule.sigma(t), rows)
        return PairOutput(x, data.to(x.dtype).reshape(x.shape), noise.to(x.dtype).reshape(x.shape))


def positive_square(sigma_t: Any, dtype: torch.dtype) -> Any:
    """`sigma^2`, or a tiny number where that is 0: every quotient then takes its limit sigma -> 0."""
    return np.maximum(np.square(sigma_t), torch.finfo(dtype).tiny ** 0.75)


@final
class Gaussian(Target):
    """N(mean, covariance).

    `mean` has the shape of one sample; `covariance` is a float (isotropic), of the same shape (diagonal), of shape
    (D, D) for D entries (full), or a `Spectrum`, kept as `spectrum`. Variances of 0 are allowed. The default is one of
    two dimensions, off the origin and off the axes, so that nothing holds of it by chance.

    Raises ValueError for another shape, for numbers that are not finite, and for an asymmetric or negative covariance.
    """

    def __init__(
        self,
        mean: ArrayLike = (0.5, -0.5),
        covariance: ArrayLike | Spectrum = ((1.0, 0.3), (0.3, 0.25)),
    ) -> None:
        self.mean = parameter("mean", mean)
        if not isinstance(covariance, Spectrum):
            covariance = Spectrum.of("covariance", covariance, (), self.event_shape)
        self.spectrum = covariance
        self.spectrum.check_fits("covariance", (), self.event_shape)
        self._placed = Placed(self._parts)

    def __repr__(self) -> str:
        return f"Gaussian(event_shape={self.event_shape})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def _parts(self) -> tuple[Tensor, ...]:
        return (self.mean.flatten(), *self.spectrum.parts())

    @property
    def covariance(self) -> Tensor:
        """The covariance as a matrix of shape (D, D)."""
        return self.spectrum.matrix(self.mean.numel())

    def at(self, schedule: Schedule, t: float) -> "Gaussian":
        alpha_t, sigma_t = float(schedule.alpha(t)), float(schedule.sigma(t))
        return Gaussian(alpha_t * self.mean, self.spectrum.at(alpha_t, sigma_t))

    def posterior(self, alpha_t: Any, sigma_t: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, values, *basis = self._placed.like(rows)
        alpha, sigma = per_sample(alpha_t, rows), per_sample(sigma_t, rows)
        square = per_sample(positive_square(sigma_t, rows.dtype), rows)
        gain = (values * per_sample(np.square(alpha_t), rows) + square).reciprocal()
        residual = rows - mean * alpha
        if basis:
            # in the eigenbasis: D = m + alpha v (x - alpha m) / (alpha^2 v + sigma^2)
            residual = gain * (residual @ basis[0])
            return mean + (values * alpha * residual) @ basis[0].T, (residual * sigma) @ basis[0].T
        # D = (sigma^2 m + alpha v x) / (alpha^2 v + sigma^2), eps = sigma (x - alpha m) / (alpha^2 v + sigma^2)
        return (gain * square) * mean + (gain * (values * alpha)) * rows, (gain * sigma) * residual

    def flow(self, schedule: Schedule, t: Any, s: Any, x: Tensor) -> Tensor:
        """The probability flow's exact map of `x` of shape (B, ...) from time `t` to `s`, floats or arrays (B,).

        Raises ValueError from sigma = 0 where a variance is 0: many paths leave that point.
        """
        rows = self.flatten(x)
        alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        if np.any(np.asarray(sigma_t) == 0) and bool((self.spectrum.values == 0).any()):
            raise ValueError(f"no flow leaves sigma = 0 (t = {t}) where a variance is 0; start from a later time")
        mean, values, *basis = self._placed.like(rows)
        before = values * per_sample(np.square(alpha_t), rows) + per_sample(np.square(sigma_t), rows)
        after = values * per_sample(np.square(alpha_s), rows) + per_sample(np.square(sigma_s), rows)
        residual = rows - mean * per_sample(alpha_t, rows)
        # x_s = alpha_s m + sqrt((alpha_s^2 v + sigma_s^2) / (alpha_t^2 v + sigma_t^2)) (x_t - alpha_t m), in the basis
        scale = (after / before).sqrt()
        moved = (scale * (residual @ basis[0])) @ basis[0].T if basis else scale * residual
        return (mean * per_sample(alpha_s, rows) + moved).to(x.dtype).reshape(x.shape)

    def _draw(self, n: int, seed: int) -> Tensor:
        normal = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, self.mean.numel())))
        scaled = normal * self.spectrum.values.sqrt()
        return self.mean.flatten() + (scaled if self.spectrum.basis is None else scaled @ self.spectrum.basis.T)

    def _log_density(self, rows: Tensor) -> Tensor:
        if not bool((self.spectrum.values > 0).all()):
            raise ValueError("a Gaussian with a variance of 0 has no density; ask `.at(schedule, t)` at sigma(t) > 0")
        mean, values, *basis = self._placed.like(rows)
        residual = rows - mean
        residual = residual @ basis[0] if basis else residual
        # log p = -1/2 sum_i [r_i^2 / v_i + log(2 pi v_i)]
        return -0.5 * (residual.square() / values + (2 * math.pi * values).log()).sum(-1)
