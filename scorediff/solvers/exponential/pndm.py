"""PNDM and iPNDM: Adams' coefficients for even steps, taken on any grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from scorediff.linear_parts import LinearPart, NoisePart
from scorediff.solvers.exponential.multistep import History, Multistep
from scorediff.solvers.exponential.starts import LowerOrderStart, PseudoRungeKuttaStart, StartingProcedure

__all__ = ["PNDM"]

_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@dataclass(frozen=True)
class PNDM(Multistep):
    """iPNDM with k evaluations (arXiv:2204.13902), and PNDM, the same with its pseudo Runge-Kutta start
    (arXiv:2202.09778).

    `y_1 = y_0 + (s_1 - s_0) sum_j c_j E_j`, with the coefficients of even steps in s = sigma/alpha whatever the steps:
    of order k where they are even and the start is good, of order 2 on smoothly graded grids, and 1 in general, which
    is what is declared.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    k: int = 4
    start: StartingProcedure = LowerOrderStart()
    part: LinearPart = field(default=NoisePart(), kw_only=True)
    order = 1
    largest_k: ClassVar[int] = 4
    source: ClassVar[str] = "arXiv:2202.09778"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"ipndm-{k}": {"k": k, "start": LowerOrderStart()} for k in (2, 3, 4)},
        "pndm": {"k": 4, "start": PseudoRungeKuttaStart()},
    }

    def predictor(self, history: History) -> np.ndarray:
        return history.kernel.h_phi_1(history.h)[:, None] * np.array(_ADAMS[history.back.shape[1] - 1])
