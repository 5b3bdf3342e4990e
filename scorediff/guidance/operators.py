"""Linear measurements of samples, `A x`: a mask, averages over squares of pixels, a matrix."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from scorediff._core.reprs import by_fields
from scorediff._core.states import per_sample
from scorediff._core.typed import TypedFields

__all__ = ["AveragePooling", "Mask", "Matrix", "Operator"]


class Operator(TypedFields, ABC):
    """A linear map `A` of samples of shape (B, ...) to measurements of shape (B, ...)."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """`A x`."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """`A^T y`."""

    @abstractmethod
    def solve(self, y: Tensor, signal: Any, noise: float) -> Tensor:
        """`(signal A A^T + noise)^-1 y`, of least norm where that is singular; `signal` a float or an array (B,)."""


@final
@dataclass(frozen=True, eq=False)
class Mask(Operator):
    """The entries of a sample where `known` is true, and 0 elsewhere: what inpainting is given.

    `known` is boolean, of the shape of one sample or one that broadcasts to it; it is that of the measurement, and has
    no default. Raises TypeError for another dtype.
    """

    known: Tensor

    def __repr__(self) -> str:
        return by_fields(self)

    def __post_init__(self) -> None:
        if not isinstance(self.known, Tensor) or self.known.dtype is not torch.bool:
            raise TypeError("known must be a boolean tensor, true where the sample is known (mask > 0.5, say)")

    def __call__(self, x: Tensor) -> Tensor:
        try:
            return x * self.known.to(x.device).expand(x.shape[1:])
        except RuntimeError:
            raise ValueError(
                f"a mask of shape {tuple(self.known.shape)} for samples of shape {tuple(x.shape[1:])}"
            ) from None

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, y: Tensor, signal: Any, noise: float) -> Tensor:
        # A A^T = A: the other entries of y are 0
        return self(y) * per_sample(1 / (signal + noise), y)


@final
@dataclass(frozen=True, eq=False)
class AveragePooling(Operator):
    """Averages over squares of `factor` by `factor` pixels of images (B, C, H, W): what super-resolution is given.

    `factor` is a whole number of pixels, 2 by default, the least that loses something. Raises ValueError for another
    one.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or self.factor < 1:
            raise ValueError(f"factor = {self.factor!r}: a whole number of pixels, at least 1")

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(f"squares of {self.factor} by {self.factor} pixels do not fill a batch {tuple(x.shape)}")
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return F.interpolate(y, scale_factor=self.factor, mode="nearest") / self.factor**2

    def solve(self, y: Tensor, signal: Any, noise: float) -> Tensor:
        # A A^T = 1 / factor^2
        return y * per_sample(1 / (signal / self.factor**2 + noise), y)


@final
@dataclass(frozen=True, eq=False)
class Matrix(Operator):
    """A `matrix` of shape (M, D) times the D entries of a sample of `shape`; measurements are of shape (B, M).

    Both are those of the measurement, and have no defaults. Raises TypeError for a matrix that is not of floats,
    ValueError for another number of columns.
    """

    matrix: Tensor
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return by_fields(self)

    def __post_init__(self) -> None:
        if not self.matrix.is_floating_point():
            raise TypeError(f"a matrix of {self.matrix.dtype}: give floats")
        size = torch.Size(self.shape).numel()
        if self.matrix.ndim != 2 or self.matrix.shape[1] != size:
            raise ValueError(
                f"a matrix of shape {tuple(self.matrix.shape)} for samples of shape {tuple(self.shape)}: it wants "
                f"{size} columns"
            )

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, *self.shape)

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor]:
        u, s, _ = torch.linalg.svd(self.matrix.double(), full_matrices=True)
        squares = torch.zeros(len(u), dtype=torch.float64)
        rounding = max(self.matrix.shape) * torch.finfo(self.matrix.dtype).eps * s.max()
        squares[: len(s)] = torch.where(s > rounding, s, 0.0) ** 2
        return u, squares

    def solve(self, y: Tensor, signal: Any, noise: float) -> Tensor:
        # A = U S V^T: U (signal S^2 + noise)^-1 U^T y
        u, squares = (v.to(y) for v in self._svd)
        total = squares * per_sample(signal, y) + noise
        return ((y @ u) * torch.where(total > 0, 1 / total, 0.0)) @ u.T
