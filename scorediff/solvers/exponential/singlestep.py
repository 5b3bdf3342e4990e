"""The singlestep DPM-Solvers and their refinements: two or three stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scorediff.linear_parts import DataPart, LinearPart, NoisePart
from scorediff.solvers.exponential.runge_kutta import ExponentialRungeKutta
from scorediff.solvers.exponential.tableau import ExponentialTableau, Phi

__all__ = ["DPM2", "ERK3", "MIDPOINT", "RES", "DPMSolverSinglestep"]

_P = Phi.of


# u = first-order step to c; b = phi_1 - phi_1/(2c), phi_1/(2c): the difference quotient for the derivative
def _midpoint(c: float) -> ExponentialTableau:
    return ExponentialTableau(2, (0.0, c), ({},), {1: _P(1) / (2 * c)}, lower={})


# b_1 = phi_2 / c: the integral of the line through both outputs
_ERK2 = ExponentialTableau(2, (0.0, 0.5), ({},), {1: 2 * _P(2)}, lower={})
# Hochbruck and Ostermann's third order at c = 1/3, 2/3: a_21 = (4 / (9 c_1)) phi_2(2z/3), b_2 = 3/2 phi_2
ERK3 = ExponentialTableau(
    3, (0.0, 1 / 3, 2 / 3), ({}, {1: 4 / 3 * _P(2, 2 / 3)}), {2: 1.5 * _P(2)}, lower={1: 3 * _P(2)}
)
MIDPOINT = _midpoint(0.5)


@dataclass(frozen=True)
class DPMSolverSinglestep(ExponentialRungeKutta):
    """DPM-Solver-2S and -3S in noise form (arXiv:2206.00927), and DPM-Solver++ 2S and 3S in data form
    (arXiv:2211.01095). `k` is the number of stages, and the order.

        u = propagator x_t + integral_weight (h/2) phi_1(z/2) M_t
        x_s = propagator x_t + integral_weight h phi_1(z) M_u

    for k = 2, u at the middle of the step in log-SNR and z = kappa h (algorithm 1 of the first, with r_1 = 1/2); k = 3
    has u at thirds of it, and phi_2 of the differences.

    `part`: the linear part that is taken out, the data by default.
    """

    k: int = 2
    source: ClassVar[str] = "arXiv:2206.00927"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dpm-2s": {"k": 2, "part": NoisePart()},
        "dpm-3s": {"k": 3, "part": NoisePart()},
        "dpm++2s": {"k": 2, "part": DataPart()},
        "dpm++3s": {"k": 3, "part": DataPart()},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k not in (2, 3):
            raise ValueError(f"k = {self.k}: the singlestep DPM-Solvers have 2 or 3 stages")

    @property
    def tableau(self) -> ExponentialTableau:
        return MIDPOINT if self.k == 2 else ERK3


@dataclass(frozen=True)
class RES(ExponentialRungeKutta):
    """The refined exponential solvers RES-2 and RES-3 (arXiv:2308.02157), `k` stages: phi_2 where DPM-Solver-2S has
    phi_1/2.

        x_s = propagator x_t + integral_weight h [(phi_1 - 2 phi_2) M_t + 2 phi_2 M_u],   u at the middle, k = 2

    `part`: the linear part that is taken out, the data by default.
    """

    k: int = 2
    source: ClassVar[str] = "arXiv:2308.02157"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"res-2": {"k": 2}, "res-3": {"k": 3}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k not in (2, 3):
            raise ValueError(f"k = {self.k}: RES has 2 or 3 stages")

    @property
    def tableau(self) -> ExponentialTableau:
        return _ERK2 if self.k == 2 else ERK3


@dataclass(frozen=True)
class DPM2(ExponentialRungeKutta):
    """k-diffusion's DPM2: the output at the middle of the log-SNR for the whole step, in noise form (arXiv:2206.00364,
    algorithm 2 with another midpoint).

        x_s = (alpha_s / alpha_t) x_t - sigma_s (e^h - 1) E_u,   u at the middle of the step in log-SNR

    `part`: the linear part that is taken out, the noise by default.
    """

    part: LinearPart = field(default=NoisePart(), kw_only=True)
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"dpm2": {}}
    tableau = ExponentialTableau(2, (0.0, 0.5), ({},), {1: _P(1)})
