"""Tableaus of exponential Runge-Kutta methods: weights that are combinations of phi-functions, checked at birth."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement

import numpy as np

from scorediff.linear_parts.kernels import phi

__all__ = ["ExponentialTableau", "Phi"]

_SAMPLES = (-0.3, -1.7, -4.1)  # arguments at which two different weights differ


@dataclass(frozen=True)
class Phi:
    """`sum coefficient * phi_k(c z)`, over `terms` of `(k, c): coefficient`. `Phi.of(2, 1/2)` is `phi_2(z / 2)`."""

    terms: Mapping[tuple[int, float], float] = field(default_factory=dict)

    @classmethod
    def of(cls, k: int, c: float = 1.0) -> "Phi":
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

# A tree of the elementary differentials of u' = L u + N(u): is its root N (or L, which has at most one branch)?
Tree = tuple[bool, tuple["Tree", ...]]


@dataclass(frozen=True)
class ExponentialTableau:
    """`u_i = e^(c_i z) u_0 + h sum_j a_ij(z) N(u_j)`, `u_1 = e^z u_0 + h sum_i b_i(z) N(u_i)`, z = h L.

    `a` has a row `{j: a_ij}` for every stage after the first, and `b` one for the result, each without its first entry:
    `a_i0 = c_i phi_1(c_i z) - sum_j a_ij`, `b_0 = phi_1(z) - sum_i b_i`. `lower` is the row of an embedded result.

    Raises ValueError where an order condition of `order` (of `order - 1` for `lower`) fails: those of all trees in
    L and N.
    """

    order: int
    c: tuple[float, ...]
    a: tuple[Row, ...]
    b: Row
    lower: Row | None = None

    def __post_init__(self) -> None:
        if len(self.a) != len(self.c) - 1:
            raise ValueError(f"{len(self.c)} stages want {len(self.c) - 1} rows of a, got {len(self.a)}")
        for row, order in ((self.b, self.order), (self.lower, self.order - 1)):
            if row is None:
                continue
            for tree in _trees_to(order):
                off = self._weight(tree, self._filled(row, 1.0)) - 1 / _density(tree)
                if abs(off) > 1e-12:
                    raise ValueError(f"the tableau is not of order {order}: a condition of order {_size(tree)} is off "
                                     f"by {off:.3g}")  # fmt: skip

    @cached_property
    def rows(self) -> tuple[tuple[Phi, ...], ...]:
        """The full rows of a, and that of b."""
        return tuple(self._filled(row, c) for row, c in zip((*self.a, self.b), (*self.c[1:], 1.0), strict=True))

    @cached_property
    def difference(self) -> tuple[Phi, ...]:
        """What each reading weighs in the result less the embedded one. Raises ValueError where none is embedded."""
        if self.lower is None:
            raise ValueError("this tableau has no embedded result: give it `lower`")
        rows = (self._filled(self.b, 1.0), self._filled(self.lower, 1.0))
        padded = ((*row, *(Phi() for _ in range(len(self.c) - len(row)))) for row in rows)
        return tuple(b - low for b, low in zip(*padded, strict=True))

    @property
    def first_same_as_last(self) -> bool:
        """Is the last stage the result, so that its reading is the first of the next step?"""
        return self.c[-1] == 1 and self.rows[-2] == self.rows[-1]

    @cached_property
    def stiff_order(self) -> int:
        """The order where L is large, by the conditions of arXiv:math/0410316 and 10.1016/j.cam.2013.04.039, its own
        in their weaker form.
        """
        reached = 0
        for order in range(1, 6):
            if not self._stiff(order, weakly=True):
                break
            reached = order
            if not self._stiff(order, weakly=False):
                break
        return reached

    def _filled(self, row: Row, c: float) -> tuple[Phi, ...]:
        later = [row.get(j, Phi()) for j in range(1, max(row, default=0) + 1)]
        return (sum((-w for w in later), c * Phi.of(1, c)), *later)

    def _weight(self, tree: Tree, result: Sequence[Phi]) -> float:
        """The elementary weight of a tree in the result."""
        whites, branches = _chain(tree)
        if branches is None:
            return 1 / math.factorial(whites)
        values = self._products(branches)
        return sum(w.taylor(whites) * value for w, value in zip(result, values, strict=False))

    def _products(self, branches: tuple[Tree, ...]) -> list[float]:
        """For every stage the product of the weights of the branches there."""
        values = [1.0] * len(self.c)
        for tree in branches:
            whites, below = _chain(tree)
            inner = None if below is None else self._products(below)
            for i, c in enumerate(self.c):
                if inner is None:
                    values[i] *= c**whites / math.factorial(whites)
                else:
                    row = self.rows[i - 1] if i else ()
                    values[i] *= sum(w.taylor(whites) * value for w, value in zip(row, inner, strict=False))
        return values

    def _stiff(self, order: int, weakly: bool) -> bool:
        """Do the stiff conditions of this order hold, for all z, or with `b` at 0 alone?"""
        z = np.array(_SAMPLES)
        stages, c = len(self.c), np.array(self.c)
        at = np.zeros(1) if weakly else z
        b = np.zeros((stages, at.size))
        for i, w in enumerate(self.rows[-1]):
            b[i] = w.at(at)
        a = np.zeros((stages, stages, z.size))
        for i, row in enumerate(self.rows[:-1], 1):
            for j, w in enumerate(row):
                a[i, j] = w.at(z)

        def defect(k: int) -> np.ndarray:
            # psi_k,i = c_i^k phi_k(c_i z) - sum_j a_ij c_j^(k-1) / (k-1)!
            own = np.stack([ci**k * phi(k, ci * z) for ci in self.c])
            return own - np.einsum("ijz,j->iz", a, c ** (k - 1)) / math.factorial(k - 1)

        # every argument is another one: operators between them do not commute
        last = phi(order, at) - b.T @ c ** (order - 1) / math.factorial(order - 1)
        found = [last]
        sums = {"b": b}
        if order == 2:
            found.append(defect(1))
        if order >= 3:
            found.append(np.einsum("ix,iz->xz", sums["b"], defect(order - 1)))
        if order >= 4:
            found.append(np.einsum("ix,i,iz->xz", b, c, defect(order - 2)))
            found.append(np.einsum("ix,ijy,jz->xyz", b, a, defect(order - 2)))
        if order == 5:
            psi = defect(2)
            found += [
                np.einsum("ix,i,iz->xz", b, c**2, psi),
                np.einsum("ix,iy,iz->xyz", b, psi, psi),
                np.einsum("ix,i,ijy,jz->xyz", b, c, a, psi),
                np.einsum("ix,ijy,j,jz->xyz", b, a, c, psi),
                np.einsum("ix,ijy,jkv,kz->xyvz", b, a, a, psi),
            ]
        return all(np.abs(value).max() < 1e-12 for value in found)


def _chain(tree: Tree) -> tuple[int, tuple[Tree, ...] | None]:
    """How many L lead down from the root, and the branches of the N below them; None where there is no N."""
    whites = 0
    while not tree[0]:
        whites += 1
        if not tree[1]:
            return whites, None
        (tree,) = tree[1]
    return whites, tree[1]


def _size(tree: Tree) -> int:
    return 1 + sum(map(_size, tree[1]))


def _density(tree: Tree) -> int:
    return _size(tree) * math.prod(map(_density, tree[1]))


@lru_cache
def _trees(size: int) -> tuple[Tree, ...]:
    """All trees of so many nodes."""
    black: list[Tree] = [(True, branches) for branches in _forests(size - 1, size - 1)]
    white: list[Tree] = [(False, (below,)) for below in _trees(size - 1)] if size > 1 else [(False, ())]
    return (*black, *white)


def _forests(size: int, largest: int) -> Iterator[tuple[Tree, ...]]:
    """All multisets of trees of at most `largest` nodes each, of `size` nodes together."""
    if size == 0:
        yield ()
    for biggest in range(min(size, largest), 0, -1):
        for count in range(1, size // biggest + 1):
            for some in combinations_with_replacement(_trees(biggest), count):
                for rest in _forests(size - count * biggest, biggest - 1):
                    yield (*some, *rest)


def _trees_to(order: int) -> Iterator[Tree]:
    for size in range(1, order + 1):
        yield from _trees(size)
