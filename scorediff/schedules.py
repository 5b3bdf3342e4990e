"""Noise schedules: `x_t = alpha(t) x0 + sigma(t) eps`. Two functions and a time domain; the rest is derived from them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

__all__ = [
    "EDM",
    "VE",
    "CustomSchedule",
    "RectifiedFlow",
    "Schedule",
    "SubVP",
    "VPCosine",
    "VPDiscrete",
    "VPLinear",
]

Times = Any  # a float, or a float64 array of any shape; what comes back has the same shape


@dataclass(frozen=True)
class Schedule(ABC):
    """A noise schedule on the host, in float64: times in, floats or arrays of the same shape out.

    A concrete schedule states `alpha`, `sigma` (numpy functions of `t`, analytic, so that they may be differentiated by
    a complex step) and `domain`; time runs from data to noise, so the log-SNR falls strictly. `t_start` and `t_end`
    are where sampling starts and ends unless told otherwise. `alpha = 0` and `sigma = 0` are allowed at the ends.

    Raises ValueError at birth where the domain is empty or the log-SNR is not finite inside it or not falling.
    """

    @abstractmethod
    def alpha(self, t: Times) -> Any:
        """What multiplies the data."""

    @abstractmethod
    def sigma(self, t: Times) -> Any:
        """The standard deviation of the noise."""

    @property
    def domain(self) -> tuple[float, float]:
        """The closed interval of times on which the schedule is defined."""
        return (0.0, 1.0)

    @property
    def t_start(self) -> float:
        return self.domain[1]

    @property
    def t_end(self) -> float:
        return self.domain[0]

    def __post_init__(self) -> None:
        lo, hi = self.domain
        if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
            raise ValueError(
                f"{self!r} has the empty time domain [{lo}, {hi}]: it wants finite ends with t_min < t_max"
            )
        t = np.linspace(lo, hi, 1025)
        log_snr = self.log_snr(t)
        if not np.all(np.isfinite(log_snr[1:-1])) or np.isnan(log_snr).any():
            bad = t[1:-1][~np.isfinite(log_snr[1:-1])]
            where = bad[0] if bad.size else (lo if np.isnan(log_snr[0]) else hi)
            raise ValueError(
                f"the log-SNR of {self!r} is not finite at t = {where:.6g}: alpha and sigma must be positive inside"
            )
        rising = np.flatnonzero(~(np.diff(log_snr) < 0))
        if rising.size:
            i = rising[0]
            raise ValueError(
                f"the log-SNR of {self!r} does not fall from t = {t[i]:.6g} ({log_snr[i]:.6g}) to {t[i + 1]:.6g} "
                f"({log_snr[i + 1]:.6g}); time must run strictly from data to noise (reverse it with t -> t_max - t if it runs "
                "the other way)"
            )

    def log_snr(self, t: Times) -> Any:
        """`lambda = log(alpha / sigma)`, half the logarithm of the signal-to-noise ratio."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha(t)) - np.log(self.sigma(t))

    def time_at(self, log_snr: Times) -> Any:
        """The time at which the log-SNR is `log_snr`: the inverse of `log_snr(t)`.

        Raises ValueError for a log-SNR that the domain does not reach (by more than rounding).
        """
        lo, hi = self.domain
        least, most = float(self.log_snr(hi)), float(self.log_snr(lo))
        slack = 1e-12 * (1.0 + np.nan_to_num(np.abs([least, most]), posinf=0.0).max())
        outside = (np.asarray(log_snr) < least - slack) | (np.asarray(log_snr) > most + slack) | np.isnan(log_snr)
        if np.any(outside):
            value = np.asarray(log_snr)[outside].flat[0]
            raise ValueError(f"log-SNR {value:.6g} is outside [{least:.6g}, {most:.6g}], all that {self!r} reaches")
        t = np.clip(self._invert(np.asarray(log_snr, dtype=np.float64)), lo, hi)
        return t if t.ndim else float(t)

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # Bisection down to neighbouring floats: needs nothing but monotonicity.
        lo, hi = (np.full(log_snr.shape, end) for end in self.domain)
        while True:
            middle = lo + (hi - lo) / 2
            if np.all((hi - lo <= np.spacing(hi)) | (middle <= lo) | (middle >= hi)):
                return middle
            noisier = self.log_snr(middle) < log_snr
            lo, hi = np.where(noisier, lo, middle), np.where(noisier, middle, hi)

    def d_alpha(self, t: Times) -> Any:
        """`d alpha / dt`."""
        return _derivative(self.alpha, t)

    def d_sigma(self, t: Times) -> Any:
        """`d sigma / dt` (infinite where sigma falls to 0 like a square root)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(
                np.asarray(self.sigma(t)) > 0, _derivative(self.sigma, t), np.divide(self._d_sigma2(t), 0.0)
            )[()]

    def f(self, t: Times) -> Any:
        """Drift coefficient of the forward SDE `dx = f x dt + g dw`."""
        # f = d log alpha / dt
        with np.errstate(divide="ignore"):
            return np.divide(self.d_alpha(t), self.alpha(t))

    def g2(self, t: Times) -> Any:
        """Squared diffusion coefficient of the forward SDE."""
        # g^2 = d sigma^2 / dt - 2 f sigma^2
        return self._d_sigma2(t) - 2 * self.f(t) * self.sigma(t) ** 2

    def prior_std(self, t: Times) -> Any:
        """The standard deviation of the noise that stands for `x_t` when sampling starts at `t`: sigma(t)."""
        return self.sigma(t)

    def _d_sigma2(self, t: Times) -> Any:
        return _derivative(lambda u: self.sigma(u) ** 2, t)


def _derivative(fn: Callable[[Any], Any], t: Times) -> Any:
    # fn'(t) = Im fn(t + i h) / h, exact to rounding for analytic fn: no subtraction, so h may be tiny
    h = 1e-40
    return np.imag(fn(np.asarray(t) + 1j * h)) / h


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
    """Variance preserving, `beta(t)` linear on [0, 1] (arXiv:2011.13456)."""

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

    The domain ends at `t_max`, where alpha is still useful.
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


@dataclass(frozen=True, repr=False)
class VPDiscrete(_VariancePreserving):
    """A table of N betas made continuous: `t_i = (i + 1) / N` is step i; the default is DDPM's (arXiv:2006.11239).

    `log alpha` is the spline of degree 5 through the table (four continuous derivatives, so solvers up to order 4 keep
    their order even in time), or the monotone cubic (one continuous derivative, order 2) where a rough table makes the
    former turn back; `smoothness` says which. The domain is `[1/N, 1]`.
    """

    betas: tuple[float, ...] = field(default_factory=_ddpm_betas)

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Sequence[float]) -> "VPDiscrete":
        """The schedule whose cumulative products of `1 - beta` are the given ones, `alpha(t_i)^2`."""
        table = np.asarray(alphas_cumprod, dtype=np.float64)
        return cls(tuple((1 - table / np.concatenate([[1.0], table[:-1]])).tolist()))

    def __post_init__(self) -> None:
        betas = np.asarray(self.betas, dtype=np.float64)
        if betas.ndim != 1 or betas.size < 6:
            raise ValueError(f"VPDiscrete wants at least 6 betas in one row, got shape {betas.shape}")
        bad = np.flatnonzero(~((betas > 0) & (betas < 1)))
        if bad.size:
            raise ValueError(
                f"beta[{bad[0]}] = {betas[bad[0]]:.6g} is outside (0, 1): alpha^2 must fall strictly and stay positive "
                "(drop a last entry whose alpha^2 is 0)"
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
        spline, fine = make_interp_spline(t, table, k=5), np.linspace(t[0], t[-1], 16 * t.size)
        if np.all(spline.derivative()(fine) < 0):
            return spline, spline.derivative(), 4
        spline = PchipInterpolator(t, table)
        return spline, spline.derivative(), 1


@dataclass(frozen=True)
class SubVP(Schedule):
    """`alpha` of VPLinear with `sigma = 1 - alpha^2` (arXiv:2011.13456)."""

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


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: `alpha = 1`, `sigma = sigma_min (sigma_max / sigma_min)^t` (arXiv:2011.13456)."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def alpha(self, t: Times) -> Any:
        return np.ones_like(t, dtype=np.result_type(t, np.float64))[()]

    def sigma(self, t: Times) -> Any:
        return self.sigma_min * np.exp(t * np.log(self.sigma_max / self.sigma_min))

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        return (-log_snr - np.log(self.sigma_min)) / np.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Schedule):
    """`alpha = 1`, `sigma = t` on `[sigma_min, sigma_max]` (arXiv:2206.00364)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def domain(self) -> tuple[float, float]:
        return (self.sigma_min, self.sigma_max)

    def alpha(self, t: Times) -> Any:
        return np.ones_like(t, dtype=np.result_type(t, np.float64))[()]

    def sigma(self, t: Times) -> Any:
        return t * 1.0

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        return np.exp(-log_snr)


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """`alpha = 1 - u`, `sigma = u`, `u = shift t / (1 + (shift - 1) t)` (arXiv:2209.03003; shift: arXiv:2403.03206).

    At `t = 1` alpha is 0: sampling starts at `t = 0.999` unless told otherwise.
    """

    shift: float = 1.0

    @property
    def t_start(self) -> float:
        return 0.999

    @property
    def t_end(self) -> float:
        return 1e-3

    def alpha(self, t: Times) -> Any:
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Times) -> Any:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # t / (1 - t) = e^(-lambda) / shift
        with np.errstate(over="ignore"):
            return 1 / (1 + self.shift * np.exp(log_snr))


