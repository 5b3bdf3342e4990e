"""Between torchdiffeq and a run: the drift it calls, the segments it integrates, how it deviates from its defaults."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import row_mean
from scorediff.backends._third_party import BudgetExhausted, RunTimes, column, working
from scorediff.coordinates import Coordinates, Field, Time
from scorediff.schedules import Schedule
from scorediff.solvers.base import Status, Step
from scorediff.spacings import Grid, Spacing

__all__ = ["Drift", "SteppedDrift", "check_even", "even_spacing", "multistep", "odeint", "segments"]

# How torchdiffeq's assertions begin that concern the step, and not the caller's code.
_GAVE_UP = ("underflow in dt", "non-finite values in state", "max_num_steps exceeded")


def odeint(drift: "Drift", y: Tensor, ends: Tensor, method: str, options: Mapping[str, Any], **tolerances: Any) -> Any:
    """torchdiffeq's states at the values `ends` of the integration variable, of shape (len(ends), B, ...)."""
    import torchdiffeq

    return torchdiffeq.odeint(drift, y, ends, method=method, options=dict(options), **tolerances)


class Drift:
    """`dy/ds` as torchdiffeq calls it: times from its `s`, evaluations within a budget, bad samples frozen.

    `frozen_at`, of shape (B,), float64: the `s` at which a sample's slope was first not finite, NaN where none was.
    From there on its slope is zero, so that it neither stops nor spoils the others; `leave` makes its state NaN.
    """

    def __init__(
        self,
        problem: Any,
        coordinates: Coordinates,
        x: Tensor,
        grid: Grid,
        *,
        budget: int | None = None,
        variable_dtype: torch.dtype | None = None,
    ) -> None:
        self.moved = Field(problem, coordinates)
        self.start = self.moved.enter(grid.start, working(x))
        self.times = RunTimes(self.moved, grid.times.tolist(), variable_dtype or self.start.dtype)
        self.frozen_at = torch.full((x.shape[0],), float("nan"), dtype=torch.float64, device=x.device)
        self.last: tuple[float, Tensor] | None = None
        self.last_step = 0.0
        self.accepted = self.rejected = 0
        self._dtype, self._budget, self._evaluations = x.dtype, budget, 0

    def __call__(self, s: Tensor, y: Tensor) -> Tensor:
        if self._evaluations == self._budget:
            raise BudgetExhausted
        self._evaluations += 1
        at = self.value(s)
        slope = self.moved.drift_at(self.times.at(at), y)
        bad = ~torch.isfinite(slope).reshape(slope.shape[0], -1).all(1)
        self.frozen_at = torch.where(bad & torch.isnan(self.frozen_at), at, self.frozen_at)
        return slope.masked_fill(column(self.frozen, slope), 0.0)

    @property
    def frozen(self) -> Tensor:
        return ~torch.isnan(self.frozen_at)

    def value(self, s: Tensor) -> float:
        """`s` as a float within the run."""
        return float(s)

    def ends(self) -> Tensor:
        """The integration variable at every node, float64, on the device of the state."""
        return torch.tensor(self.times.values, dtype=torch.float64, device=self.start.device)

    def leave(self, t: float, y: Tensor) -> Tensor:
        """The state `x` at time `t`, NaN where frozen."""
        return self.moved.leave(t, y).masked_fill(column(self.frozen, y), float("nan")).to(self._dtype)


class SteppedDrift(Drift):
    """The drift of an adaptive method, which reports its steps to it and takes its error norm from it."""

    def value(self, s: Tensor) -> float:
        # before its first step torchdiffeq tries a slope nearby, to choose that step, and may look past the end
        lo, hi = self.times.ends
        return float(s) if self.last is not None else min(max(float(s), lo), hi)

    def norm(self, v: Tensor) -> Tensor:
        """The largest RMS of a sample that is not frozen."""
        return row_mean(v.masked_fill(column(self.frozen, v), 0.0) ** 2).sqrt().max()

    def callback_step(self, s: Tensor, y: Tensor, h: Tensor) -> None:
        self.last, self.last_step = (float(s), y), float(h)

    def callback_accept_step(self, s: Tensor, y: Tensor, h: Tensor) -> None:
        self.accepted += 1

    def callback_reject_step(self, s: Tensor, y: Tensor, h: Tensor) -> None:
        self.rejected += 1


def segments(
    drift: Drift, grid: Grid, order: int | None, integrate: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[Step]:
    """What an adaptive method yields: a step per segment of the grid, by `integrate(y, ends)`."""
    y, status, s = drift.start, Status.RUNNING, drift.times.values[0]
    for end, ends in zip(grid.times[1:].tolist(), drift.ends().unfold(0, 2, 1), strict=True):
        try:
            states = integrate(y, ends)
            status = Status.STEP_UNDERFLOW if len(states) < 2 else Status.SUCCESS if end == grid.end else status
        except BudgetExhausted:
            states, status = y[None], Status.BUDGET_EXHAUSTED
        except AssertionError as error:
            if not str(error).startswith(_GAVE_UP):
                raise
            states, status = y[None], Status.STEP_UNDERFLOW
        if status in (Status.RUNNING, Status.SUCCESS):
            s, y, t = float(ends[1]), states[-1], end
            drift.last = drift.last and (s, y)
        else:
            s, y = drift.last or (s, y)
            t = drift.times.at(s)
        yield _step(drift, t, y, order, status)
        if status != Status.RUNNING:
            return


def _step(drift: Drift, t: float, y: Tensor, order: int | None, status: Status) -> Step:
    batch = y.shape[0]
    stopped = drift.frozen_at.cpu().numpy()
    frozen = ~np.isnan(stopped)
    times = np.array([drift.times.at(s) if bad else t for s, bad in zip(stopped.tolist(), frozen, strict=True)])
    return Step(
        times,
        drift.leave(t, y),
        None if order is None else np.full(batch, order),
        None,
        np.where(frozen, Status.NON_FINITE, status),
        np.full(batch, drift.accepted),
        np.full(batch, drift.rejected),
    )


def multistep(drift: Drift, grid: Grid, method: str, options: Mapping[str, Any], **tolerances: float) -> Iterator[Any]:
    """What a method with a history yields: one call on the whole grid, then its nodes."""
    states = odeint(drift, drift.start, drift.ends(), method, options, **tolerances)
    for t, y in zip(grid.times[1:].tolist(), states[1:], strict=True):
        yield t, drift.leave(t, y)


def check_even(coordinates: Coordinates, schedule: Schedule, grid: Grid) -> None:
    """Raise ValueError for a grid that is not even in the integration variable of `coordinates`."""
    coordinates.check(schedule, grid.start, grid.end)
    steps = np.diff(np.asarray(coordinates.value(schedule, grid.times)))
    if np.ptp(steps) > 1e-6 * abs(steps.mean()):
        raise ValueError(
            f"Adams methods want even steps in the integration variable of {coordinates!r}; these are "
            f"{np.abs(steps).min():.6g} to {np.abs(steps).max():.6g}: use steps= without spacing=, or the coordinates "
            "in which the grid is even"
        )


def even_spacing(coordinates: Coordinates) -> Spacing:
    """The rule for grids that are even in the integration variable of `coordinates`."""
    return _EvenSpacing(coordinates)


@dataclass(frozen=True)
class _EvenSpacing(Spacing):
    """Uniform in the integration variable itself, also where `UniformIn` takes a root of it."""

    coordinates: Coordinates = field(default_factory=Time)

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        first, last = (self.coordinates.value(schedule, t) for t in (t_start, t_end))
        return np.asarray(self.coordinates.time(schedule, np.linspace(first, last, steps + 1)))
