"""UniPC: predictor and corrector from one linear system."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.solvers.base import Exact
from scorediff.solvers.exponential.forms import DataForm, Form, held, phi
from scorediff.solvers.exponential.multistep import Multistep, Past
from scorediff.solvers.exponential.starts import LowerOrderStart

__all__ = ["UniPC"]


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC-k with B_1(h) = h or B_2(h) = e^h - 1, k = 1 .. 4, in data form (arXiv:2302.04867); order k + 1.

    With three readings or more the system is solved, B falls out, and the step is `ExponentialAdamsMoulton`'s; at k =
    2 the predictor and at k = 1 the corrector have the paper's weight 1/2 instead. The last step is not corrected.
    "published" is the reference's default: a ramp, and a lower order at the end, which together leave order 2.
    """

    form: Form = DataForm()  # type: ignore[misc]
    b: int = 2
    corrects: ClassVar[bool] = True
    largest_k: ClassVar[int] = 4
    exact_on = frozenset({Exact.MEAN, Exact.POINT_MASS})
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

    def predictor(self, past: Past) -> np.ndarray:
        return self._weights(past, past.back[:, 1:], simplified=2)

    def corrector(self, past: Past) -> np.ndarray:
        found = self._weights(past, np.column_stack([past.h, past.back[:, 1:]]), simplified=1)
        # the new reading comes first, then that at the node
        return np.column_stack([found[:, 1], found[:, 0], found[:, 2:]])

    def _weights(self, past: Past, others: np.ndarray, simplified: int) -> np.ndarray:
        """Weights of the reading at the node and of those at `others`, of shape (n, p), in log-SNR from it.

        `simplified`: the k whose only weight rho is 1/2.
        """
        h, z = past.h, past.kappa * past.h
        r = others / h[:, None]
        p = r.shape[1]
        big_b = z if self.b == 1 else np.expm1(z)
        if not p:
            return held(past.kappa, h)[:, None]
        # the integral is (expm1(z) M_0 + B sum_j rho_j (M_j - M_0) / r_j) / kappa
        if p == 1 and past.back.shape[1] == simplified:
            rho = np.full((len(h), 1), 0.5)
        else:
            # sum_j r_j^(m-1) rho_j = z phi_(m+1)(z) m! / B, m = 1 .. p
            powers = r[:, None, :] ** np.arange(p)[:, None]
            wanted = np.stack([z * phi(m + 1, z) * math.factorial(m) / big_b for m in range(1, p + 1)], axis=1)
            rho = np.linalg.solve(powers, wanted[..., None])[..., 0]
        scaled = (big_b / past.kappa)[:, None] * rho / r
        return np.column_stack([np.expm1(z) / past.kappa - scaled.sum(1), scaled])
