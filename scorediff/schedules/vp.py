"""Schedules whose noise has at most unit variance: VP and sub-VP."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from scorediff._core.arrays import real
from scorediff.schedules.base import Schedule, Times

__all__ = ["SubVP", "VPCosine", "VPDiscrete", "VPLinear"]


@dataclass(frozen=True)
class _VariancePreserving(Schedule):
    """`sigma^2 = 1 - alpha^2`, kept to full digits by working with `log alpha`."""

    @abstractmethod
    def log_alpha(self, t: Times) -> Any:
        """`log alpha(t)`, negative and falling."""

    def alpha(self, t: Times) -> Any:
        return np.exp(self.log_alpha(t))

    def sigma(self, t: Times) -> Any:
        # sigma^2 = 1 - alpha^2
        return np.sqrt(-np.expm1(2 * self.log_alpha(t)))

    @property
    def t_end(self) -> float:
        return 1e-3


def _linear_log_alpha(t: Times, beta_min: float, beta_max: float) -> Any:
    # log alpha = -t^2 (b1 - b0) / 4 - t b0 / 2
    return -t * (t * (beta_max - beta_min) / 4 + beta_min / 2)


def _linear_time(log_alpha: np.ndarray, beta_min: float, beta_max: float) -> np.ndarray:
    # t = -4 log alpha / (b0 + sqrt(b0^2 - 4 (b1 - b0) log alpha))
    return -4 * log_alpha / (beta_min + np.sqrt(beta_min**2 - 4 * (beta_max - beta_min) * log_alpha))


@dataclass(frozen=True)
class VPLinear(_VariancePreserving):
    """Variance preserving, `beta(t)` linear on [0, 1] (arXiv:2011.13456).

    `beta_min` and `beta_max` are its ends, rates in 1 / time; the defaults are the paper's, DDPM's table with 1000
    steps made continuous.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_alpha(self, t: Times) -> Any:
        return _linear_log_alpha(t, self.beta_min, self.beta_max)

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # log alpha = -log(1 + e^(-2 lambda)) / 2
        return _linear_time(-np.logaddexp(0.0, -2 * log_snr) / 2, self.beta_min, self.beta_max)


@dataclass(frozen=True)
class VPCosine(Schedule):
    """`alpha = cos((t + offset) k) / cos(offset k)`, `k = pi / 2 / (1 + offset)` (arXiv:2102.09672).

    `offset`, in time, keeps the noise of the first steps from being tiny; the default is the paper's. The domain ends
    at `t_max`, by default where alpha is still useful: at 1 it is 0.
    """

    offset: float = 0.008
    t_max: float = 0.9946

    @property
    def domain(self) -> tuple[float, float]:
        return (0.0, self.t_max)

    @property
    def t_end(self) -> float:
        return 1e-3

    @property
    def _k(self) -> float:
        return np.pi / 2 / (1 + self.offset)

    def alpha(self, t: Times) -> Any:
        return np.cos((t + self.offset) * self._k) / np.cos(self.offset * self._k)

    def sigma(self, t: Times) -> Any:
        # sigma^2 = sin(d) sin(2 B + d) / cos(B)^2, d = k t, B = k offset: 1 - alpha^2 without the subtraction
        d, B = self._k * t, self._k * self.offset
        return np.sqrt(np.sin(d) * np.sin(2 * B + d)) / np.cos(B)

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # tan(B + d) = sqrt(e^(-2 lambda) + sin(B)^2) / cos(B); then d by the tangent of a difference
        B = self._k * self.offset
        s2 = np.exp(-2 * log_snr)
        root = np.sqrt(s2 + np.sin(B) ** 2)
        rise = s2 / ((root + np.sin(B)) * np.cos(B))
        return np.arctan(rise / (1 + root / np.cos(B) * np.tan(B))) / self._k


def _ddpm_betas() -> tuple[float, ...]:
    return tuple(np.linspace(1e-4, 0.02, 1000).tolist())


#: What to do about a beta, by whether it is the first one, and its value.
_HINTS = {
    (True, 0.0): " (drop a first entry whose alpha^2 is 1: step 0 has noise)",
    (False, 1.0): " (drop a last entry whose alpha^2 is 0)",
}


