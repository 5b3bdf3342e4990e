"""The multistep DPM-Solvers: in noise form and in data form, on the flow and on the reverse SDE."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from scorediff.linear_parts import LinearPart, NoisePart, Preconditioned
from scorediff.problems import ReverseSDE
from scorediff.solvers.exponential.multistep import History, Multistep, lagrange_weights
from scorediff.solvers.exponential.starts import LowerOrderStart

__all__ = ["DPMSolver", "DPMSolverPP", "SDEDPMSolver", "SDEDPMSolverPP"]


@dataclass(frozen=True)
class _DPMSolver(Multistep):
    """k = 1 holds the output constant; k = 2 ("2M") extrapolates it to the middle of the step; k = 3 ("3M") takes the
    parabola through the last three.
    """

    largest_k: ClassVar[int] = 3

    @property
    def starts_at_pure_noise(self) -> bool:
        return self.part.regular_at_pure_noise

    def predictor(self, history: History) -> np.ndarray:
        k = history.back.shape[1]
        if k == 3:
            # as divided differences D1 and D2, with the 2 in D2 that makes it third order
            return lagrange_weights(history.kernel, history.h, history.back)
        # h phi_1: the integral of the kernel
        h_phi_1 = history.kernel.h_phi_1(history.h)
        if k == 1:
            return h_phi_1[:, None]
        # (1 + 1/(2r)) M_0 - 1/(2r) M_-1, r = h_-1 / h
        half_ratio = history.h / (2 * -history.back[:, 1])
        return np.column_stack([h_phi_1 * (1 + half_ratio), -h_phi_1 * half_ratio])


@dataclass(frozen=True)
class DPMSolver(_DPMSolver):
    """DPM-Solver-1, -2M and -3M: the flow in noise form (arXiv:2206.00927).

        x_s = (alpha_s / alpha_t) x_t - sigma_s (e^h - 1) E(x_t)                                       k = 1, (3.7)

    h is the step in log-SNR from t to s; k = 2 and 3 put for E what `DPMSolverPP` puts for D.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    part: LinearPart = field(default=NoisePart(), kw_only=True)
    source: ClassVar[str] = "arXiv:2206.00927"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dpm-1": {"k": 1},
        "dpm-2m": {"k": 2},
        "dpm-3m": {"k": 3},
    }


@dataclass(frozen=True)
class DPMSolverPP(_DPMSolver):
    """DPM-Solver++ 1, 2M and 3M: the flow in data form (arXiv:2211.01095); "published" starts as the paper does.

        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^(-h)) D(x_t)                              k = 1: DDIM
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^(-h)) [(1 + 1/(2r)) D_0 - 1/(2r) D_-1]    k = 2: algorithm 2

    h is the step in log-SNR from t to s, h_-1 the one before, r = h_-1 / h, and D_-1 the data before t. In the code:
    sigma_s / sigma_t is the part's propagator, alpha_s its integral weight, 1 - e^(-h) its kernel's `h_phi_1`, and the
    bracket is `predictor`. "edm" takes out a Gaussian of the data's variance, as EDM's preconditioning does.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    source: ClassVar[str] = "arXiv:2211.01095"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dpm++1": {"k": 1},
        "dpm++2m": {"k": 2},
        "dpm++3m": {"k": 3},
        "dpm++3m-published": {"k": 3, "start": LowerOrderStart()},
        "dpm++2m-edm": {"k": 2, "part": Preconditioned()},
    }


@dataclass(frozen=True)
class _SDE(_DPMSolver):
    strong_order = 1
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    source: ClassVar[str] = "arXiv:2211.01095"

    @property
    def weak_order(self) -> int:
        return min(self.k, 2)


@dataclass(frozen=True)
class SDEDPMSolver(_SDE):
    """SDE-DPM-Solver-1, -2M and -3M: the reverse SDE in noise form, any eta (arXiv:2211.01095).

        x_s = (alpha_s / alpha_t) x_t - (1 + eta^2) sigma_s (e^h - 1) E + eta sigma_s sqrt(e^(2h) - 1) z

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    part: LinearPart = field(default=NoisePart(), kw_only=True)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sde-dpm-1": {"k": 1}, "sde-dpm-2m": {"k": 2}}


@dataclass(frozen=True)
class SDEDPMSolverPP(_SDE):
    """SDE-DPM-Solver++ 1, 2M and 3M: the reverse SDE in data form, any eta (arXiv:2211.01095).

        x_s = (sigma_s / sigma_t) e^(-eta^2 h) x_t + alpha_s (1 - e^(-(1 + eta^2) h)) D
              + sigma_s sqrt(1 - e^(-2 eta^2 h)) z

    with D as in `DPMSolverPP`. k = 1 is stochastic gDDIM (arXiv:2206.05564). A noise that each step sees keeps the weak
    order of 3M at 2.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sde-dpm++1": {"k": 1},
        "sde-dpm++2m": {"k": 2},
        "sde-dpm++3m": {"k": 3},
        "sde-dpm++2m-edm": {"k": 2, "part": Preconditioned()},
    }
