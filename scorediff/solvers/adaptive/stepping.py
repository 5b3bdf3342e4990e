"""Where every sample of an adaptive run is: its time, step, leg, error and fate, on the host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import row_mean_on_host
from scorediff.schedules import Schedule
from scorediff.solvers.adaptive.controller import TINY, Controller
from scorediff.solvers.base import Status, Step
from scorediff.spacings import Grid

#: How `Solution.error` comes about.
SUM_OF_STEPS = (
    "the errors of the steps, each as large as a Gaussian's flow makes it at the end, added up and calibrated"
)

__all__ = ["SUM_OF_STEPS", "Legs", "Proposal", "Walk", "put", "restore", "rms", "take", "worth"]


def worth(schedule: Schedule, t: Any, data_std: float = 1.0) -> Any:
    """By how much an error of the state at time `t` counts: what becomes of it in the data, on the flow of an isotropic
    Gaussian.
    """
    return data_std / np.hypot(schedule.sigma(t), data_std * schedule.alpha(t))


@dataclass(frozen=True)
class Legs:
    """The parts of a run, each stepped through to its end exactly.

    `ends` are the times where legs end; `near` and `far` where the network is asked there by the leg that ends and by
    the one that begins: a unit in the last place to either side of a time where the denoiser jumps (its
    `discontinuities`).
    """

    start: float
    ends: np.ndarray
    near: np.ndarray
    far: np.ndarray

    @classmethod
    def of(cls, denoiser: Any, grid: Grid, stops: bool = True) -> "Legs":
        """Legs between the breaks of a denoiser, and with `stops` between the nodes of the grid too."""
        lo, hi = sorted((grid.start, grid.end))
        # a break within rounding of another, or of an end, is none
        breaks, least = np.empty(0), 1e-12 * (hi - lo)
        for t in sorted(float(t) for t in denoiser.discontinuities):
            if t - (breaks[-1] if breaks.size else lo) > least and hi - t > least:
                breaks = np.append(breaks, t)
        ends = np.unique(np.concatenate([breaks, grid.times[1:] if stops else grid.times[-1:]]))
        ends = ends if grid.end > grid.start else ends[::-1]
        jumps = np.isin(ends, breaks)
        near, far = (np.where(jumps, np.nextafter(ends, side), ends) for side in (grid.start, grid.end))
        return cls(grid.start, ends, near, far)

    @cached_property
    def jumps(self) -> np.ndarray:
        """Which ends are breaks."""
        return self.near != self.far

    def bounds(self, leg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest time at which the network may be asked in each of some legs."""
        lowest, highest = self._bounds
        return lowest[leg], highest[leg]

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        begin = np.concatenate([[self.start], self.far[:-1]])
        return np.minimum(begin, self.near), np.maximum(begin, self.near)


@dataclass(frozen=True)
class Proposal:
    """Steps to try: of the samples `rows`, by `h` to the reading `s` of the clock at the time `t`; `lands`: on an end?

    `ask` is the time to ask the network at, which differs from `t` on a break.
    """

    rows: np.ndarray
    h: np.ndarray
    s: np.ndarray
    t: np.ndarray
    ask: np.ndarray
    lands: np.ndarray


