"""What an Adams method remembers: Newton's divided differences of the last outputs, for every sample apart."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import Workspace
from scorediff.coordinates import RatioVariable
from scorediff.linear_parts import LinearPart
from scorediff.solvers.adaptive.rows import put, restore, take

__all__ = ["Differences", "Integrals", "column", "columns"]

_GAUSS = np.polynomial.legendre.leggauss(12)
_NOWHERE = -1e3  # a node that is not one: no variable is ever there, so that no distance to it is 0


def columns(values: np.ndarray, like: Tensor) -> tuple[Tensor, ...]:
    """Host numbers of shape (A, m, 1) or (A, m, entries) as m tensors ready to multiply a part of shape (A, ...)."""
    made = torch.from_numpy(np.ascontiguousarray(values.swapaxes(0, 1))).to(device=like.device, dtype=like.dtype)
    return made.unbind() if made.shape[2] > 1 else made.reshape(*made.shape[:2], *(1,) * (like.ndim - 1)).unbind()


def column(values: np.ndarray, like: Tensor) -> Tensor:
    """The same for a single one, of shape (A, 1) or (A, entries)."""
    return columns(values[:, None], like)[0]


@dataclass(frozen=True)
class Integrals:
    """Of Newton's basis on a step, on the host: `g` for each part, of shape (A, k + 1, 1 or entries), and `products` of
    shape (A, k + 1), the basis at the end of the step.
    """

    g: list[np.ndarray]
    products: np.ndarray

    @classmethod
    def over(
        cls,
        part: LinearPart,
        variable: RatioVariable,
        data_std: float,
        start: np.ndarray,
        stop: np.ndarray,
        nodes: np.ndarray,
    ) -> "Integrals":
        """`INT (d(x / R) / ds) prod_m<i (tau - node_m) ds` for i from 0 to k, nodes of shape (A, k), newest first.

        By Gauss and Legendre in `u = log(1 + k / s)`, which runs from 0 at s = infinity, and as -log s to s = 0: all
        that is integrated bends on a scale of 1 in it.
        """
        points, weights = _GAUSS
        k = data_std
        with np.errstate(divide="ignore"):
            u_0, u_1 = (np.log1p(k / variable.ratio(tau)) for tau in (start, stop))
        half = (u_1 - u_0)[:, None] / 2
        s = k / np.expm1((u_0 + u_1)[:, None] / 2 + half * points)
        # ds = -(s + s^2 / k) du
        ds = -(s + s**2 / k) * weights * half
        tau = variable.of(1.0, s)
        basis = np.ones((len(start), nodes.shape[1] + 1, len(points)))
        np.cumprod(tau[:, None, :] - nodes[:, :, None], axis=1, out=basis[:, 1:])
        products = np.ones(basis.shape[:2])
        np.cumprod(stop[:, None] - nodes, axis=1, out=products[:, 1:])
        # a sum of products rather than a matrix product, whose order of summation would depend on its shape
        g = [np.sum(basis[..., None] * (slope * ds[..., None])[:, None], axis=2) for slope in part.slope(s[..., None])]
        return cls(g, products)

    @cached_property
    def corrects(self) -> list[np.ndarray]:
        """What the new difference of order i weighs in the corrector of each part: (A, k + 1, 1 or entries)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return [g / self.products[..., None] for g in self.g]


class Differences:
    """For the A samples under way: `nodes` of shape (A, places), newest first, and of each part a list of tensors.

    `terms[part][i] * unit[:, i]` is the divided difference of order i, for i below `count`: what is kept is of the size
    of the outputs, and the powers of the steps are in `unit` (Shampine and Gordon's modified differences).
    """

    def __init__(self, parts: int, size: int, places: int) -> None:
        self.nodes, self.unit = np.full((size, places), _NOWHERE), np.zeros((size, places))
        self.count = np.zeros(size, dtype=np.int64)
        self.terms: list[list[Tensor]] = [[] for _ in range(parts)]
        self.work = Workspace(2 * places + 6)

    def begin(self, which: np.ndarray, tau: np.ndarray, outputs: list[Tensor]) -> None:
        """Forget all of the rows `which`, and start with an output of each."""
        self.nodes[which], self.unit[which], self.count[which] = _NOWHERE, 0.0, 1
        self.nodes[which, 0], self.unit[which, 0] = tau, 1.0
        for terms, output in zip(self.terms, outputs, strict=True):
            if not terms:
                terms.append(output)
            else:
                terms[0] = put(terms[0], which, output)

    def keep(self, which: np.ndarray) -> None:
        """Forget all rows but these."""
        self.nodes, self.unit, self.count = self.nodes[which], self.unit[which], self.count[which]
        self.terms = [[take(term, which) for term in terms] for terms in self.terms]

    def moved(
        self, state: list[Tensor], numbers: Integrals, k: np.ndarray, before: list[np.ndarray], after: list[np.ndarray]
    ) -> list[Tensor]:
        """Each part of the state after a step on which P is the polynomial through the last k outputs.

        `before` and `after` are R_v at the ends of the step.
        """
        used = (np.arange(int(k.max())) < k[:, None]) * self.unit[:, : int(k.max())]
        found = []
        for x, terms, g, r_0, r_1 in zip(state, self.terms, numbers.g, before, after, strict=True):
            # x_1 = R_1 (x_0 / R_0 + sum_i g_i P[tau_0, ..., tau_i])
            weights = g[:, : used.shape[1]] * (used[..., None] * r_1[:, None, :])
            first, *others = columns(np.concatenate([(r_1 / r_0)[:, None], weights], axis=1), x)
            new = torch.mul(x, first, out=self.work.buffer(x))
            for weight, term in zip(others, terms, strict=False):
                new.addcmul_(term, weight)
            found.append(new)
        return found

    def extended(self, outputs: list[Tensor], products: np.ndarray) -> list[list[Tensor]]:
        """The modified differences with a new output of each part in front: of order i from those of order i - 1."""
        depth = products.shape[1] - 1
        # d_(i+1) = d_i - products_i P[tau_0, ..., tau_i]
        weights = (-products[:, :depth] * self.unit[:, :depth])[..., None]
        made = []
        for output, terms in zip(outputs, self.terms, strict=True):
            new = [output]
            for weight, term in zip(columns(weights, output), terms, strict=False):
                new.append(torch.addcmul(new[-1], term, weight, out=self.work.buffer(output)))
            made.append(new)
        return made

    def take(
        self, good: np.ndarray, tau: np.ndarray, k: np.ndarray, products: np.ndarray, new: list[list[Tensor]]
    ) -> None:
        """Keep the `new` differences of the rows whose step was `good`, at the node `tau`.

        Those above order k + 1 are forgotten: they are there only where another sample's order is higher.
        """
        there = np.minimum(self.count, k + 1) + 1
        self.count = np.where(good, there, np.minimum(self.count, k + 2))
        if not good.any():
            return
        unit = np.zeros_like(self.unit)
        unit[:, : products.shape[1]] = 1 / products
        unit = np.where(np.arange(unit.shape[1]) < self.count[:, None], unit, 0.0)
        nodes = np.column_stack([tau, self.nodes[:, :-1]])
        self.unit = np.where(good[:, None], unit, self.unit)
        self.nodes = np.where(good[:, None], nodes, self.nodes)
        for terms, old in zip(new, self.terms, strict=True):
            restore(terms, old, good)
        self.terms = new
