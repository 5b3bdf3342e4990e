"""Samples that agree with a noisy linear measurement `y = A x0 + noise_std n` of them."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.denoiser import DenoiserBase, NetworkOutput
from scorediff.guidance.base import Guidance, check_scale, network_output
from scorediff.guidance.gradient import pushed, watched
from scorediff.guidance.operators import Operator

__all__ = ["DPS", "PiGDM"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class DPS(Guidance):
    """Diffusion posterior sampling (arXiv:2209.14687): `score + scale grad log p(y | x_t)`, where `log p(y | x_t)` is
    that of `y` given the denoiser's data `D`, as if these were the data, `-|y - A D|^2 / (2 noise_std^2)`. The paper's
    step size, relative to `|y - A D|`, is not that of an equation, and is left out.

    `denoiser` is the one that is guided. `operator` is `A`, and `noise_std` the standard deviation of the noise in the
    measurement, in its units; neither has a default, since they are those of the measurement. `scale` multiplies the
    gradient: 1, the default, is Bayes' rule. The measurement comes as `cond={"observed": y}`, a row for each sample, or
    as `shared(y)` with one row for all. An evaluation leads one batch back through the network.

    Too sure of the data at high noise, exact as sigma falls to 0. Raises ValueError for a `noise_std` that is not
    positive.
    """

    denoiser: DenoiserBase
    operator: Operator
    noise_std: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.operator, self.scale)
        if not self.noise_std > 0:
            raise ValueError(f"noise_std = {self.noise_std}: DPS wants noisy measurements; PiGDM takes exact ones")

    def passed_on(self, cond: Conditions) -> Conditions:
        return _unobserved(cond)

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        return _conditioned(self, 0.0, t, x, cond)


@final
@dataclass(frozen=True, eq=False, repr=False)
class PiGDM(Guidance):
    """Pseudo-inverse guidance (Song, Vahdat, Mardani and Kautz, ICLR 2023): `score + scale grad log p(y | x_t)`, where
    `x0` given `x_t` is a Gaussian about the denoiser's data, of the variance that it has for Gaussian data of standard
    deviation `data_std`; for these the result is the exact posterior.

    `denoiser` is the one that is guided. `operator` is `A`, which has no default. `noise_std` is the standard deviation
    of the noise in the measurement, in its units: 0, the default, where that is exact. `data_std` is in the units of
    the data, 1 by default. `scale` multiplies the gradient: 1, the default, is Bayes' rule. The measurement comes as
    for `DPS`. Raises ValueError for a negative `noise_std`, and for a `data_std` that is not positive.
    """

    denoiser: DenoiserBase
    operator: Operator
    noise_std: float = 0.0
    data_std: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.operator, self.scale)
        if not self.noise_std >= 0:
            raise ValueError(f"noise_std = {self.noise_std}: at least 0")
        if not self.data_std > 0:
            raise ValueError(f"data_std = {self.data_std}: above 0")

    def passed_on(self, cond: Conditions) -> Conditions:
        return _unobserved(cond)

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[NetworkOutput, NetworkOutput]:
        # var(x0 | x_t) = c^2 sigma^2 / (alpha^2 c^2 + sigma^2)
        alpha, sigma, c = self.schedule.alpha(t), self.schedule.sigma(t), self.data_std
        return _conditioned(self, (c * sigma) ** 2 / ((alpha * c) ** 2 + sigma**2), t, x, cond)


def _check(operator: Any, scale: Any) -> None:
    check_scale(scale)
    if not isinstance(operator, Operator):
        raise TypeError(f"operator = {operator!r}: give an Operator, such as Mask(known)")


def _unobserved(cond: Conditions) -> Conditions:
    return Conditions({k: v for k, v in cond.items() if k != "observed"}, cond.per_sample)


def _conditioned(
    guidance: DPS | PiGDM, variance: Any, t: Any, x: Tensor, cond: Conditions
) -> tuple[NetworkOutput, NetworkOutput]:
    """The output guided by the measurement, and the plain one, where `x0` given `x_t` is a Gaussian about the data `D`,
    of `variance` (a float, or of shape (B,)): `y` is then one about `A D`, of covariance `variance A A^T +
    noise_std^2`.
    """
    if not isinstance(cond.get("observed"), Tensor):
        raise ValueError('what was measured is not given as a tensor: cond={"observed": y}')
    with watched(x) as (state, keep):
        plain = network_output(guidance.denoiser, t, state, guidance.passed_on(cond))
        if not plain.output.requires_grad:
            raise ValueError(
                "the network's output has no gradient with respect to the state: let it run without no_grad() and "
                "inference_mode()"
            )
        data = plain[0]
        missing = _missing(cond["observed"], guidance.operator(data), "observed" in cond.per_sample)
        # grad log p(y | x_t) = (dD/dx)^T A^T (variance A A^T + noise_std^2)^-1 (y - A D)
        cotangent = guidance.operator.adjoint(guidance.operator.solve(missing, variance, guidance.noise_std**2))
        (gradient,) = torch.autograd.grad(
            data, state, grad_outputs=cotangent if keep else cotangent.detach(), create_graph=keep
        )
    if not keep:
        counts = {"rows": plain.rows, "vjps": plain.vjps}
        plain = NetworkOutput(plain.x.detach(), plain.output.detach(), plain.coefficients, **counts)
    return pushed(plain, gradient * guidance.scale, guidance.schedule, t, x), plain


def _missing(observed: Tensor, predicted: Tensor, of_each: bool) -> Tensor:
    """What the data lack of the measurement, of which there is a row `of_each` sample, or one for all."""
    wanted = tuple(predicted.shape) if of_each else (1, *predicted.shape[1:])
    if observed.shape != wanted:
        kind = "with a row for each sample" if of_each else "shared"
        raise ValueError(f"observed has shape {tuple(observed.shape)}, {kind}: the operator gives {wanted}")
    return observed.to(predicted) - predicted
