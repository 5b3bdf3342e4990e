"""Exponential Runge-Kutta methods on the reverse SDE, with exact noise: SEEDS and SDE-DPM-Solver++ 2S."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scorediff.linear_parts import LinearPart, NoisePart
from scorediff.problems import ReverseSDE
from scorediff.solvers.exponential.runge_kutta import ExponentialRungeKutta
from scorediff.solvers.exponential.singlestep import ERK3, MIDPOINT
from scorediff.solvers.exponential.tableau import ExponentialTableau

__all__ = ["SEEDS", "SDEDPMSolverPPSinglestep"]


@dataclass(frozen=True)
class _ExactNoise(ExponentialRungeKutta):
    """A method on the reverse SDE: the noises of its stages are increments of one path, carried along exactly."""

    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    strong_order = 1

    @property
    def weak_order(self) -> int:
        return min(self.tableau.order, 2)


@dataclass(frozen=True)
class SDEDPMSolverPPSinglestep(_ExactNoise):
    """SDE-DPM-Solver++ 2S: data form, two stages, any eta; k-diffusion's "DPM++ SDE", with its noises on one path.

        x_s = propagator x_t + integral_weight h phi_1(z) D_u + noise,   u at the middle of the step, z = -(1 + eta^2) h

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "arXiv:2211.01095"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sde-dpm++2s": {}}
    tableau = MIDPOINT


@dataclass(frozen=True)
class SEEDS(_ExactNoise):
    """SEEDS-2 and -3 (arXiv:2305.14267): noise form, exact noise, `k` stages, any eta. SEEDS-1 is SDE-DPM-Solver-1.

        x_s = propagator x_t + integral_weight h sum_j b_j(z) E_j + noise,   z = h, b_j as in DPM-Solver-2S and -3S

    `part`: the linear part that is taken out, the noise by default.
    """

    part: LinearPart = field(default=NoisePart(), kw_only=True)
    k: int = 2
    source: ClassVar[str] = "arXiv:2305.14267"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"seeds-2": {"k": 2}, "seeds-3": {"k": 3}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k not in (2, 3):
            raise ValueError(f"k = {self.k}: SEEDS has 2 or 3 stages here; SEEDS-1 is SDEDPMSolver(1)")

    @property
    def tableau(self) -> ExponentialTableau:
        return MIDPOINT if self.k == 2 else ERK3
