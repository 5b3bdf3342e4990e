"""The linear part of the flow that an exponential method takes out exactly, and what is left for polynomials.

With `R_v = sqrt(sigma^2 + alpha^2 v)` and s = sigma / alpha the flow is exactly

    d(x / R_v) / ds = -P / (s^2 + v),   P = (sigma D - alpha v E) / R_v,

for any variance v, one for each direction. v = 0 leaves the data alone, v = infinity the noise, and where v is the
variance of a Gaussian in that direction, P is 0 on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff.arrays import ArrayLike, Placed, no_less, parameter
from scorediff.solvers.adaptive.controller import check_scale

_SPREAD = 2.0  # by how much the clock's scales lie beyond those of the data

__all__ = ["DataPart", "GaussianPart", "LinearPart", "NoisePart", "Preconditioned"]


@dataclass(frozen=True)
class LinearPart(ABC):
    """`spectrum`: the variances v of the parts into which `split` takes a state, each an array of shape (1,), or of one
    number for each entry of the part.

    `scale` is the data's standard deviation, to which errors are relative.
    """

    #: Does its clock, and what it integrates, stay finite where alpha is 0?
    from_pure_noise: ClassVar[bool] = True
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float]

    @property
    @abstractmethod
    def scale(self) -> float:
        """The root mean square deviation of an entry of the data."""

    @property
    @abstractmethod
    def spectrum(self) -> tuple[np.ndarray, ...]:
        """The v of each part."""

    @abstractmethod
    def clock(self, alpha: Any, sigma: Any) -> Any:
        """What the polynomials are in: regular where s is 0 or infinite, so that D and E are smooth in it."""

    @abstractmethod
    def s(self, tau: Any) -> Any:
        """The inverse of `clock`: sigma / alpha."""

    def split(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        """The parts of `x` of shape (B, ...) without `alpha` times the mean, alpha a column of shape (B, 1, ...)."""
        return (x,)

    def join(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        """The state again, of the shape of `like`."""
        return parts[0]

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        """R_v of each part; of shape (B, 1) or (B, entries) for alpha, sigma of shape (B, 1)."""
        return [np.sqrt(sigma**2 + alpha**2 * v) for v in self.spectrum]

    def slope(self, s: np.ndarray) -> list[np.ndarray]:
        """`d(x / R_v) / ds` for P = 1; of shape (..., 1) or (..., entries) for s of shape (..., 1)."""
        return [-1 / (s**2 + v) for v in self.spectrum]

    def reads(self, alpha: np.ndarray, sigma: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """What D and E weigh in P: sigma / R_v, -alpha v / R_v."""
        return [(sigma / r, -alpha * v / r) for v, r in zip(self.spectrum, self.radius(alpha, sigma), strict=True)]

    def carried(self, alpha: np.ndarray, sigma: np.ndarray, end: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """By how much an error of x / R_v counts: what becomes of it at the `end` of the run, alpha and sigma there, on
        the flow of a Gaussian, times `scale / R` for the data as a whole: as large as it is in the data.
        """
        # x / R_v stays as it is
        at_end = self.scale / np.hypot(end[1], self.scale * end[0])
        return [r * at_end + 0 * alpha for r in self.radius(*end)]


@dataclass(frozen=True)
class _Isotropic(LinearPart):
    """`data_std` is the data's standard deviation per entry. Raises ValueError where it is not positive.

    The clock is `atan(s / k)` with half the data's scale for k: where the law of the data comes apart into its modes.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self)

    @property
    def scale(self) -> float:
        return self.data_std

    def carried(self, alpha: np.ndarray, sigma: np.ndarray, end: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        # x / R with the data's own R stays as it is
        return [self.scale * r / np.hypot(sigma, self.scale * alpha) for r in self.radius(alpha, sigma)]

    def clock(self, alpha: Any, sigma: Any) -> Any:
        return np.arctan2(sigma, self.data_std / 2 * alpha)

    def s(self, tau: Any) -> Any:
        return self.data_std / 2 * np.tan(tau)


@dataclass(frozen=True)
class Preconditioned(_Isotropic):
    """v = data_std^2: P is what EDM's preconditioned network predicts (arXiv:2206.00364), up to a constant."""

    calibration: ClassVar[float] = 6.0

    @property
    def spectrum(self) -> tuple[np.ndarray, ...]:
        return (np.array([self.data_std**2]),)


@dataclass(frozen=True)
class DataPart(_Isotropic):
    """v = 0: P = D, the form of DPM-Solver++ (arXiv:2211.01095)."""

    calibration: ClassVar[float] = 14.0

    spectrum: ClassVar[tuple[np.ndarray, ...]] = (np.zeros(1),)


@dataclass(frozen=True)
class NoisePart(_Isotropic):
    """v = infinity: P = E, the form of DPM-Solver (arXiv:2206.00927), in x / alpha."""

    calibration: ClassVar[float] = 5.0
    from_pure_noise: ClassVar[bool] = False

    spectrum: ClassVar[tuple[np.ndarray, ...]] = (np.full(1, np.inf),)

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        return [alpha]

    def slope(self, s: np.ndarray) -> list[np.ndarray]:
        # d(x / alpha) / ds = E
        return [np.ones_like(s)]

    def reads(self, alpha: np.ndarray, sigma: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.zeros_like(alpha), np.ones_like(alpha))]


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
