"""Order conditions of Runge-Kutta tableaus: those of rooted trees, and those that hold where the linear part is stiff.

The derivatives of u' = L u + N(u) are sums over rooted trees whose nodes are N, with any number of branches, or L, with
one at most. A method is of order p where its elementary weight of every tree of up to p nodes is one over the density
of the tree (Berland, Owren, Skaflestad, "B-series and order conditions for exponential integrators", 2005). Without L
they are the trees of a classical method.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from scorediff.linear_parts.phi import phi
from scorediff.solvers.exponential.tableau import ExponentialTableau, Phi
from scorediff.solvers.runge_kutta import Tableau

__all__ = ["classical_order", "exponential_order", "stiff_order"]

_MOST = 6  # no condition of a higher order is looked at
_ROUNDING = 1e-12
_SAMPLES = (-0.3, -1.7, -4.1)  # arguments at which two different weights differ

Rows = Sequence[Sequence[Phi]]


class Tree(NamedTuple):
    """A rooted tree: whether its root is N rather than L, and its branches."""

    nonlinear: bool
    branches: tuple["Tree", ...] = ()


def classical_order(tableau: Tableau, result: Sequence[float] | None = None) -> int:
    """The order of an explicit Runge-Kutta method, 6 at most; that of other weights `result`, given in place of `b`.

    >>> from scorediff.solvers import RK4, RK45
    >>> classical_order(RK4.tableau)
    4
    >>> pair = RK45.tableau
    >>> classical_order(pair, [b - error for b, error in zip(pair.b, pair.error)])
    4
    """
    # a number is that number times phi_0(0 z)
    a, b = ([[Phi({(0, 0.0): w}) for w in row] for row in rows] for rows in (tableau.a, [result or tableau.b]))
    return _order(tableau.c, a[1:], b[0], [[tree for tree in trees if _without_l(tree)] for trees in _by_size()])


def exponential_order(tableau: ExponentialTableau, result: Sequence[Phi] | None = None) -> int:
    """The order of an exponential method where L is not stiff, 6 at most; that of `tableau.embedded` where it is given
    as `result`.

    >>> from scorediff.solvers import Krogstad
    >>> exponential_order(Krogstad.tableau)
    4
    """
    *a, b = tableau.rows
    return _order(tableau.c, a, result or b, _by_size())


def stiff_order(tableau: ExponentialTableau) -> int:
    """The order where L is large, 5 at most, by the conditions of arXiv:math/0410316 and 10.1016/j.cam.2013.04.039,
    those of the highest order in their weaker form: with `b` at z = 0.

    >>> from scorediff.solvers import CoxMatthews, HochbruckOstermann
    >>> stiff_order(CoxMatthews.tableau), stiff_order(HochbruckOstermann.tableau)
    (2, 4)
    """
    reached = 0
    for order in range(1, 6):
        if not _is_stiffly(tableau, order, np.zeros(1)):
            break
        reached = order
        if not _is_stiffly(tableau, order, np.array(_SAMPLES)):
            break
    return reached


def _order(c: Sequence[float], a: Rows, b: Sequence[Phi], trees: Sequence[Sequence[Tree]]) -> int:
    """The largest size up to which the conditions of all trees hold."""
    for order, of_one_size in enumerate(trees):
        if any(abs(_weight(tree, c, a, b) - 1 / _density(tree)) > _ROUNDING for tree in of_one_size):
            return order
    return len(trees)


def _weight(tree: Tree, c: Sequence[float], a: Rows, b: Sequence[Phi]) -> float:
    """The elementary weight of a tree in the result."""
    linear, branches = _chain(tree)
    if branches is None:
        return 1 / math.factorial(linear)
    return sum(w.taylor(linear) * value for w, value in zip(b, _products(branches, c, a), strict=False))


def _products(branches: tuple[Tree, ...], c: Sequence[float], a: Rows) -> list[float]:
    """For every stage the product of the weights of the branches there."""
    values = [1.0] * len(c)
    for tree in branches:
        linear, below = _chain(tree)
        inner = None if below is None else _products(below, c, a)
        for i, node in enumerate(c):
            if inner is None:
                values[i] *= node**linear / math.factorial(linear)
            else:
                row = a[i - 1] if i else ()
                values[i] *= sum(w.taylor(linear) * value for w, value in zip(row, inner, strict=False))
    return values


def _is_stiffly(tableau: ExponentialTableau, order: int, at: np.ndarray) -> bool:
    """Whether the stiff conditions of this order hold, with `b` at the arguments `at`."""
    z = np.array(_SAMPLES)
    stages, c = len(tableau.c), np.array(tableau.c)
    b = np.zeros((stages, at.size))
    for i, w in enumerate(tableau.rows[-1]):
        b[i] = w.at(at)
    a = np.zeros((stages, stages, z.size))
    for i, row in enumerate(tableau.rows[:-1], 1):
        for j, w in enumerate(row):
            a[i, j] = w.at(z)

    def defect(k: int) -> np.ndarray:
        # psi_k,i = c_i^k phi_k(c_i z) - sum_j a_ij c_j^(k-1) / (k-1)!
        exact = np.stack([ci**k * phi(k, ci * z) for ci in tableau.c])
        return exact - np.einsum("ijz,j->iz", a, c ** (k - 1)) / math.factorial(k - 1)

    # every argument is another one: operators between them do not commute
    found = [phi(order, at) - b.T @ c ** (order - 1) / math.factorial(order - 1)]
    if order == 2:
        found.append(defect(1))
    if order >= 3:
        found.append(np.einsum("ix,iz->xz", b, defect(order - 1)))
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
    return all(np.abs(value).max() < _ROUNDING for value in found)


def _chain(tree: Tree) -> tuple[int, tuple[Tree, ...] | None]:
    """How many L lead down from the root, and the branches of the N below them; None where an L ends them."""
    linear = 0
    while not tree.nonlinear:
        linear += 1
        if not tree.branches:
            return linear, None
        (tree,) = tree.branches
    return linear, tree.branches


def _size(tree: Tree) -> int:
    return 1 + sum(map(_size, tree.branches))


def _density(tree: Tree) -> int:
    return _size(tree) * math.prod(map(_density, tree.branches))


def _without_l(tree: Tree) -> bool:
    return tree.nonlinear and all(map(_without_l, tree.branches))


def _by_size() -> list[tuple[Tree, ...]]:
    """All trees of one node, of two, and so on."""
    return [_trees(size) for size in range(1, _MOST + 1)]


@lru_cache
def _trees(size: int) -> tuple[Tree, ...]:
    """All trees of so many nodes."""
    roots_n = [Tree(True, branches) for branches in _forests(size - 1, size - 1)]
    roots_l = [Tree(False, (below,)) for below in _trees(size - 1)] if size > 1 else [Tree(False)]
    return (*roots_n, *roots_l)


def _forests(size: int, largest: int) -> Iterator[tuple[Tree, ...]]:
    """All multisets of trees of at most `largest` nodes each, of `size` nodes together."""
    if size == 0:
        yield ()
    for biggest in range(min(size, largest), 0, -1):
        for count in range(1, size // biggest + 1):
            for some in combinations_with_replacement(_trees(biggest), count):
                for rest in _forests(size - count * biggest, biggest - 1):
                    yield (*some, *rest)
