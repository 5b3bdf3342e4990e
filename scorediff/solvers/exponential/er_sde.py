"""ER-SDE solvers: the data's Taylor polynomial in sigma/alpha, for any amount of noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.problems import ReverseSDE
from scorediff.schedules import Schedule
from scorediff.solvers.exponential.multistep import History, Multistep
from scorediff.solvers.exponential.starts import LowerOrderStart, StartingProcedure

__all__ = ["ERSDE", "ERNoise"]


@dataclass(frozen=True)
class ERSDE(Multistep):
    """ER-SDE-1, -2 and -3 (arXiv:2309.06169): `D + (s - s_0) D' + (s - s_0)^2/2 D''`, s = sigma/alpha, with divided
    differences for D' and D'', integrated to rounding.

    The paper's noise function fn is the problem's eta, `eta^2 = s fn'(s)/fn(s) - 1`: fn = s^2 is eta = 1, and its own
    is `ERNoise(schedule)`. D' is a difference on one side, and so k = 3 is of the order of k = 2.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    k: int = 3
    start: StartingProcedure = LowerOrderStart()
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    strong_order = 1
    largest_k: ClassVar[int] = 3
    source: ClassVar[str] = "arXiv:2309.06169"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"er-sde-{k}": {"k": k} for k in (1, 2, 3)}

    @property
    def starts_at_pure_noise(self) -> bool:
        return self.part.regular_at_pure_noise

    @property
    def weak_order(self) -> int:
        return min(self.k, 2)

    def predictor(self, history: History) -> np.ndarray:
        # s / s_0 at the nodes
        s = np.exp(-history.back)
        weights = np.zeros(s.shape)
        weights[:, 0] = history.kernel.h_phi_1(history.h)
        if s.shape[1] > 1:
            # D' = (D_0 - D_-1) / (s_0 - s_-1)
            slope = history.kernel.integral(history.h, lambda u: np.expm1(-u)) / (1 - s[:, 1])
            weights[:, :2] += slope[:, None] * [1, -1]
        if s.shape[1] > 2:
            # D'' = 2 (D'_0 - D'_-1) / (s_0 - s_-2)
            bend = history.kernel.integral(history.h, lambda u: np.expm1(-u) ** 2 / 2) * 2 / (1 - s[:, 2])
            newer, older = bend / (1 - s[:, 1]), bend / (s[:, 1] - s[:, 2])
            weights += np.column_stack([newer, -newer - older, older])
        return weights


@dataclass(frozen=True)
class ERNoise:
    """The eta of the ER-SDE paper, fn(s) = s (e^(s^0.3) + 10), as a function of the time of `schedule`."""

    schedule: Schedule

    def __call__(self, t: float) -> float:
        # s fn'/fn - 1 = 0.3 s^0.3 e^(s^0.3) / (e^(s^0.3) + 10), with s^0.3 = e^(-0.3 log_snr)
        power = np.exp(-0.3 * self.schedule.log_snr(t))
        return float(np.sqrt(0.3 * power / (1 + 10 * np.exp(-power))))
