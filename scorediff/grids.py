"""Times to step through: `Grid` is the array, a `Spacing` the rule that makes one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from scorediff.coordinates import Angle, Coordinates, LogSNR, Time
from scorediff.schedules import Schedule

__all__ = [
    "Beta",
    "Exponential",
    "FlowTime",
    "Grid",
    "Karras",
    "Quadratic",
    "Spacing",
    "Subsequence",
    "Times",
    "UniformAngle",
    "UniformIn",
    "UniformLogSNR",
    "UniformTime",
]


class Grid:
    """An immutable, strictly monotone float64 array of times, of shape (steps + 1,); falling times sample, rising
    encode.

    Raises ValueError for fewer than two times, a time that is not finite, a repeat or a turn.

    >>> list(Grid([1.0, 0.5, 0.25]).pairs())
    [(1.0, 0.5), (0.5, 0.25)]
    """

    __slots__ = ("times",)

    times: np.ndarray

    def __init__(self, times: Any) -> None:
        array = np.array(times, dtype=np.float64)
        if array.ndim != 1 or array.size < 2:
            raise ValueError(f"a grid wants at least two times in one row, got shape {array.shape}")
        if not np.all(np.isfinite(array)):
            i = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"grid time {i} is {array[i]}: times must be finite")
        steps = np.diff(array)
        wrong = np.flatnonzero(steps * np.sign(array[-1] - array[0]) <= 0)
        if wrong.size:
            i = int(wrong[0])
            kind = "repeats" if steps[i] == 0 else "turns"
            raise ValueError(
                f"the grid {kind} at times {i} and {i + 1} ({float(array[i])!r}, {float(array[i + 1])!r}): "
                "it must be strictly monotone"
            )
        array.flags.writeable = False
        object.__setattr__(self, "times", array)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Grid is immutable: make a new one instead of setting {name!r}")

    def __len__(self) -> int:
        return self.times.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and np.array_equal(self.times, other.times)

    def __hash__(self) -> int:
        return hash(self.times.tobytes())

    def __reduce__(self) -> tuple[type["Grid"], tuple[np.ndarray]]:
        return Grid, (self.times,)

    def __repr__(self) -> str:
        return f"Grid({self.steps} steps, t = {self.start:.6g} .. {self.end:.6g})"

    @property
    def steps(self) -> int:
        return self.times.size - 1

    @property
    def start(self) -> float:
        return float(self.times[0])

    @property
    def end(self) -> float:
        return float(self.times[-1])

    def pairs(self) -> Iterator[tuple[float, float]]:
        """The steps `(from, to)` as floats."""
        times = self.times.tolist()
        return pairwise(times)

    def reversed(self) -> "Grid":
        """The same times in the other direction."""
        return Grid(self.times[::-1])


@dataclass(frozen=True)
class Spacing(ABC):
    """A rule that makes a grid of `steps` steps from `t_start` to `t_end`, which are hit exactly.

    Raises ValueError for a step count below 1, an end outside the schedule's domain, or an end that the rule cannot
    reach.

    >>> UniformTime()(VPLinear(), 4, t_start=1.0, t_end=0.2).times
    array([1. , 0.8, 0.6, 0.4, 0.2])
    """

    def __call__(
        self, schedule: Schedule, steps: int, *, t_start: float | None = None, t_end: float | None = None
    ) -> Grid:
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
            raise TypeError(f"steps must be a whole number, got {steps!r}")
        if steps < 1:
            raise ValueError(f"steps = {steps}: at least 1 is needed")
        t_start = schedule.t_start if t_start is None else float(t_start)
        t_end = schedule.t_end if t_end is None else float(t_end)
        lo, hi = schedule.domain
        if not lo <= t_end < t_start <= hi:
            raise ValueError(
                f"a run from t_start = {t_start:.6g} to t_end = {t_end:.6g} wants "
                f"{lo:.6g} <= t_end < t_start <= {hi:.6g}"
            )
        try:
            with np.errstate(all="ignore"):
                times = np.array(self.times(schedule, t_start, t_end, int(steps)), dtype=np.float64)
            times[0], times[-1] = t_start, t_end
            return Grid(times)
        except (ValueError, ArithmeticError) as error:
            raise ValueError(f"{self!r} makes no grid of {steps} steps: {error}") from error

    @abstractmethod
    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        """The `steps + 1` times; the first and last are set to the ends exactly by the caller."""


def _uniform_in(
    coordinates: Coordinates, schedule: Schedule, t_start: float, t_end: float, u: np.ndarray
) -> np.ndarray:
    """Times at the fractions `u` of the way in `s^(1 / rho)`, s the clock of `coordinates`."""
    first, last = _finite_ends(coordinates.clock(schedule, t_start), coordinates.clock(schedule, t_end), t_start, t_end)
    if coordinates.rho == 1.0:
        return np.asarray(coordinates.time(schedule, first * (1 - u) + last * u))
    root = first ** (1 / coordinates.rho) * (1 - u) + last ** (1 / coordinates.rho) * u
    return np.asarray(coordinates.time(schedule, root**coordinates.rho))


def _finite_ends(first: float, last: float, t_start: float, t_end: float) -> tuple[float, float]:
    if not (np.isfinite(first) and np.isfinite(last)):
        bad = t_start if not np.isfinite(first) else t_end
        raise ValueError(
            f"this spacing is infinite at t = {bad:.6g} (alpha or sigma is 0 there): start or end elsewhere, "
            "or use UniformAngle()"
        )
    return float(first), float(last)


@dataclass(frozen=True)
class UniformIn(Spacing):
    """Uniform in the clock of any coordinates (in its root of their degree `rho`)."""

    coordinates: Coordinates = field(default_factory=Time)

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return _uniform_in(self.coordinates, schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformTime(Spacing):
    """Uniform in t."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return _uniform_in(Time(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformLogSNR(Spacing):
    """Uniform in the log-SNR (arXiv:2206.00927)."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return _uniform_in(LogSNR(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class UniformAngle(Spacing):
    """Uniform in `atan(sigma / (alpha c))`, `c` the data's scale; reaches alpha = 0 and sigma = 0."""

    data_std: float = 1.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return _uniform_in(Angle(self.data_std), schedule, t_start, t_end, np.linspace(0, 1, steps + 1))


