"""Exact changes of variables `(t, x) -> (s, y = m x)` in which a black-box solver integrates a problem.

With `x = alpha D + sigma E` every one of them turns both problems into

    dy = [(m alpha)' D + ((m sigma)' - eta^2 m sigma lambda') E] ds + eta m sigma sqrt(2 |lambda'|) dw,   ' = d/ds,

so a concrete class states its integration variable `s(t)`, its scale `m`, and those two derivatives.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff._core.arrays import positive
from scorediff._core.states import per_sample
from scorediff._core.typed import TypedFields
from scorediff.problems import Problem
from scorediff.schedules import Schedule

__all__ = [
    "Angle",
    "Coordinates",
    "DDIMCoordinates",
    "Field",
    "IntegrationVariable",
    "LogSNR",
    "LogShift",
    "RatioVariable",
    "Time",
]

#: So far, relative to its size, rounding may carry a variable beyond an end.
_ULPS = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class IntegrationVariable(TypedFields, ABC):
    """What the polynomials of a multistep method are in: `s(t)`, strictly monotone; floats or float64 arrays in and
    out.
    """

    #: Their names, each with the options it stands for; the class name in kebab case by default.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def value(self, schedule: Schedule, t: Any) -> Any:
        """`s` at time `t`."""

    @abstractmethod
    def time(self, schedule: Schedule, s: Any) -> Any:
        """`t` where the variable is `s`: the inverse."""


@dataclass(frozen=True)
class RatioVariable(IntegrationVariable):
    """A function of sigma / alpha alone, the same on every schedule."""

    @abstractmethod
    def of(self, alpha: Any, sigma: Any) -> Any:
        """The variable where the schedule is alpha and sigma."""

    @abstractmethod
    def ratio(self, s: Any) -> Any:
        """`sigma / alpha` where the variable is `s`: the inverse."""

    def value(self, schedule: Schedule, t: Any) -> Any:
        return self.of(schedule.alpha(t), schedule.sigma(t))

    def time(self, schedule: Schedule, s: Any) -> Any:
        """`t` where the variable is `s`, inside the domain of `schedule`.

        Raises ValueError for an `s` that the domain does not reach, by more than the rounding of `s` itself.
        """
        with np.errstate(divide="ignore"):
            lowest, highest = np.sort(self.value(schedule, np.array(schedule.domain)))
            # where the variable is flat in the log-SNR, a rounding of it is far more than one of the log-SNR
            inside = np.clip(s, lowest - _ULPS * abs(lowest), highest + _ULPS * abs(highest)) == s
            if not np.all(inside):
                value = np.asarray(s)[~inside].flat[0]
                raise ValueError(
                    f"{value:.9g} is outside [{lowest:.9g}, {highest:.9g}], all that {self!r} reaches on {schedule!r}"
                )
            log_snr = -np.log(np.maximum(self.ratio(np.clip(s, lowest, highest)), 0.0))
        return schedule.time_at(np.clip(log_snr, *schedule.log_snr_range))


@dataclass(frozen=True)
class Coordinates(IntegrationVariable):
    """An integration variable `s(t)`, and a scale `m(t) > 0`; floats or float64 arrays in and out."""

    #: Steps that suit these coordinates are uniform in `s^(1 / rho)`.
    rho: ClassVar[float] = 1.0

    @abstractmethod
    def scale(self, schedule: Schedule, t: Any) -> Any:
        """`m(t)` in `y = m x`."""

    @abstractmethod
    def rates(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """`d(m alpha)/ds` and `d(m sigma)/ds` at time `t`."""

    @abstractmethod
    def log_snr_rate(self, schedule: Schedule, t: Any) -> Any:
        """`d lambda / ds` at time `t`."""

    def check(self, schedule: Schedule, t_from: float, t_to: float) -> None:
        """Raise ValueError where these coordinates are infinite at an end of the run."""
        for t in (t_from, t_to):
            with np.errstate(all="ignore"):
                numbers = (self.value(schedule, t), self.scale(schedule, t), *self.rates(schedule, t))
            if not np.all(np.isfinite(numbers)):
                raise ValueError(
                    f"{self!r} coordinates are infinite at t = {t:.6g} of {schedule!r} (alpha = "
                    f"{schedule.alpha(t):.6g}, sigma = {schedule.sigma(t):.6g}): start or end elsewhere, "
                    "or use Angle(), regular at both ends"
                )


def _log_snr_slope(schedule: Schedule, t: Any) -> Any:
    # d lambda / dt = -g^2 / (2 sigma^2)
    return -schedule.g2(t) / (2 * schedule.sigma(t) ** 2)


@dataclass(frozen=True)
class Time(Coordinates):
    """`s = t`, `y = x`."""

    def value(self, schedule: Schedule, t: Any) -> Any:
        return t

    def time(self, schedule: Schedule, s: Any) -> Any:
        return s

    def scale(self, schedule: Schedule, t: Any) -> Any:
        return 1.0

    def rates(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        return schedule.d_alpha(t), schedule.d_sigma(t)

    def log_snr_rate(self, schedule: Schedule, t: Any) -> Any:
        return _log_snr_slope(schedule, t)


@dataclass(frozen=True)
class LogSNR(RatioVariable, Coordinates):
    """`s = lambda = log(alpha / sigma)`, `y = x`."""

    def of(self, alpha: Any, sigma: Any) -> Any:
        return np.log(alpha / sigma)

    def ratio(self, s: Any) -> Any:
        return np.exp(-s)

    # without a detour, which would lose digits

    def value(self, schedule: Schedule, t: Any) -> Any:
        return schedule.log_snr(t)

    def time(self, schedule: Schedule, s: Any) -> Any:
        return schedule.time_at(s)

    def scale(self, schedule: Schedule, t: Any) -> Any:
        return 1.0

    def rates(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        slope = _log_snr_slope(schedule, t)
        return schedule.d_alpha(t) / slope, schedule.d_sigma(t) / slope

    def log_snr_rate(self, schedule: Schedule, t: Any) -> Any:
        return 1.0


@dataclass(frozen=True)
class DDIMCoordinates(RatioVariable, Coordinates):
    """`s = sigma / alpha`, `y = x / alpha`, hence `dy/ds = E`: Euler here is DDIM (arXiv:2010.02502)."""

    rho: ClassVar[float] = 7.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ddim": {}}

    def of(self, alpha: Any, sigma: Any) -> Any:
        return np.divide(sigma, alpha)

    def ratio(self, s: Any) -> Any:
        return s

    def scale(self, schedule: Schedule, t: Any) -> Any:
        return np.divide(1.0, schedule.alpha(t))

    def rates(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        # m alpha = 1, m sigma = s
        return 0.0, 1.0

    def log_snr_rate(self, schedule: Schedule, t: Any) -> Any:
        return -np.divide(schedule.alpha(t), schedule.sigma(t))


@dataclass(frozen=True)
class Angle(RatioVariable, Coordinates):
    """`s = atan(sigma / (alpha c))`, `y = x / sqrt(sigma^2 + alpha^2 c^2)`, c the data's scale; regular at its ends.

    `data_std`: c, 1 as for data scaled to it. Raises ValueError unless it is positive.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        positive("data_std", self.data_std, "the standard deviation of the data")

    def of(self, alpha: Any, sigma: Any) -> Any:
        return np.arctan2(sigma, self.data_std * alpha)

    def ratio(self, s: Any) -> Any:
        return self.data_std * np.tan(s)

    def scale(self, schedule: Schedule, t: Any) -> Any:
        return 1 / np.hypot(schedule.sigma(t), self.data_std * schedule.alpha(t))

    def rates(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        # m alpha = cos(s) / c, m sigma = sin(s)
        m = self.scale(schedule, t)
        return -m * schedule.sigma(t) / self.data_std, m * self.data_std * schedule.alpha(t)

    def log_snr_rate(self, schedule: Schedule, t: Any) -> Any:
        # lambda = -log(c tan s)
        sine, cosine = schedule.sigma(t), self.data_std * schedule.alpha(t)
        return -(sine**2 + cosine**2) / (sine * cosine)


@dataclass(frozen=True)
class LogShift(RatioVariable):
    """`log((r + high) / (r + low))`, r = sigma / alpha, low < high: the logarithm of r between them, and regular at
    both ends.

    `low` and `high` are the least and the largest r at which the distribution of the data bends: the defaults suit data
    with standard deviations from 0.05 to 1.

    Raises ValueError unless 0 < low < high.
    """

    low: float = 0.0125
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < np.inf:
            raise ValueError(f"low = {self.low}, high = {self.high}: give 0 < low < high")

    def of(self, alpha: Any, sigma: Any) -> Any:
        return np.log1p((self.high - self.low) * alpha / (sigma + self.low * alpha))

    def ratio(self, s: Any) -> Any:
        with np.errstate(divide="ignore"):
            return (self.high - self.low) / np.expm1(s) - self.low


@dataclass(frozen=True)
class Field:
    """A problem seen in coordinates: what a black-box solver integrates, `dy = drift ds + diffusion dw`.

    `s` is a float, or a float64 array of shape (B,); `y` has the shape (B, ...) of the state.

    `problem`: the flow or the reverse SDE. `coordinates`: what it is seen in.
    """

    problem: Problem
    coordinates: Coordinates

    def enter(self, t: Any, x: Any) -> Any:
        """`y` from `x` at time `t`."""
        return x * per_sample(self.coordinates.scale(self.problem.schedule, t), x)

    def leave(self, t: Any, y: Any) -> Any:
        """`x` from `y` at time `t`."""
        return y * per_sample(1 / self.coordinates.scale(self.problem.schedule, t), y)

    def value(self, t: Any) -> Any:
        return self.coordinates.value(self.problem.schedule, t)

    def time(self, s: Any) -> Any:
        return self.coordinates.time(self.problem.schedule, s)

    def drift(self, s: Any, y: Any, **where: Any) -> Any:
        """`dy/ds` without the noise; one evaluation."""
        return self.drift_at(self.time(s), y, **where)

    def drift_at(self, t: Any, y: Any, **where: Any) -> Any:
        """The same at time `t`, for callers that hold `t` exactly."""
        schedule, eta = self.problem.schedule, self.problem.eta_at(t)
        data, noise = self.problem.denoiser(t, self.leave(t, y), **where)
        to_data, to_noise = self.coordinates.rates(schedule, t)
        if eta:
            # (m sigma)' - eta^2 m sigma lambda'
            to_noise = to_noise - eta**2 * self._noise_scale(t) * self.coordinates.log_snr_rate(schedule, t)
        return data * per_sample(to_data, y) + noise * per_sample(to_noise, y)

    def diffusion_at(self, t: Any) -> Any:
        """`eta m sigma sqrt(2 |lambda'|)` at time `t`."""
        rate = self.coordinates.log_snr_rate(self.problem.schedule, t)
        return self.problem.eta_at(t) * self._noise_scale(t) * np.sqrt(2 * np.abs(rate))

    def _noise_scale(self, t: Any) -> Any:
        return self.coordinates.scale(self.problem.schedule, t) * self.problem.schedule.sigma(t)
