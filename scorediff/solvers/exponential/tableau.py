"""Tableaus of exponential Runge-Kutta methods: weights that are combinations of phi-functions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from scorediff.linear_parts.phi import phi

__all__ = ["ExponentialTableau", "Phi"]


@dataclass(frozen=True)
class Phi:
    """`sum coefficient * phi_k(c z)`, over `terms` of `(k, c): coefficient`. `Phi.of(2, 1/2)` is `phi_2(z / 2)`."""

    terms: Mapping[tuple[int, float], float] = field(default_factory=dict)

    @classmethod
    def of(cls, k: int, c: float = 1.0) -> "Phi":
        """`phi_k(c z)`."""
        return cls({(k, c): 1.0})

    def __add__(self, other: "Phi") -> "Phi":
        keys = [*self.terms, *(key for key in other.terms if key not in self.terms)]
        return Phi({key: self.terms.get(key, 0.0) + other.terms.get(key, 0.0) for key in keys})

    def __neg__(self) -> "Phi":
        return self * -1.0

    def __sub__(self, other: "Phi") -> "Phi":
        return self + -other

    def __mul__(self, factor: float) -> "Phi":
        return Phi({key: factor * c for key, c in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Phi":
        return self * (1 / divisor)

    def at(self, z: np.ndarray) -> np.ndarray:
        """The value at `z`, elementwise."""
        return np.asarray(sum((c * phi(k, node * z) for (k, node), c in self.terms.items()), np.zeros_like(z)))

    def taylor(self, power: int) -> float:
        """The coefficient of `z^power`: phi_k(z) = sum_l z^l / (l + k)!."""
        return sum(c * node**power / math.factorial(power + k) for (k, node), c in self.terms.items())


Row = Mapping[int, Phi]


@dataclass(frozen=True)
class ExponentialTableau:
    """`u_i = e^(c_i z) u_0 + h sum_j a_ij(z) N(u_j)`, `u_1 = e^z u_0 + h sum_i b_i(z) N(u_i)`, z = h L.

    `order`: the order of the result, as its paper says; no step uses it. `c`: the nodes, in units of the step, the
    first of them 0. `a`: a row `{j: a_ij}` for every stage after the first, without its first entry; `b`: the row of
    the result, likewise. `lower`: the row of an embedded result of order `order - 1`, none by default.

    Every row sums to what the linear part alone makes of a constant N, `c_i phi_1(c_i z)`, by construction: its first
    entry is `a_i0 = c_i phi_1(c_i z) - sum_j a_ij`, or `b_0 = phi_1(z) - sum_i b_i`. Raises ValueError for nodes that
    do not begin with 0 or lie outside the step, and for a row that weighs a stage that is not yet there. The conditions
    of its order are tested, by `verify.exponential_order` and `verify.stiff_order`.
    """

    order: int
    c: tuple[float, ...]
    a: tuple[Row, ...]
    b: Row
    lower: Row | None = None

    def __post_init__(self) -> None:
        if self.c[:1] != (0.0,) or not all(0 <= c <= 1 for c in self.c):
            raise ValueError(f"nodes c = {self.c}: the first is 0, and all lie in [0, 1], the step")
        if len(self.a) != len(self.c) - 1:
            raise ValueError(f"{len(self.c)} stages want {len(self.c) - 1} rows of a, got {len(self.a)}")
        results = (self.b,) if self.lower is None else (self.b, self.lower)
        for stages, row in (*enumerate(self.a, 1), *((len(self.c), row) for row in results)):
            if not all(1 <= j < stages for j in row):
                raise ValueError(
                    f"a row weighs the stages {sorted(row)}, where those from 1 to {stages - 1} may be weighed: stage "
                    "0 takes the rest of the sum"
                )

    @cached_property
    def rows(self) -> tuple[tuple[Phi, ...], ...]:
        """The full rows of a, and that of b."""
        return tuple(self._filled(row, c) for row, c in zip((*self.a, self.b), (*self.c[1:], 1.0), strict=True))

    @cached_property
    def embedded(self) -> tuple[Phi, ...]:
        """The full row of the embedded result. Raises ValueError where there is none."""
        if self.lower is None:
            raise ValueError("this tableau has no embedded result: give it `lower`")
        return self._filled(self.lower, 1.0)

    @cached_property
    def difference(self) -> tuple[Phi, ...]:
        """The weight of each stage in the result less the embedded one. Raises ValueError where none is embedded."""
        padded = ((*row, *(Phi() for _ in range(len(self.c) - len(row)))) for row in (self.rows[-1], self.embedded))
        return tuple(b - low for b, low in zip(*padded, strict=True))

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the result, so that its evaluation is the first of the next step."""
        return self.c[-1] == 1 and self.rows[-2] == self.rows[-1]

    def _filled(self, row: Row, c: float) -> tuple[Phi, ...]:
        later = [row.get(j, Phi()) for j in range(1, max(row, default=0) + 1)]
        return (sum((-w for w in later), c * Phi.of(1, c)), *later)