@dataclass
class Walk:
    """Arrays of shape (B,), the local state of one run; `clock` and `time` are the solver's clock and its inverse."""

    legs: Legs
    clock: Callable[[Any], Any]
    clock_time: Callable[[Any], Any]
    controller: Controller
    t: np.ndarray
    s: np.ndarray = field(init=False)
    h: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        size = self.t.shape
        self.s = np.asarray(self.clock(self.t)) + np.zeros(size)
        self.goals = np.asarray(self.clock(self.legs.ends))
        self.h, self.error, self.before = np.zeros(size), np.zeros(size), np.ones(size)
        zeros = (np.zeros(size, dtype=np.int64) for _ in range(6))
        self.leg, self.accepted, self.rejected, self.evaluations, self.order, self.since = zeros
        self.after, self.status = np.zeros(size, dtype=bool), np.full(size, int(Status.RUNNING))

    @classmethod
    def at_start(
        cls, legs: Legs, clock: Callable[[Any], Any], time: Callable[[Any], Any], controller: Controller, batch: int
    ) -> "Walk":
        return cls(legs, clock, time, controller, np.full(batch, legs.start))

    def running(self, cost: Any, max_evaluations: int) -> np.ndarray:
        """The samples that go on, once those are stopped that a step would take beyond their budget, or whose step
        is too short for their clock. `cost` of a step: a number, or one for each sample of the batch.
        """
        on = np.flatnonzero(self.status == Status.RUNNING)
        over = self.evaluations + cost > max_evaluations
        self.status[on[over[on]]] = Status.BUDGET_EXHAUSTED
        short = np.abs(self.h[on]) < 16 * np.spacing(np.abs(self.s[on]))
        self.status[on[short & (self.status[on] == Status.RUNNING)]] = Status.STEP_UNDERFLOW
        return on[self.status[on] == Status.RUNNING]

    def time(self, rows: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Times at clock readings, kept inside the leg of each sample where rounding would leave it."""
        return np.clip(self.clock_time(s), *self.legs.bounds(self.leg[rows]))

    def asked(self, rows: np.ndarray) -> np.ndarray:
        """The times at which a leg asks the network where some samples are: beyond a break that they stand on."""
        return np.clip(self.t[rows], *self.legs.bounds(self.leg[rows]))

    def goal(self, rows: np.ndarray) -> np.ndarray:
        """Clock readings at the ends of the legs."""
        return np.asarray(self.goals[self.leg[rows]])

    def propose(self, rows: np.ndarray, halve: float = 0.5) -> Proposal:
        """Steps cut so as to land on the next end exactly; one that would go beyond the share `halve` of what is left
        takes half of it."""
        goal = self.goal(rows)
        left, h = goal - self.s[rows], self.h[rows]
        lands = np.abs(h) * 1.01 >= np.abs(left)
        h = np.where(lands, left, np.where(np.abs(h) > halve * np.abs(left), left / 2, h))
        leg = self.leg[rows]
        t = np.where(lands, self.legs.ends[leg], self.time(rows, self.s[rows] + h))
        s = np.where(lands, goal, self.s[rows] + h)
        return Proposal(rows, h, s, t, np.where(lands, self.legs.near[leg], t), lands)

    def judge(
        self, step: Proposal, error: np.ndarray, factor: np.ndarray, local: np.ndarray, evaluations: int
    ) -> np.ndarray:
        """Accept or reject each step by its `error` in units of the tolerance; returns which passed.

        The next step is `factor` times this one, within the controller's limits. `local` errors of steps that pass add
        up to the sample's error.
        """
        rows, good = step.rows, error <= 1
        self.evaluations[rows] += evaluations
        self.status[rows[~np.isfinite(error)]] = Status.NON_FINITE
        factor = self.controller.within(factor, good, self.after[rows], self.since[rows])
        longer = step.h * factor
        # a step cut short to land says nothing against the step it was cut from
        uncut = self.h[rows]
        longer = np.where(good & (np.abs(step.h) < np.abs(uncut)) & (np.abs(longer) < np.abs(uncut)), uncut, longer)
        self.h[rows] = np.where(np.isfinite(error), longer, step.h)
        self.after[rows], self.before[rows] = ~good, np.where(good, np.maximum(error, TINY), self.before[rows])
        self.accepted[rows] += good
        self.since[rows] += good
        self.rejected[rows] += ~good
        moved = rows[good]
        self.error[moved] += local[good]
        self.s[moved], self.t[moved] = step.s[good], step.t[good]
        landed = rows[good & step.lands]
        self.leg[landed] += 1
        self.status[landed[self.leg[landed] == len(self.legs.ends)]] = Status.SUCCESS
        return good

    @property
    def left(self) -> np.ndarray:
        """How far the clock has to go to the end of the run."""
        return np.asarray(self.goals[-1] - self.s)

    def jumped(self, rows: np.ndarray, max_evaluations: int) -> np.ndarray:
        """Those of some samples that stand on a break, at the start of a leg, and may ask for a reading there."""
        leg = self.leg[rows]
        at_start = (leg > 0) & (leg < len(self.legs.ends)) & (self.t[rows] == self.legs.ends[leg - 1])
        found = rows[at_start & self.legs.jumps[leg - 1]]
        spent = self.evaluations[found] >= max_evaluations
        self.status[found[spent]] = Status.BUDGET_EXHAUSTED
        return found[~spent]

    def step(self, x: Tensor, factor: float) -> Step:
        """What a run yields: copies, since these arrays go on changing. Errors sum up; `factor` makes the estimate."""
        return Step(
            self.t.copy(),
            x,
            self.order.copy(),
            self.error * factor,
            self.status.copy(),
            self.accepted.copy(),
            self.rejected.copy(),
        )


def rms(v: Tensor) -> np.ndarray:
    """The root mean square of each sample, float64 on the host; in half precision squares would overflow."""
    return np.asarray(np.sqrt(row_mean_on_host(v.to(torch.promote_types(v.dtype, torch.float32)) ** 2)))


def take(whole: Tensor, rows: np.ndarray) -> Tensor:
    """Some rows of `whole`, or itself where those are all."""
    return whole if len(rows) == len(whole) else whole[torch.from_numpy(rows).to(whole.device)]


def restore(new: Sequence[Tensor], old: Sequence[Tensor], good: np.ndarray) -> None:
    """Write the rows of `old` that are not `good` back into `new`, tensor by tensor."""
    if not good.all():
        rows = torch.from_numpy(np.flatnonzero(~good)).to(new[0].device)
        for a, b in zip(new, old, strict=False):
            a[rows] = b[rows]


def put(whole: Tensor, rows: np.ndarray, part: Tensor) -> Tensor:
    """A copy of `whole` with some rows replaced, or `part` itself where those are all."""
    if len(rows) == len(whole):
        return part
    whole = whole.clone()
    whole[torch.from_numpy(rows).to(whole.device)] = part
    return whole
