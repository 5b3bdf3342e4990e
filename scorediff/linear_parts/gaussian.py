"""The Gaussian of the data's mean and covariance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff._core.arrays import ArrayLike, Placed, no_less, parameter
from scorediff._core.states import per_sample
from scorediff.linear_parts.base import IsotropicPart, LinearPart, Weights
from scorediff.linear_parts.forms import DataPart
from scorediff.linear_parts.preconditioned import Preconditioned

__all__ = ["GaussianPart"]


@dataclass(frozen=True, eq=False)
class GaussianPart(LinearPart):
    """The Gaussian of the data's mean and covariance: `directions diag(variances) directions^T`, and `rest` beside.

    `mean` of the shape of a sample; `directions` of shape (D, r), orthonormal columns; `variances` of shape (r,);
    `rest` the variance in every other direction. `fit` makes one from data; the defaults, data of one entry with mean 0
    and variance 1, are there to be replaced. A Gaussian target is then solved exactly.
    Raises TypeError or ValueError for other shapes, numbers that are not finite, or variances below 0.
    """

    mean: Any = (0.0,)
    directions: Any = ((1.0,),)
    variances: Any = (1.0,)
    rest: float = 1.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"gaussian": {}}

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
        _, singular_values, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        variances = singular_values**2 / (count - 1)
        rest = float(variances[rank:].sum()) / (size - rank) if size > rank else 0.0
        return cls(mean.reshape(rows.shape[1:]), directions[:rank].T.contiguous(), variances[:rank], rest)

    @property
    def spectrum(self) -> tuple[np.ndarray, ...]:
        return np.array([self.rest]), self.variances.numpy()

    @cached_property
    def components(self) -> tuple[IsotropicPart, ...]:
        stds = np.sqrt([self.rest, *self.variances.tolist()]).tolist()
        return tuple(Preconditioned(std) if std else DataPart() for std in stds)

    @property
    def data_std(self) -> float:
        """The root mean square deviation of an entry of the data."""
        size, rank = self.directions.shape
        return float(np.sqrt((float(self.variances.sum()) + (size - rank) * self.rest) / size))

    def error_weights(self, alpha: np.ndarray, sigma: np.ndarray, end: Weights, data_std: float) -> list[np.ndarray]:
        # on its own Gaussian x / R stays as it is, in every direction
        at_end = data_std / np.hypot(end[1], data_std * end[0])
        return [r * at_end + 0 * alpha for r in self.radius(*end)]

    def split_apart(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        across, along = self.split(x, alpha)
        return across, *along.split(1, dim=1)

    def join_apart(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        return self.join((parts[0], torch.cat(list(parts[1:]), dim=1)), alpha, like)

    def split(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        if x.shape[1:] != self.mean.shape:
            raise ValueError(f"the state has shape {tuple(x.shape)}; the mean of the data {tuple(self.mean.shape)}")
        mean, directions = self._placed.like(x)
        rows = x.flatten(1)
        residual = rows - mean * per_sample(alpha, rows)
        along = _each(residual, directions.T)
        return residual - _each(along, directions), along

    def join(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        across, along = parts
        mean, directions = self._placed.like(across)
        joined = across + _each(along, directions) + mean * per_sample(alpha, across)
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
