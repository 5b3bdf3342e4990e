"""The linear part of the flow that an exponential method takes out exactly, and what is left for polynomials.

With `R_v = sqrt(sigma^2 + alpha^2 v)` and s = sigma / alpha the flow is exactly

    d(x / R_v) / ds = -P / (s^2 + v),   P = (sigma D - alpha v E) / R_v,

for any variance v, one for each direction. v = 0 leaves the data alone, v = infinity the noise, and where v is the
variance of a Gaussian in that direction, P is 0 on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff.arrays import ArrayLike, no_less, parameter

_SPREAD = 2.0  # by how much the clock's scales lie beyond those of the data

__all__ = ["DataPart", "GaussianPart", "LinearPart", "NoisePart", "Preconditioned"]


@dataclass(frozen=True)
class LinearPart(ABC):
    """`spectrum`: the variances v of the parts into which `split` takes a state, each an array of shape (1,), or of one
    number for each entry of the part.

    `scale` is the data's standard deviation, to which errors are relative; `clock_scale` the k of the clock.
    """

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

    @abstractmethod
    def rate(self, tau: Any, s: Any) -> Any:
        """`ds / dtau`."""

    def split(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        """The parts of `x` of shape (B, ...) without `alpha` times the mean, alpha a column of shape (B, 1, ...)."""
        return (x,)

    def join(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        """The state again, of the shape of `like`."""
        return parts[0]

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        """R_v of each part; of shape (B, 1) or (B, entries) for alpha, sigma of shape (B, 1)."""
        return [np.sqrt(sigma**2 + alpha**2 * v) for v in self.spectrum]

    def weight(self, tau: np.ndarray) -> list[np.ndarray]:
        """`d(x / R_v) / dtau` for P = 1; of shape (..., 1) or (..., entries) for tau of shape (..., 1)."""
        s = self.s(tau)
        return [-self.rate(tau, s) / (s**2 + v) for v in self.spectrum]

    def reads(self, alpha: np.ndarray, sigma: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """What D and E weigh in P: sigma / R_v, -alpha v / R_v."""
        return [(sigma / r, -alpha * v / r) for v, r in zip(self.spectrum, self.radius(alpha, sigma), strict=True)]

    def carried(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        """By how much an error of x / R_v counts: what becomes of it in the data, on the flow of a Gaussian."""
        return [np.sqrt(v) + 0 * alpha for v in self.spectrum]


@dataclass(frozen=True)
class _Isotropic(LinearPart):
    """`data_std` is the data's standard deviation per entry. Raises ValueError where it is not positive.

    The clock is `atan(s / k)` with half the data's scale for k: where the law of the data comes apart into its modes.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.data_std, (int, float)) and 0 < self.data_std < np.inf):
            raise ValueError(f"data_std = {self.data_std!r}: give the data's standard deviation, a positive number")

    @property
    def scale(self) -> float:
        return self.data_std

    def clock(self, alpha: Any, sigma: Any) -> Any:
        return np.arctan2(sigma, self.data_std / 2 * alpha)

    def s(self, tau: Any) -> Any:
        return self.data_std / 2 * np.tan(tau)

    def rate(self, tau: Any, s: Any) -> Any:
        # (s^2 + k^2) / k
        return (s**2 + (self.data_std / 2) ** 2) / (self.data_std / 2)


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

    def carried(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        return [self.data_std * sigma / np.sqrt(sigma**2 + alpha**2 * self.data_std**2)]


@dataclass(frozen=True)
class NoisePart(_Isotropic):
    """v = infinity: P = E, the form of DPM-Solver (arXiv:2206.00927), in x / alpha."""

    calibration: ClassVar[float] = 5.0

    spectrum: ClassVar[tuple[np.ndarray, ...]] = (np.full(1, np.inf),)

    def radius(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        return [alpha]

    def weight(self, tau: np.ndarray) -> list[np.ndarray]:
        # d(x / alpha) / ds = E
        return [self.rate(tau, self.s(tau))]

    def reads(self, alpha: np.ndarray, sigma: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.zeros_like(alpha), np.ones_like(alpha))]

    def carried(self, alpha: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
        return [self.data_std * alpha / np.sqrt(sigma**2 + alpha**2 * self.data_std**2)]


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
    _kept: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("mean", "directions", "variances"):
            object.__setattr__(self, name, parameter(name, getattr(self, name)))
        no_less("variances", self.variances, 0.0)
        no_less("rest", parameter("rest", self.rest), 0.0)
        wanted = (self.mean.numel(), self.variances.numel())
        if self.directions.shape != wanted:
            raise ValueError(f"directions has shape {tuple(self.directions.shape)}; it wants {wanted}")

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
        if not 1 <= rank <= min(count - 1, size):
            raise ValueError(f"rank = {rank}: {count} samples of {size} entries have 1 to {min(count - 1, size)}")
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

    def rate(self, tau: Any, s: Any) -> Any:
        a, b = self.scales
        return -(s + a) * (s + b) / (b - a)

    def split(self, x: Tensor, alpha: Any) -> tuple[Tensor, ...]:
        mean, directions = self._like(x)
        residual = x.flatten(1) - alpha.reshape(-1, 1) * mean
        # a sample at a time: the product of a whole batch rounds differently in another batch
        along = torch.stack([row @ directions for row in residual])
        return residual - torch.stack([directions @ row for row in along]), along

    def join(self, parts: Sequence[Tensor], alpha: Any, like: Tensor) -> Tensor:
        across, along = parts
        mean, directions = self._like(like)
        joined = across + torch.stack([directions @ row for row in along]) + alpha.reshape(-1, 1) * mean
        return joined.reshape(-1, *like.shape[1:])

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key = x.dtype, x.device
        if key not in self._kept:
            if x.shape[1:] != self.mean.shape:
                raise ValueError(f"the state has shape {tuple(x.shape)}; the mean of the data {tuple(self.mean.shape)}")
            self._kept[key] = self.mean.flatten().to(x.device, x.dtype), self.directions.to(x.device, x.dtype)
        return self._kept[key]
