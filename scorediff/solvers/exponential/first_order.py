"""One stage a step, no history: DDPM and DDIM."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from scorediff.linear_parts import DataPart, IsotropicPart, LinearPart, Preconditioned
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import Exact, Solver
from scorediff.solvers.exponential.engine import (
    ExponentialIntegrator,
    GridSteps,
    Stage,
    StepPlan,
    check_kind,
    etas,
    exact_on,
)
from scorediff.spacings import Grid

__all__ = ["DDIM", "DDPM", "DDPMLargeVariance"]

_MEAN_AND_POINT_MASS = frozenset({Exact.MEAN, Exact.POINT_MASS})


@dataclass(frozen=True)
class DDIM(ExponentialIntegrator):
    """DDIM with the problem's eta (arXiv:2010.02502): eta = 1 is DDPM's posterior, the flow has eta = 0.

        c = eta sigma_s sqrt(1 - e^(-2h))                                            (16), on any schedule
        x_s = alpha_s D(x_t) + sqrt(sigma_s^2 - c^2) E(x_t) + c z                    (12)

    h is the step in log-SNR from t to s. Taking out the data or the noise makes no difference to it.
    """

    nfe = 1
    order = 1
    weak_order = 1
    strong_order = 1
    exact_on = _MEAN_AND_POINT_MASS
    part = DataPart()
    starts_at_pure_noise = True
    solves: ClassVar[tuple[type, ...]] = (ProbabilityFlow, ReverseSDE)
    source: ClassVar[str] = "arXiv:2010.02502"

    def plan(self, steps: GridSteps, part: IsotropicPart) -> Iterator[StepPlan]:
        alpha_s, sigma_s, h, eta = steps.end.alpha, steps.end.sigma, steps.h, steps.eta
        if not eta.any():
            return _one_stage(steps, data=alpha_s, noise=sigma_s)
        # c = eta sigma_s sqrt(1 - e^(-2h))
        c = eta * sigma_s * np.sqrt(-np.expm1(-2 * h))
        # sqrt(sigma_s^2 - c^2), without the subtraction
        rest = sigma_s * np.sqrt((1 - eta**2) + eta**2 * np.exp(-2 * h))
        return _one_stage(steps, data=alpha_s, noise=rest, fresh=c)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        eta = etas(problem, grid).max()
        if eta > 1:
            raise ValueError(f"DDIM's noise ends at eta = 1, got eta = {eta:g}: use SDEDPMSolverPP, which takes any")


@dataclass(frozen=True)
class DDPM(ExponentialIntegrator):
    """Ancestral sampling from DDPM's posterior, with its own, the smaller variance (arXiv:2006.11239). Wants eta = 1.

        a = alpha_t / alpha_s,  v = sigma_t^2 - a^2 sigma_s^2
        x_s = (alpha_s v / sigma_t^2) D(x_t) + (a sigma_s^2 / sigma_t^2) x_t + sqrt(v) (sigma_s / sigma_t) z   (6), (7)

    which is the step of order 1 that takes out the data, v_data = 0. With another linear `part` the posterior is that
    of a Gaussian of its variance, on which every step is exact in distribution, however long:
    `DDPM(part=Preconditioned(0.5))` for data of standard deviation 0.5.

    `part`: what is taken out, the data by default, as published.
    """

    part: LinearPart = field(default=DataPart(), kw_only=True)
    nfe = 1
    weak_order = 1
    strong_order = 1
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    source: ClassVar[str] = "arXiv:2006.11239"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ddpm": {"part": DataPart()},
        "ddpm-edm": {"part": Preconditioned()},
    }

    def __post_init__(self) -> None:
        check_kind(self, "part", LinearPart, "Preconditioned(0.5)")

    @property
    def exact_on(self) -> frozenset[Exact]:
        return exact_on(self.part, noisy=True)

    @property
    def starts_at_pure_noise(self) -> bool:
        return self.part.regular_at_pure_noise

    def plan(self, steps: GridSteps, part: IsotropicPart) -> Iterator[StepPlan]:
        # x_s = propagator x_t + integral_weight h phi_1 M + noise_std z
        weight = part.integral_weight(steps.end, steps.eta) * part.kernel(steps.end, steps.eta).h_phi_1(steps.h)
        on_data, on_noise = part.on(steps.start)
        return _one_stage(
            steps,
            x=part.propagator(steps.start, steps.end, steps.eta),
            data=weight * on_data,
            noise=weight * on_noise,
            fresh=part.noise_std(steps.start, steps.end, steps.eta),
        )

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        _check_eta(self, problem, grid)


@dataclass(frozen=True)
class DDPMLargeVariance(ExponentialIntegrator):
    """Ancestral sampling with the larger variance, that of the forward step ("sigma-hat", arXiv:2006.11239, section
    3.2). Wants eta = 1.

        x_s = (alpha_s v / sigma_t^2) D(x_t) + (a sigma_s^2 / sigma_t^2) x_t + sqrt(v) z,   a and v as in `DDPM`
    """

    nfe = 1
    weak_order = 1
    strong_order = 1
    exact_on = frozenset({Exact.MEAN, Exact.UNIT_VARIANCE})
    invariant = False
    part = DataPart()
    starts_at_pure_noise = True
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    source: ClassVar[str] = "arXiv:2006.11239"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ddpm-large": {}}

    def plan(self, steps: GridSteps, part: IsotropicPart) -> Iterator[StepPlan]:
        alpha_t, sigma_t, alpha_s, sigma_s = *steps.start[1:3], *steps.end[1:3]
        # v = sigma_t^2 - a^2 sigma_s^2 = -sigma_t^2 expm1(-2h)
        a, v = alpha_t / alpha_s, -(sigma_t**2) * np.expm1(-2 * steps.h)
        x, data = a * (sigma_s / sigma_t) ** 2, alpha_s * v / sigma_t**2
        return _one_stage(steps, x=x, data=data, fresh=np.sqrt(v))

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        _check_eta(self, problem, grid)


def _check_eta(solver: Solver, problem: Problem, grid: Grid) -> None:
    if not np.all(etas(problem, grid) == 1):
        raise ValueError(
            f"{solver!r} is the reverse SDE at eta = 1, got eta = {problem.eta}: use DDIM, which takes eta in [0, 1]"
        )


def _one_stage(
    steps: GridSteps, *, x: Any = 0.0, data: Any = 0.0, noise: Any = 0.0, fresh: Any = 0.0
) -> Iterator[StepPlan]:
    """Steps `x_1 = x x_0 + data D + noise E + fresh z`, with coefficients of shape (steps,), or the same for all."""
    columns = [np.broadcast_to(c, len(steps)).tolist() for c in (x, data, noise, fresh)]
    ends = (steps.start.t, steps.end.t, steps.start.log_snr, steps.end.log_snr)
    for t, s, a, b, on_x, on_data, on_noise, std in zip(*(v.tolist() for v in ends), *columns, strict=True):
        if std:
            yield StepPlan(t, s, (Stage(t, on_x, on_data, on_noise, (), (std,)),), ((a, b),), (), 1)
        else:
            yield StepPlan(t, s, (Stage(t, on_x, on_data, on_noise),), (), (), 1)
