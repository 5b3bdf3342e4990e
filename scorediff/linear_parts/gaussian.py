"""The Gaussian of the data's mean and covariance."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff._core.arrays import ArrayLike, Placed, no_less, parameter
from scorediff.linear_parts.base import LinearPart

__all__ = ["GaussianPart"]

_SPREAD = 2.0  # by how much the clock's scales lie beyond those of the data


@dataclass(frozen=True, eq=False)
class GaussianPart(LinearPart):
    """The Gaussian of the data's mean and covariance: `directions diag(variances) directions^T`, and `rest` beside.

    `mean` of the shape of a sample; `directions` of shape (D, r), orthonormal columns; `variances` of shape (r,);
    `rest` the variance in every other direction. `fit` makes one from data. A Gaussian target is then solved exactly.
    Raises TypeError or ValueError for other shapes, numbers that are not finite, or variances below 0.
    """

    calibration: ClassVar[float] = 1.5
    mean: Any = (0.0,)
    directions: Any = ((1.0,),)
    variances: Any = (1.0,)
    rest: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "directions", "variances"):
            object.__setattr__(self, name, parameter(name, getattr(self, name)))
        object.__setattr__(self, "rest", float(no_less("rest", parameter("rest", self.rest).reshape(()), 0.0)))
        no_less("variances", self.variances, 0.0)
        size, rank = self.mean.numel(), self.variances.numel()
        if self.directions.shape != (size, rank) or not 1 <= rank <= size:
            raise ValueError(f"directions has shape {tuple(self.directions.shape)}; it wants {(size, rank)}, rank >= 1")
        off = float((self.directions.T @ self.directions - torch.eye(rank, dtype=torch.float64)).abs().max())
        if off > 1e-5:
            raise ValueError(f"directions are not orthonormal: their products are off by {off:.2g}")
        if not self.rest and not bool(self.variances.any()):
            raise ValueError("the data does not vary: all its variances are 0")

    @classmethod
    def fit(cls, data: ArrayLike, rank: int) -> "GaussianPart":
        """The Gaussian of a batch of data of shape (N, ...): its mean, its `rank` widest directions, and one variance
        for all others.

        Raises ValueError for fewer than two samples, or a rank that they do not have.
        """
        rows = parameter("data", data)
        if rows.ndim < 2 or len(rows) < 2:
            raise ValueError(f"data has shape {tuple(rows.shape)}: give two samples or more, (N, ...)")
        flat = rows.flatten(1)
        count, size = flat.shape
        # with fewer samples than entries something must be left to tell the variance in all other directions
        most = size if size < count else count - 2
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
            raise ValueError(f"rank = {rank!r}: {count} samples of {size} entries tell of 1 to {most} directions")
        mean = flat.mean(0)
        _, spread, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        variances = spread**2 / (count - 1)
        rest = float(variances[rank:].sum()) / (size - rank) if size > rank else 0.0
        return cls(mean.reshape(rows.shape[1:]), directions[:rank].T.contiguous(), variances[:rank], rest)

    @property
    def spectrum(self) -> tuple[np.ndarray, ...]:
        return np.array([self.rest]), self.variances.numpy()

    @property
    def scale(self) -> float:
        size, rank = self.directions.shape
        return float(np.sqrt((float(self.variances.sum()) + (size - rank) * self.rest) / size))

    @property
    def scales(self) -> tuple[float, float]:
        """The least and the largest s at which the law of the data bends."""
        found = np.sqrt(np.append(self.variances.numpy(), self.rest))
        found = found[found > 0] / 2
        return float(found.min()) / _SPREAD, float(found.max()) * _SPREAD

    def clock(self, alpha: Any, sigma: Any) -> Any:
        """`log((s + b) / (s + a))`, a < b the `scales`: the logarithm of s between them, and regular at both ends."""
        a, b = self.scales
        return np.log1p((b - a) * alpha / (sigma + a * alpha))

    def s(self, tau: Any) -> Any:
        a, b = self.scales
        with np.errstate(divide="ignore"):
            return (b - a) / np.expm1(tau) - a

    def split(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        if x.shape[1:] != self.mean.shape:
            raise ValueError(f"the state has shape {tuple(x.shape)}; the mean of the data {tuple(self.mean.shape)}")
        mean, directions = self._placed.like(x)
        residual = x.flatten(1) - alpha.reshape(-1, 1) * mean
        along = _each(residual, directions.T)
        return residual - _each(along, directions), along

    def join(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        across, along = parts
        mean, directions = self._placed.like(across)
        joined = across + _each(along, directions) + alpha.reshape(-1, 1) * mean
        return joined.reshape(-1, *like.shape[1:])

    @cached_property
    def _placed(self) -> Placed:
        return Placed(self._tensors)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.mean.flatten(), self.directions


def _each(rows: Tensor, matrix: Tensor) -> Tensor:
    """`matrix @ row` for every row, of shape (B, m), one at a time and from memory of its own: the product of a whole
    batch rounds differently in another batch, and that of a row where it lies.
    """
    made = [matrix @ row.clone() for row in rows]
    return torch.stack(made) if made else rows.new_empty((0, matrix.shape[0]))