@dataclass(frozen=True)
class Quadratic(Spacing):
    """Uniform in sqrt(t), denser near the data (arXiv:2010.02502)."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        u = np.linspace(0, 1, steps + 1)
        return (np.sqrt(t_start) * (1 - u) + np.sqrt(t_end) * u) ** 2


@dataclass(frozen=True)
class Karras(Spacing):
    """Uniform in `(sigma / alpha)^(1 / rho)` (arXiv:2206.00364)."""

    rho: float = 7.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        first, last = _finite_ends(-schedule.log_snr(t_start), -schedule.log_snr(t_end), t_start, t_end)
        u = np.linspace(0, 1, steps + 1)
        root = np.exp(first / self.rho) * (1 - u) + np.exp(last / self.rho) * u
        return schedule.time_at(-self.rho * np.log(root))


@dataclass(frozen=True)
class Exponential(Spacing):
    """`log(sigma / alpha)` falls like `1 - u^rho`, u uniform: rho = 1 is uniform in the log-SNR, rho > 1 is denser near
    the noise.
    """

    rho: float = 1.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        return _uniform_in(LogSNR(), schedule, t_start, t_end, np.linspace(0, 1, steps + 1) ** self.rho)


@dataclass(frozen=True)
class Beta(Spacing):
    """Quantiles of the Beta(a, b) law in time, denser at both ends for a, b < 1 (arXiv:2407.12173)."""

    a: float = 0.6
    b: float = 0.6

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        from scipy.stats import beta

        u = beta.ppf(np.linspace(0, 1, steps + 1), self.a, self.b)
        return _uniform_in(Time(), schedule, t_start, t_end, u)


@dataclass(frozen=True)
class FlowTime(Spacing):
    """Uniform in `s / (1 + s)`, `s = sigma / alpha`: the time of rectified flow."""

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        # s / (1 + s) = 1 / (1 + e^lambda)
        first, last = (1 / (1 + np.exp(schedule.log_snr(t))) for t in (t_start, t_end))
        u = np.linspace(0, 1, steps + 1)
        flow_time = first * (1 - u) + last * u
        with np.errstate(divide="ignore"):
            return schedule.time_at(np.log1p(-flow_time) - np.log(flow_time))


@dataclass(frozen=True)
class Times(Spacing):
    """Your own times, between the ends; without any, only the ends."""

    inner: tuple[float, ...] = ()

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        if not isinstance(self.inner, tuple) or steps != len(self.inner) + 1:
            raise ValueError(
                f"steps = {steps} wants {steps - 1} inner times between the ends, in a tuple; got {self.inner}"
            )
        return np.array([t_start, *self.inner, t_end])


@dataclass(frozen=True)
class Subsequence(Spacing):
    """Whole steps of a model with `n` discrete steps, `t_i = t_max (i + 1) / n`: rows of the table, each at most once.

    Rows are uniform in `i^(1 / power)`: power 1 is DDIM's uniform and 2 its quadratic subsequence (arXiv:2010.02502).
    Raises ValueError for more steps than there are rows between the ends.
    """

    n: int = 1000
    power: float = 1.0

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        per_row = schedule.domain[1] / self.n
        first, last = int(np.ceil(t_start / per_row - 1 - 1e-9)), int(np.floor(t_end / per_row - 1 + 1e-9))
        if first - last < steps:
            raise ValueError(f"{steps} steps from row {first} to row {last} of {self.n}: at most {first - last} fit")
        u = np.linspace(0, 1, steps + 1)
        root = max(first, 0) ** (1 / self.power) * (1 - u) + max(last, 0) ** (1 / self.power) * u
        rows = np.rint(root**self.power).astype(int)
        # rows of a power grid may coincide after rounding: push them apart, from one end and then from the other
        for k in range(steps - 1, -1, -1):
            rows[k] = max(rows[k], rows[k + 1] + 1)
        rows[0] = min(rows[0], first)
        for k in range(1, steps + 1):
            rows[k] = min(rows[k], rows[k - 1] - 1)
        return (rows + 1) * per_row