def _quarter_cosine(t: Times) -> Any:
    return np.cos(np.pi / 2 * t)


def _quarter_sine(t: Times) -> Any:
    return np.sin(np.pi / 2 * t)


@dataclass(frozen=True)
class CustomSchedule(Schedule):
    """Your own `alpha(t)` and `sigma(t)`, written with numpy functions or plain arithmetic, on your own domain.

    The default is the quarter circle, `cos(pi t / 2)` and `sin(pi t / 2)`.
    """

    alpha: Callable[[Any], Any] = _quarter_cosine  # type: ignore[assignment]
    sigma: Callable[[Any], Any] = _quarter_sine  # type: ignore[assignment]
    domain: tuple[float, float] = (1e-3, 0.995)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        lo, hi = self.domain
        t = np.linspace(lo, hi, 9)[1:-1]
        h = 1e-5 * (hi - lo)
        for name in ("alpha", "sigma"):
            fn = getattr(self, name)
            try:
                slope, rough = _derivative(fn, t), (fn(t + h) - fn(t - h)) / (2 * h)
            except TypeError as error:
                raise ValueError(
                    f"{name}(t) does not take a complex array ({error}): write it with numpy functions"
                ) from error
            off = np.flatnonzero(
                ~np.isclose(slope, rough, rtol=1e-4, atol=1e-4 * np.abs(rough).max() + 1e-12, equal_nan=True)
            )
            if off.size:
                raise ValueError(
                    f"{name}(t) has the derivative {slope[off[0]]:.6g} by a complex step and {rough[off[0]]:.6g} by differences at "
                    f"t = {t[off[0]]:.6g}: write it with analytic numpy functions (no abs, maximum, where, interp)"
                )
        super().__post_init__()
