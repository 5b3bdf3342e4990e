"""What every noise schedule has, derived from its two functions."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scorediff._core.typed import TypedFields

__all__ = ["Schedule", "Times", "derivative"]

Times = Any  # a float, or a float64 array of any shape; what comes back has the same shape


@dataclass(frozen=True)
class Schedule(TypedFields, ABC):
    """A noise schedule on the host, in float64: times in, floats or arrays of the same shape out.

    A concrete schedule states `alpha`, `sigma` (numpy functions of `t`, analytic, so that they may be differentiated by
    a complex step) and `domain`; time runs from data to noise, so the log-SNR falls strictly. `t_start` and `t_end`
    are where sampling starts and ends by default. `alpha = 0` and `sigma = 0` are allowed at the ends.

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
        try:
            with np.errstate(all="ignore"):
                self._check()
        except ArithmeticError as error:
            raise ValueError(f"{self!r} cannot be computed ({error}): its parameters make no schedule") from error

    def _check(self) -> None:
        lo, hi = self.domain
        if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
            raise ValueError(
                f"{self!r} has the empty time domain [{lo}, {hi}]: it wants finite ends with t_min < t_max"
            )
        t = np.linspace(lo, hi, 1025)
        for name in ("alpha", "sigma"):
            shape = np.shape(getattr(self, name)(t))
            if shape != t.shape:
                raise ValueError(
                    f"{name}(t) of {self!r} has shape {shape} for times of shape {t.shape}: use 0 * t + 1 for 1"
                )
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
                f"({log_snr[i + 1]:.6g}); time must run strictly from data to noise (reverse it with t -> t_max - t "
                "if it runs the other way)"
            )

    def log_snr(self, t: Times) -> Any:
        """`lambda = log(alpha / sigma)`, half the logarithm of the signal-to-noise ratio."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha(t)) - np.log(self.sigma(t))

    @cached_property
    def log_snr_range(self) -> tuple[float, float]:
        """The least and the largest log-SNR of the domain; infinite where alpha or sigma is 0 at an end of it."""
        lo, hi = self.domain
        return float(self.log_snr(hi)), float(self.log_snr(lo))

    def time_at(self, log_snr: Times) -> Any:
        """The time at which the log-SNR is `log_snr`: the inverse of `log_snr(t)`.

        Raises ValueError for a log-SNR that the domain does not reach (by more than rounding).
        """
        least, most = self.log_snr_range
        slack = 1e-12 * (1.0 + np.nan_to_num(np.abs([least, most]), posinf=0.0).max())
        outside = (np.asarray(log_snr) < least - slack) | (np.asarray(log_snr) > most + slack) | np.isnan(log_snr)
        if np.any(outside):
            value = np.asarray(log_snr)[outside].flat[0]
            raise ValueError(f"log-SNR {value:.6g} is outside [{least:.6g}, {most:.6g}], all that {self!r} reaches")
        # in one piece: numpy's exp rounds otherwise where an array has gaps
        t = np.clip(self._invert(np.asarray(log_snr, dtype=np.float64, order="C")), *self.domain)
        return t if t.ndim else float(t)

    def _invert(self, log_snr: np.ndarray) -> np.ndarray:
        # Bisection down to neighbouring floats: needs nothing but monotonicity. What has come to its end stays there
        # for as long as the others go on.
        lo, hi = (np.full(log_snr.shape, end) for end in self.domain)
        while True:
            middle = lo + (hi - lo) / 2
            if np.all((middle <= lo) | (middle >= hi)):
                return middle
            noisier = self.log_snr(middle) < log_snr
            lo, hi = np.where(noisier, lo, middle), np.where(noisier, middle, hi)

    def d_alpha(self, t: Times) -> Any:
        """`d alpha / dt`."""
        return derivative(self.alpha, t)

    def d_sigma(self, t: Times) -> Any:
        """`d sigma / dt` (infinite where sigma falls to 0 like a square root)."""
        # where sigma is 0 and its square is not flat, its slope is infinite
        steep = (np.asarray(self.sigma(t)) == 0) & (np.abs(self._d_sigma2(t)) > 1e-30)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(steep, np.inf, derivative(self.sigma, t))[()]

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
        return derivative(lambda u: self.sigma(u) ** 2, t)


def derivative(fn: Callable[[Any], Any], t: Times) -> Any:
    # fn'(t) = Im fn(t + i h) / h, exact to rounding for analytic fn: no subtraction, so h may be tiny
    h = 1e-40
    return np.imag(fn(np.asarray(t) + 1j * h)) / h
