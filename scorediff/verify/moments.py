"""The exact distribution of a sampler's output on a Gaussian target, to rounding and with no Monte Carlo.

The denoiser of a Gaussian is affine, so a linear sampler makes of its start and its noises, in every eigendirection,
`offset + slope x_T + sum_k loading_k z_k`: probing it once gives all of these.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scorediff.schedules import Schedule
from scorediff.solvers import Solver
from scorediff.solvers.probe import eta_for, pose, probe
from scorediff.solvers.solve import resolve
from scorediff.spacings import Grid, Spacing
from scorediff.targets import Gaussian, Spectrum
from scorediff.verify.runs import checked_schedule, grid_of

__all__ = ["Moments", "moments", "wasserstein"]


@dataclass(frozen=True)
class Moments:
    """The distribution of a sampler's output at the end of its grid, and the exact marginal there, both Gaussian.

    `means` and `variances`: of the output, along the eigendirections of the target's covariance, of shape (D,),
    float64. `exact_means` and `exact_variances`: those of the marginal. `basis`, of shape (D, D): the directions as
    columns, None for the axes. `event_shape`: of one sample. `calls`: evaluations of the denoiser. `noises`: how many
    normals an entry of the output is made of besides the start.
    """

    means: Tensor
    variances: Tensor
    exact_means: Tensor
    exact_variances: Tensor
    basis: Tensor | None
    event_shape: tuple[int, ...]
    calls: int
    noises: int

    @property
    def output(self) -> Gaussian:
        """The distribution of the output."""
        return self._gaussian(self.means, self.variances)

    @property
    def exact(self) -> Gaussian:
        """The exact marginal."""
        return self._gaussian(self.exact_means, self.exact_variances)

    @property
    def bias(self) -> float:
        """The distance of the means."""
        return float((self.means - self.exact_means).norm())

    @property
    def wasserstein(self) -> float:
        """The Wasserstein-2 distance of the two."""
        return wasserstein((self.means, self.variances), (self.exact_means, self.exact_variances))

    @property
    def kl(self) -> float:
        """`KL(output | exact)`; infinite where the output has no variance and the marginal has."""
        # KL = 1/2 sum_i [v/v' + (m - m')^2 / v' - 1 - log(v/v')]
        ratio = self.variances / self.exact_variances
        shift = (self.means - self.exact_means).square() / self.exact_variances
        return float(0.5 * (ratio - 1 - ratio.log() + shift).sum())

    def __str__(self) -> str:
        ratio = (self.variances / self.exact_variances).sqrt()
        return (
            f"W2 {self.wasserstein:.3e} to the exact marginal, KL {self.kl:.3e}; means {self.bias:.3e} apart, "
            f"standard deviations {float(ratio.min()):.6f} to {float(ratio.max()):.6f} of the exact ones"
        )

    def _gaussian(self, means: Tensor, variances: Tensor) -> Gaussian:
        rotated = means if self.basis is None else self.basis @ means
        return Gaussian(rotated.reshape(self.event_shape), Spectrum(variances, self.basis))


def wasserstein(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """The Wasserstein-2 distance of two Gaussians with one eigenbasis, by their means and variances along it."""
    # W2^2 = |m - m'|^2 + sum_i (sqrt v_i - sqrt v'_i)^2
    (mean, variance), (mean_, variance_) = one, other
    stds = variance.sqrt() - variance_.sqrt()
    return float(torch.sqrt((mean - mean_).square().sum() + stds.square().sum()))


def moments(
    solver: Solver | str,
    target: Gaussian | None = None,
    *,
    schedule: Schedule | str | None = None,
    steps: int | None = None,
    grid: Grid | Spacing | str | None = None,
    eta: float | None = None,
    start: Gaussian | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
) -> Moments:
    """The distribution that a fixed-grid sampler makes of `start`, the exact marginal at its first node by default.

    `grid` is a `Grid`, or the rule that makes one of `steps` steps (by default the solver's own, on the schedule's
    whole domain or from `t_start` to `t_end`). `eta` is 0 where the solver solves the flow, else 1. `start` must have
    the eigendirections of the target: its covariance isotropic, or made by `target.at`.

    Raises ValueError where the solver is adaptive, or not linear in its start, its evaluations and its noises.

    >>> print(moments("ddpm", Gaussian((1.0,), (0.25,)), steps=100))  # doctest: +ELLIPSIS
    W2 ... to the exact marginal, KL ...; means ... apart, standard deviations 0.9... to 0.9... of the exact ones
    """
    solver, target, schedule = resolve(solver), target or Gaussian(), checked_schedule(schedule)
    if not isinstance(target, Gaussian):
        raise TypeError(
            f"target = {target!r}: the exact distribution is known on a Gaussian(...); elsewhere use verify.order"
        )
    eta = eta_for(solver, eta)
    size = target.mean.numel()
    straight = _straight(target)
    nodes = grid_of(solver, schedule, steps, grid, t_start, t_end, pose(straight.denoiser(schedule), eta))
    probed = probe(solver, nodes, eta, lambda weights, rows: straight.denoiser(schedule), entries=size)
    offset = probed.output[0]
    slope, loadings = probed.output[1] - offset, probed.output[2:-1] - offset
    first = target.at(schedule, nodes.start) if start is None else start
    mean, variance = _along(first, target)
    last = _straight(target.at(schedule, nodes.end))
    return Moments(
        means=offset + slope * mean,
        variances=slope.square() * variance + loadings.square().sum(0),
        exact_means=last.mean,
        exact_variances=last.spectrum.values.expand(size),
        basis=target.spectrum.basis,
        event_shape=target.event_shape,
        calls=probed.calls,
        noises=len(probed.intervals),
    )


def _straight(target: Gaussian) -> Gaussian:
    """The target in its eigenbasis: diagonal, of event shape (D,)."""
    mean, basis = target.mean.flatten(), target.spectrum.basis
    return Gaussian(mean if basis is None else basis.T @ mean, Spectrum(target.spectrum.values.expand(mean.shape)))


def _along(first: Gaussian, target: Gaussian) -> tuple[Tensor, Tensor]:
    """Mean and variance of `first` along the eigendirections of `target`. Raises ValueError where it has others."""
    if first.event_shape != target.event_shape:
        raise ValueError(f"the start has event shape {first.event_shape}, the target {target.event_shape}")
    mean, basis = first.mean.flatten(), target.spectrum.basis
    covariance = first.covariance if basis is None else basis.T @ first.covariance @ basis
    variances = covariance.diagonal()
    rest = covariance - torch.diag(variances)
    if float(rest.abs().max()) > 1e-9 * float(variances.abs().max()):
        raise ValueError(
            "the start has other eigendirections than the target: give an isotropic one, or target.at(...)"
        )
    return (mean if basis is None else basis.T @ mean), variances
