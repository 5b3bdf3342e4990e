"""UniPC: predictor and corrector from one linear system."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.solvers.exponential.multistep import History, Multistep
from scorediff.solvers.exponential.starts import LowerOrderStart

__all__ = ["UniPC"]


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC-k with B_1(h) = h or B_2(h) = e^h - 1, k = 1 .. 4, in data form (arXiv:2302.04867); order k + 1.

    Predictor and corrector have the weights that `sum_j r_j^(m-1) rho_j = h phi_(m+1)(h) m! / B(h)`, m = 1, 2, ...,
    gives the differences `(D_j - D_0) / r_j`:

        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^(-h)) D_0 + alpha_s B(h) sum_j rho_j (D_j - D_0) / r_j

    From three evaluations on B falls out, and the step is
    `ExponentialAdamsMoulton`'s; at k = 2 the predictor and at k = 1 the corrector have the paper's weight 1/2 instead.
    The last step is not corrected. "published" is the reference's default: a start of lower order, and a lower order at
    the end, which together leave order 2.

    `b`: 1 or 2, which B; 2 is the paper's choice for unguided sampling, and its reference's default.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    b: int = 2
    corrects = True
    largest_k: ClassVar[int] = 4
    source: ClassVar[str] = "arXiv:2302.04867"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"unipc-{k}": {"k": k} for k in (1, 2, 3, 4)},
        **{f"unipc-b1-{k}": {"k": k, "b": 1} for k in (1, 2)},
        **{f"unipc-{k}-published": {"k": k, "start": LowerOrderStart(), "lower_order_final": True} for k in (2, 3)},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.b not in (1, 2):
            raise ValueError(f"b = {self.b!r}: UniPC has B_1 and B_2")

    def predictor(self, history: History) -> np.ndarray:
        return self._weights(history, history.back[:, 1:], simplified=2)

    def corrector(self, history: History) -> np.ndarray:
        found = self._weights(history, np.column_stack([history.h, history.back[:, 1:]]), simplified=1)
        # the new output comes first, then that at the node
        return np.column_stack([found[:, 1], found[:, 0], found[:, 2:]])

    def _weights(self, history: History, others: np.ndarray, simplified: int) -> np.ndarray:
        """Weights of the output at the node and of those at `others`, of shape (n, p), in log-SNR from it.

        `simplified`: the k whose only weight rho is 1/2.
        """
        h, kernel = history.h, history.kernel
        r = others / h[:, None]
        p = r.shape[1]
        h_phi_1 = kernel.h_phi_1(h)
        if not p:
            return h_phi_1[:, None]
        # B_1(h) = h, B_2(h) = e^h - 1, over kappa
        b = h * kernel.at_end() if self.b == 1 else h_phi_1
        # the integral is h phi_1 M_0 + B sum_j rho_j (M_j - M_0) / r_j
        if p == 1 and history.back.shape[1] == simplified:
            rho = np.full((len(h), 1), 0.5)
        else:
            # sum_j r_j^(m-1) rho_j = h phi_(m+1) m! / B, m = 1 .. p
            powers = r[:, None, :] ** np.arange(p)[:, None]
            moments = [h * kernel.phi(m + 1, 1.0, h) * math.factorial(m) / b for m in range(1, p + 1)]
            # where nodes fall together there is no solution, and no other step is to suffer for it
            powers[np.linalg.det(powers) == 0] = np.nan
            rho = np.linalg.solve(powers, np.stack(moments, axis=1)[..., None])[..., 0]
        scaled = b[:, None] * rho / r
        return np.column_stack([h_phi_1 - scaled.sum(1), scaled])
