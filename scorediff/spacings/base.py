"""What a spacing is: the rule that makes a grid."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff._core.typed import TypedFields
from scorediff.coordinates import Coordinates
from scorediff.schedules import Schedule
from scorediff.spacings.grid import Grid

__all__ = ["Spacing", "finite_ends", "uniform_in"]


@dataclass(frozen=True)
class Spacing(TypedFields, ABC):
    """A rule that makes a grid of `steps` steps from `t_start` to `t_end`, which are hit exactly; both default to the
    schedule's.

    By name: `spacing="karras"`, `spacing="karras:rho=5"`. A spacing that has the name of coordinates (`time`,
    `log-snr`, `angle`, `ddim`) is even in them.

    Raises TypeError for a step count that is not a whole number, ValueError for one below 1, an end outside the
    schedule's domain, or an end that the rule cannot reach.

    >>> UniformTime()(VPLinear(), 4, t_start=1.0, t_end=0.2).times
    array([1. , 0.8, 0.6, 0.4, 0.2])
    """

    #: Its names, each with the options it stands for; the class name in kebab case by default.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

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
        """The times, of shape (steps + 1,); the first and last are set to the ends exactly by the caller."""


def uniform_in(coordinates: Coordinates, schedule: Schedule, t_start: float, t_end: float, u: np.ndarray) -> np.ndarray:
    """Times at the fractions `u` of the way in `s^(1 / rho)`, s the integration variable of `coordinates`.

    Raises ValueError where it is infinite at an end.
    """
    first, last = finite_ends(coordinates.value(schedule, t_start), coordinates.value(schedule, t_end), t_start, t_end)
    if coordinates.rho == 1.0:
        return np.asarray(coordinates.time(schedule, first * (1 - u) + last * u))
    root = first ** (1 / coordinates.rho) * (1 - u) + last ** (1 / coordinates.rho) * u
    return np.asarray(coordinates.time(schedule, root**coordinates.rho))


def finite_ends(first: float, last: float, t_start: float, t_end: float) -> tuple[float, float]:
    """What a spacing is even in, at both ends of a run. Raises ValueError where it is infinite."""
    if not (np.isfinite(first) and np.isfinite(last)):
        bad = t_start if not np.isfinite(first) else t_end
        raise ValueError(
            f"this spacing is infinite at t = {bad:.6g} (alpha or sigma is 0 there): start or end elsewhere, "
            "or use UniformAngle()"
        )
    return float(first), float(last)
