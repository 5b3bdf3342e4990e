"""The multistep DPM-Solvers: in noise form and in data form, on the flow and on the reverse SDE."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.problems import ReverseSDE
from scorediff.solvers.base import Exact
from scorediff.solvers.exponential.forms import DataForm, Form, NoiseForm, held
from scorediff.solvers.exponential.multistep import Multistep, Past, lagrange_weights
from scorediff.solvers.exponential.starts import LowerOrderStart

__all__ = ["DPMSolver", "DPMSolverPP", "SDEDPMSolver", "SDEDPMSolverPP"]

_MEAN = frozenset({Exact.MEAN})
_MEAN_AND_POINT_MASS = frozenset({Exact.MEAN, Exact.POINT_MASS})


@dataclass(frozen=True)
class _DPMSolver(Multistep):
    """k = 1 holds the reading M constant; k = 2 ("2M") takes `(1 + 1/(2r)) M_0 - 1/(2r) M_-1`, `r = h_-1 / h`; k = 3
    ("3M") the parabola through the last three.
    """

    largest_k: ClassVar[int] = 3

    def predictor(self, past: Past) -> np.ndarray:
        k = past.back.shape[1]
        if k == 3:
            # as divided differences D1 and D2, with the 2 in D2 that makes it third order
            return lagrange_weights(past.kappa, past.h, past.back)
        weight = held(past.kappa, past.h)
        if k == 1:
            return weight[:, None]
        # 1 / (2 r)
        half_ratio = past.h / (2 * -past.back[:, 1])
        return np.column_stack([weight * (1 + half_ratio), -weight * half_ratio])


@dataclass(frozen=True)
class DPMSolver(_DPMSolver):
    """DPM-Solver-1, -2M and -3M: the flow in noise form (arXiv:2206.00927)."""

    exact_on = _MEAN_AND_POINT_MASS
    form: ClassVar[Form] = NoiseForm()
    source: ClassVar[str] = "arXiv:2206.00927"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dpm-1": {"k": 1},
        "dpm-2m": {"k": 2},
        "dpm-3m": {"k": 3},
    }


@dataclass(frozen=True)
class DPMSolverPP(_DPMSolver):
    """DPM-Solver++ 1, 2M and 3M: the flow in data form (arXiv:2211.01095); "published" starts as the paper does."""

    exact_on = _MEAN_AND_POINT_MASS
    form: ClassVar[Form] = DataForm()
    starts_at_pure_noise: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2211.01095"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dpm++1": {"k": 1},
        "dpm++2m": {"k": 2},
        "dpm++3m": {"k": 3},
        "dpm++3m-published": {"k": 3, "start": LowerOrderStart()},
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
    """SDE-DPM-Solver-1, -2M and -3M: the reverse SDE in noise form, any eta (arXiv:2211.01095)."""

    exact_on = _MEAN
    form: ClassVar[Form] = NoiseForm()
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sde-dpm-1": {"k": 1}, "sde-dpm-2m": {"k": 2}}


@dataclass(frozen=True)
class SDEDPMSolverPP(_SDE):
    """SDE-DPM-Solver++ 1, 2M and 3M: the reverse SDE in data form, any eta (arXiv:2211.01095).

    k = 1 is stochastic gDDIM (arXiv:2206.05564). A noise that each step sees keeps the weak order of 3M at 2.
    """

    exact_on = _MEAN_AND_POINT_MASS
    form: ClassVar[Form] = DataForm()
    starts_at_pure_noise: ClassVar[bool] = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sde-dpm++1": {"k": 1},
        "sde-dpm++2m": {"k": 2},
        "sde-dpm++3m": {"k": 3},
    }
