"""Given times."""

from dataclasses import dataclass

import numpy as np

from scorediff.schedules import Schedule
from scorediff.spacings.base import Spacing

__all__ = ["Times"]


@dataclass(frozen=True)
class Times(Spacing):
    """Given times: `inner`, the falling times between the ends, a tuple of `steps - 1` floats; by default none, for one
    step from end to end.

    Raises ValueError for another number of steps.
    """

    inner: tuple[float, ...] = ()

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        if not isinstance(self.inner, tuple) or steps != len(self.inner) + 1:
            raise ValueError(
                f"steps = {steps} wants {steps - 1} inner times between the ends, in a tuple; got {self.inner}"
            )
        return np.array([t_start, *self.inner, t_end])
