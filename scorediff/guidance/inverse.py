"""Samples that agree with a noisy linear measurement `y = A x0 + noise_std n` of them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.denoiser import DenoiserBase, ModelOutput
from scorediff.guidance.base import Guidance, check_scale, read
from scorediff.guidance.gradient import pushed, watched
from scorediff.guidance.operators import Operator

__all__ = ["DPS", "PiGDM"]


class _Posterior(Guidance):
    """`score + scale grad log p(y | x_t)`, where `x0` given `x_t` is taken for a Gaussian about the denoiser's data `D`
    of variance `spread`: then `y` is one about `A D`, of covariance `spread A A^T + noise_std^2`.

    The measurement comes as `cond={"observed": y}`, a row for each sample, or one for all with a leading dimension of
    1. An evaluation leads one batch back through the network.
    """

    operator: Operator
    noise_std: float
    scale: float

    @abstractmethod
    def spread(self, t: Any) -> Any:
        """The variance of `x0` given `x_t`, a float or of shape (B,)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale)
        if not isinstance(self.operator, Operator):
            raise TypeError(f"operator = {self.operator!r}: give an Operator, such as Mask(known)")

    def own(self, cond: Conditions) -> Conditions:
        return Conditions({k: v for k, v in cond.items() if k != "observed"}, cond.per_sample)

    def pair(self, t: Any, x: Tensor, cond: Conditions) -> tuple[ModelOutput, ModelOutput]:
        if not isinstance(cond.get("observed"), Tensor):
            raise ValueError('what was measured is not given as a tensor: cond={"observed": y}')
        with watched(x) as (state, keep):
            plain = read(self.denoiser, t, state, self.own(cond))
            if not plain.output.requires_grad:
                raise ValueError(
                    "the network's output has no gradient with respect to the state: let it run without no_grad() and "
                    "inference_mode()"
                )
            data = plain[0]
            missing = _missing(cond["observed"], self.operator(data))
            # grad log p(y | x_t) = (dD/dx)^T A^T (spread A A^T + noise_std^2)^-1 (y - A D)
            pull = self.operator.adjoint(self.operator.solve(missing, self.spread(t), self.noise_std**2))
            (gradient,) = torch.autograd.grad(
                data, state, grad_outputs=pull if keep else pull.detach(), create_graph=keep
            )
        if not keep:
            counts = {"rows": plain.rows, "vjps": plain.vjps}
            plain = ModelOutput(plain.x.detach(), plain.output.detach(), plain.coefficients, **counts)
        guided = pushed(plain, gradient * self.scale, self.schedule, t, x)
        guided.vjps += 1
        return guided, plain


def _missing(observed: Tensor, predicted: Tensor) -> Tensor:
    if observed.shape[1:] != predicted.shape[1:] or observed.shape[0] not in (1, len(predicted)):
        raise ValueError(f"observed has shape {tuple(observed.shape)}: the operator gives {tuple(predicted.shape)}")
    return observed.to(predicted) - predicted


@final
@dataclass(frozen=True, eq=False)
class DPS(_Posterior):
    """Diffusion posterior sampling (arXiv:2209.14687): `log p(y | x_t)` is that of `y` given `D`, as if the data were
    known, `|y - A D|^2 / (2 noise_std^2)` but for its sign. Its own step size, relative to `|y - A D|`, is no equation,
    and is left out.

    Too sure of the data at high noise, exact as sigma falls to 0. Raises ValueError for a `noise_std` that is not
    positive.
    """

    denoiser: DenoiserBase
    operator: Operator
    noise_std: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise_std > 0:
            raise ValueError(f"noise_std = {self.noise_std}: DPS wants noisy measurements; PiGDM takes exact ones")

    def spread(self, t: Any) -> Any:
        return 0.0


@final
@dataclass(frozen=True, eq=False)
class PiGDM(_Posterior):
    """Pseudo-inverse guidance (Song, Vahdat, Mardani and Kautz, ICLR 2023): `x0` given `x_t` has the variance that it
    has for Gaussian data of standard deviation `data_std`, for which the result is the exact posterior.

    `noise_std` may be 0. Raises ValueError for a negative one, and for a `data_std` that is not positive.
    """

    denoiser: DenoiserBase
    operator: Operator
    noise_std: float = 0.0
    data_std: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise_std >= 0:
            raise ValueError(f"noise_std = {self.noise_std}: at least 0")
        if not self.data_std > 0:
            raise ValueError(f"data_std = {self.data_std}: above 0")

    def spread(self, t: Any) -> Any:
        # var(x0 | x_t) = c^2 sigma^2 / (alpha^2 c^2 + sigma^2)
        alpha, sigma, c = self.schedule.alpha(t), self.schedule.sigma(t), self.data_std
        return (c * sigma) ** 2 / ((alpha * c) ** 2 + sigma**2)
