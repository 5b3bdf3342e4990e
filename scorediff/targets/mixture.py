"""Mixtures of Gaussians."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from math import prod
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.arrays import ArrayLike, Placed, parameter
from scorediff._core.states import per_sample
from scorediff.schedules import Schedule
from scorediff.targets.parameters import Spectrum
from scorediff.targets.softmax import blocks, pick, softmax_average
from scorediff.targets.targets import Target, positive_square

__all__ = ["GaussianMixture", "mixture_log_density"]

# Numbers held at once per component block and per pass; the first does not depend on the batch, so neither does the
# order of summation.
_BLOCK = 1 << 16
_PASS = 1 << 22


def _tiles(batch: int, components: int, size: int) -> Iterator[tuple[slice, list[slice]]]:
    step = max(1, min(components, _BLOCK // size))
    for rows in blocks(batch, max(1, _PASS // (step * size))):
        yield rows, list(blocks(components, step))


def _components(parts: tuple[Tensor, ...], block: slice) -> tuple[Tensor, ...]:
    return tuple(part[block] if len(part) > 1 else part for part in parts)


def _residual(rows: Tensor, means: Tensor, basis: Sequence[Tensor]) -> Tensor:
    residual = rows.unsqueeze(1) - means
    return torch.einsum("bkd,kde->bke", residual, basis[0]) if basis else residual


def mixture_log_density(rows: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """The log-density, of shape (B,), at `rows` of shape (B, D) of the mixture made of `parts`.

    These are log-weights of shape (K,), means (K, D), variances (K, D) and perhaps bases (K, D, D); 1 stands for any K.
    """
    out = []
    for chosen, comps in _tiles(len(rows), len(parts[1]), rows.shape[1]):
        terms = (_block_log_density(rows[chosen], *_components(parts, block)) for block in comps)
        out.append(reduce(torch.logaddexp, terms))
    return torch.cat(out)


def _block_log_density(rows: Tensor, log_weights: Tensor, means: Tensor, values: Tensor, *basis: Tensor) -> Tensor:
    # log p = logsumexp_k [log w_k - 1/2 sum_i (rho_ki^2 / v_ki + log(2 pi v_ki))], rho = V^T (x - m)
    nats = _residual(rows, means, basis).square() / values + (2 * math.pi * values).log()
    return (log_weights - 0.5 * nats.sum(-1)).logsumexp(-1)


@final
class GaussianMixture(Target):
    """`sum_k weights[k] N(means[k], covariances[k])`.

    `weights` of shape (K,), positive, of sum 1; `means` of shape (K, ...); `covariances` of shape () or (K,)
    (isotropic), of the shape of `means` (diagonal), of shape (K, D, D) for D entries (full), or a `Spectrum`, kept as
    `spectrum`. The default has three modes in two dimensions, apart from one another and of different sizes.

    Raises ValueError for another shape, for numbers that are not finite, for weights that are not positive or do not
    sum to 1, and for an asymmetric or negative covariance.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"mixture": {}}

    def __init__(
        self,
        weights: ArrayLike = (0.5, 0.3, 0.2),
        means: ArrayLike = ((-1.5, 0.0), (1.0, 1.0), (0.5, -1.5)),
        covariances: ArrayLike | Spectrum = (0.05, 0.1, 0.2),
    ) -> None:
        self.means = parameter("means", means)
        if self.means.ndim == 0 or self.means.numel() == 0:
            raise ValueError(f"means has shape {tuple(self.means.shape)}; it wants (K, ...), one mean per component")
        self.weights = _weights(weights, len(self.means))
        if not isinstance(covariances, Spectrum):
            given = parameter("covariances", covariances)
            given = given if given.ndim else given.expand(len(self.means))
            covariances = Spectrum.of("covariances", given, (len(self.means),), self.event_shape)
        self.spectrum = covariances
        self.spectrum.check_fits("covariances", (len(self.means),), self.event_shape)
        self._placed = Placed(self._parts)

    def __repr__(self) -> str:
        return f"GaussianMixture(components={len(self.means)}, event_shape={self.event_shape})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    def _parts(self) -> tuple[Tensor, ...]:
        return (self.weights.log(), self.means.reshape(len(self.means), -1), *self.spectrum.parts())

    @property
    def covariances(self) -> Tensor:
        """The covariances as matrices, of shape (K, D, D)."""
        return self.spectrum.matrix(prod(self.event_shape))

    def at(self, schedule: Schedule, t: float) -> "GaussianMixture":
        alpha_t, sigma_t = float(schedule.alpha(t)), float(schedule.sigma(t))
        return GaussianMixture(self.weights, alpha_t * self.means, self.spectrum.at(alpha_t, sigma_t))

    def posterior(self, alpha_t: Any, sigma_t: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        parts, out = self._placed.like(rows), []
        for chosen, comps in _tiles(len(rows), len(self.means), rows.shape[1]):
            alpha, sigma = pick(alpha_t, chosen), pick(sigma_t, chosen)
            out.append(softmax_average(_term(_components(parts, b), alpha, sigma, rows[chosen]) for b in comps))
        data, noise = torch.cat(out).chunk(2, -1)
        return data, noise

    def _draw(self, n: int, seed: int) -> Tensor:
        choice, normals = np.random.default_rng(seed).spawn(2)
        picked = np.searchsorted(self.weights.cumsum(0).numpy()[:-1], choice.random(n), side="right")
        means, values = self.means.reshape(len(self.means), -1)[picked], self.spectrum.values[picked]
        scaled = torch.from_numpy(normals.standard_normal(means.shape)) * values.sqrt()
        if self.spectrum.basis is None:
            return means + scaled
        turned = torch.empty_like(scaled)
        for k in np.unique(picked):
            turned[picked == k] = scaled[picked == k] @ self.spectrum.basis[k].T
        return means + turned

    def _log_density(self, rows: Tensor) -> Tensor:
        if not bool((self.spectrum.values > 0).all()):
            raise ValueError("a mixture with a variance of 0 has no density; ask `.at(schedule, t)` at sigma(t) > 0")
        return mixture_log_density(rows, self._placed.like(rows))


def _weights(weights: ArrayLike, count: int) -> Tensor:
    w = parameter("weights", weights)
    if w.shape != (count,):
        raise ValueError(f"weights has shape {tuple(w.shape)}; it wants {(count,)}, one per mean")
    if not bool((w > 0).all()):
        k = int((w <= 0).nonzero()[0])
        raise ValueError(f"weights[{k}] is {w[k].item():g}; weights are positive, leave out a component of none")
    if abs(w.sum().item() - 1) > 1e-5:
        raise ValueError(f"weights sum to {w.sum().item():g}, not 1; divide them by their sum")
    return w / w.sum()


def _term(
    parts: tuple[Tensor, ...], alpha_t: Any, sigma_t: Any, rows: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Logits (B, k) of a block of components, and what sums their data and noise side by side, to (B, 2 D)."""
    log_weights, means, values, *basis = parts
    wide = rows.unsqueeze(1)
    square = per_sample(positive_square(sigma_t, rows.dtype), wide)
    total = values * per_sample(np.square(alpha_t), wide) + square
    residual = _residual(rows, means * per_sample(alpha_t, wide), basis)
    # log r_k = log w_k - 1/2 sum_i [rho_ki^2 / c_ki + log c_ki], c = alpha^2 v + sigma^2, rho = V^T (x - alpha m)
    nats = residual.square() / total + total.log()
    gained = residual / total

    def mixed(weights: Tensor, parts: Tensor) -> Tensor:
        parts = weights.unsqueeze(-1) * parts
        return torch.einsum("bke,kde->bd", parts, basis[0]) if basis else parts.sum(1)

    def weighted_sum(weights: Tensor) -> Tensor:
        # D = sum_k r_k [m_k + V alpha v rho / c], eps = sum_k r_k V sigma rho / c
        data = weights @ means + mixed(weights, gained * values) * per_sample(alpha_t, rows)
        noise = mixed(weights, gained) * per_sample(sigma_t, rows)
        return torch.cat((data, noise), -1)

    return log_weights - 0.5 * nats.sum(-1), weighted_sum