@dataclass(frozen=True, repr=False)
class VPDiscrete(_VariancePreserving):
    """A table of N `betas` made continuous: `t_i = (i + 1) / N` is step i; the default is DDPM's (arXiv:2006.11239).

    `log alpha` is the spline of degree 5 through the table (four continuous derivatives, so solvers up to order 4 keep
    their order even in time), or the monotone cubic (one continuous derivative, order 2) where a rough table makes the
    former turn back, or has fewer than 6 rows; `smoothness` says which. The domain is `[1/N, 1]`.
    """

    betas: tuple[float, ...] = field(default_factory=_ddpm_betas)

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Sequence[float]) -> "VPDiscrete":
        """The schedule whose cumulative products of `1 - beta` are the given ones, `alpha(t_i)^2`."""
        table = real("alphas_cumprod", alphas_cumprod).numpy()
        return cls(tuple((1 - table / np.concatenate([[1.0], table[:-1]])).tolist()))

    def __post_init__(self) -> None:
        betas = real("betas", self.betas).numpy()
        if betas.ndim != 1 or betas.size < 2:
            raise ValueError(f"VPDiscrete wants at least 2 betas in one row, got shape {betas.shape}")
        bad = np.flatnonzero(~((betas > 0) & (betas < 1)))
        if bad.size:
            hint = _HINTS.get((int(bad[0]) == 0, float(betas[bad[0]])), "")
            raise ValueError(
                f"beta[{bad[0]}] = {betas[bad[0]]:.6g} is outside (0, 1): alpha^2 must fall strictly and stay positive"
                f"{hint}"
            )
        object.__setattr__(self, "betas", tuple(betas.tolist()))
        super().__post_init__()

    def __repr__(self) -> str:
        return f"VPDiscrete({len(self.betas)} betas, {self.betas[0]:.4g} .. {self.betas[-1]:.4g})"

    @property
    def domain(self) -> tuple[float, float]:
        return (1 / len(self.betas), 1.0)

    @property
    def t_end(self) -> float:
        return self.domain[0]

    @property
    def smoothness(self) -> int:
        """How many derivatives of `alpha` are continuous."""
        return self._splines[2]

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # log alpha = -log(1 + e^(-2 lambda)) / 2
        return self.time_of(-np.logaddexp(0.0, -2 * log_snr) / 2)

    def time_of(self, log_alpha: np.ndarray) -> np.ndarray:
        """The times at which `log alpha` has these values: the inverse of `log_alpha(t)`, kept on the table."""
        # Newton's method, from the table and kept between its rows
        value, slope, _ = self._splines
        rows = np.arange(1, len(self.betas) + 1) / len(self.betas)
        table = value(rows)
        left = np.clip(np.searchsorted(-table, -log_alpha) - 1, 0, rows.size - 2)
        t = np.interp(-log_alpha, -table, rows)
        moving = np.ones(np.shape(t), dtype=bool)
        for _ in range(8):
            step = (value(t) - log_alpha) / slope(t)
            # what has converged stays as it is, whatever the others do: a time never depends on its neighbours
            t = np.where(moving, np.clip(t - step, rows[left], rows[left + 1]), t)
            moving &= np.abs(step) > np.spacing(t)
            if not moving.any():
                break
        return t

    def index(self, t: Times) -> Any:
        """The (fractional) row of the table at `t`: the time map of a network trained on integer steps 0 .. N - 1."""
        return t * len(self.betas) - 1

    def log_alpha(self, t: Times) -> Any:
        value, slope, _ = self._splines
        # a spline is real: its Taylor line carries the complex step
        return value(np.real(t)) + 1j * np.imag(t) * slope(np.real(t)) if np.iscomplexobj(t) else value(t)[()]

    @cached_property
    def _splines(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any], int]:
        from scipy.interpolate import PchipInterpolator, make_interp_spline

        t = np.arange(1, len(self.betas) + 1) / len(self.betas)
        table = np.cumsum(np.log1p(-np.asarray(self.betas))) / 2
        if t.size > 5:  # as many as a polynomial of degree 5 wants
            spline, fine = make_interp_spline(t, table, k=5), np.linspace(t[0], t[-1], 16 * t.size)
            if np.all(spline.derivative()(fine) < 0):
                return spline, spline.derivative(), 4
        spline = PchipInterpolator(t, table)
        return spline, spline.derivative(), 1


@dataclass(frozen=True)
class SubVP(Schedule):
    """`alpha` of VPLinear with `sigma = 1 - alpha^2` (arXiv:2011.13456).

    `beta_min` and `beta_max` are those of `VPLinear`, by default the paper's.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    @property
    def t_end(self) -> float:
        return 1e-2

    def alpha(self, t: Times) -> Any:
        return np.exp(_linear_log_alpha(t, self.beta_min, self.beta_max))

    def sigma(self, t: Times) -> Any:
        # sigma = 1 - alpha^2
        return -np.expm1(2 * _linear_log_alpha(t, self.beta_min, self.beta_max))

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # alpha = 2 / (s + sqrt(s^2 + 4)) with s = e^(-lambda), so log alpha = -asinh(s / 2)
        return _linear_time(-np.arcsinh(np.exp(-log_snr) / 2), self.beta_min, self.beta_max)
