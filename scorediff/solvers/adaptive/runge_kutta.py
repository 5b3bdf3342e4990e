"""Embedded Runge-Kutta pairs in any coordinates, with an error held per sample."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import Workspace, per_sample
from scorediff.coordinates import Angle, Coordinates, Field
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.adaptive.controller import Controller, IController
from scorediff.solvers.adaptive.rows import put, rms, take
from scorediff.solvers.adaptive.run import AdaptiveRun, Trial, check_controller
from scorediff.solvers.adaptive.segments import SUM_OF_STEPS, Segments, error_weight
from scorediff.solvers.adaptive.stepping import Proposal, Stepping
from scorediff.solvers.base import AdaptiveSolver, Status, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.runge_kutta import Tableau
from scorediff.spacings import Grid

__all__ = ["RK23", "RK45"]


@dataclass(frozen=True)
class _Pair(AdaptiveSolver):
    """A pair whose last stage is the first of the next step; the error of each sample is held to `atol + rtol |y|`."""

    rtol: float = 1e-5
    atol: float = 1e-5
    coordinates: Coordinates = field(default_factory=Angle)
    controller: Controller = field(default=IController(), kw_only=True)
    estimates = SUM_OF_STEPS
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float]

    def __post_init__(self) -> None:
        if not isinstance(self.coordinates, Coordinates):
            raise TypeError(f"coordinates = {self.coordinates!r}: give Coordinates, such as LogSNR()")
        check_controller(self)

    @property
    @abstractmethod
    def tableau(self) -> Tableau:
        """The weights."""

    @property
    def least_evaluations(self) -> int:
        return 1 + len(self.tableau.b)

    def check_ends(self, problem: Problem, grid: Grid) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        yield from _Run(self, CountingDenoiser.before(problem, x, grid), x, grid).steps()


class _Run(AdaptiveRun):
    """One run: the states `y` in the coordinates, and the slopes `k` there."""

    def __init__(self, solver: _Pair, problem: Problem, x: Tensor, grid: Grid) -> None:
        self.tableau, self.rtol, self.atol = solver.tableau, solver.rtol, solver.atol
        self.field, self.schedule, self.dtype = Field(problem, solver.coordinates), problem.schedule, x.dtype
        self.cost = len(self.tableau.b) - 1
        segments = Segments.of(problem.denoiser, grid)
        variable, inverse = self.field.value, self.field.time
        stepping = Stepping.at_start(segments, variable, inverse, solver.controller, x.shape[0])
        # errors weigh as they do in data of unit variance
        super().__init__(solver, stepping, solver.calibration / float(error_weight(self.schedule, grid.end)))
        # in half precision y would lose what a step adds
        self.y = self.field.enter(grid.start, x.to(torch.promote_types(x.dtype, torch.float32)))
        self.k = self.field.drift_at(grid.start, self.y)
        stepping.order[:] = solver.order or 0
        stepping.h[:] = self._first_step()
        stepping.evaluations += 2
        stepping.status[~np.isfinite(stepping.h)] = Status.NON_FINITE
        self.x = x

    def attempt(self, step: Proposal) -> Trial:
        rows = step.rows
        y, k = take(self.y, rows), take(self.k, rows)
        new_y, new_k, difference = self._stages(step, y, k)
        error = self._norm(difference, torch.maximum(y.abs(), new_y.abs()))
        # the error of the state, and what becomes of it
        scale = self.field.coordinates.scale(self.schedule, step.t)
        local = rms(difference) / scale * error_weight(self.schedule, step.t)
        factor = self.stepping.step_factor(rows, error, self.tableau.local_order)
        return Trial(error, local, factor, (new_y, new_k))

    def move(self, step: Proposal, good: np.ndarray, trial: Trial) -> Iterator[Step]:
        moved, which = step.rows[good], np.flatnonzero(good)
        new_y, new_k = trial.state
        self.y, self.k = put(self.y, moved, take(new_y, which)), put(self.k, moved, take(new_k, which))
        self.x = self.field.leave(self.stepping.t, self.y).to(self.dtype)
        return iter(())

    def restart(self, rows: np.ndarray) -> None:
        self.stepping.evaluations[rows] += 1
        drift = self.field.drift_at(self.stepping.here(rows), take(self.y, rows), rows=rows)
        self.k = put(self.k, rows, drift)

    def _first_step(self) -> np.ndarray:
        # Hairer, Norsett, Wanner, "Solving ODEs I", II.4: so that an Euler step, and its error, would be small
        y, k, stepping = self.y, self.k, self.stepping
        size, slope = self._norm(y, y), self._norm(k, y)
        left, every = stepping.left, np.arange(len(stepping.t))
        span = np.abs(left)
        with np.errstate(divide="ignore", invalid="ignore"):
            h = np.where((size < 1e-5) | (slope < 1e-5), 1e-6 * span, 0.01 * size / slope)
        h = np.where(np.isfinite(h), np.minimum(h, span), 1e-6 * span) * np.sign(left)
        trial = y + k * per_sample(h, y)
        # a first segment may be shorter than h: then the slope is evaluated at its end
        bend = self._norm(self.field.drift_at(stepping.time(every, stepping.s + h), trial) - k, y)
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.maximum(slope, bend / np.abs(h))
            power = 1 / self.tableau.local_order
            longer = np.where(worst <= 1e-15, np.maximum(1e-6 * span, np.abs(h) * 1e-3), (0.01 / worst) ** power)
        return np.minimum(np.minimum(100 * np.abs(h), longer), span) * np.sign(h)

    def _stages(self, step: Proposal, y: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state and slope after a step, and the difference of the two results."""
        work, tableau, column = Workspace(), self.tableau, per_sample(step.h, y)
        slopes = [k]
        new = y
        for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            new = y + work.combine(*zip(row, slopes, strict=True)) * column
            stepping = self.stepping
            at = step.evaluate if c == 1 else stepping.time(step.rows, stepping.s[step.rows] + c * step.h)
            slopes.append(self.field.drift_at(at, new, rows=step.rows))
        return new, slopes[-1], work.combine(*zip(tableau.error, slopes, strict=True)) * column

    def _norm(self, v: Tensor, scale: Tensor) -> np.ndarray:
        """RMS per sample of `v / (atol + rtol |scale|)`, on the host."""
        return rms(v / (self.atol + self.rtol * scale.abs()).clamp_min(torch.finfo(v.dtype).tiny))


@dataclass(frozen=True)
class RK45(_Pair):
    """Dormand and Prince's pair of orders 5 and 4, with the error of each sample held to `atol + rtol |y|`.

    Steps that fail are shortened for that sample alone; samples that arrive leave the network's batch.
    `max_evaluations` is per sample. The answer for a sample does not depend on its neighbours (bit for bit, where the
    network's does not). Save times, and times where the denoiser jumps, are landed on.

    `rtol`, `atol`: the tolerance, as SciPy has it but for its size. `max_evaluations`: the budget of each sample.
    `coordinates`: what it steps in; those of the angle are regular at both ends. `controller`: what chooses the
    steps.
    """

    order = 5
    source: ClassVar[str] = "doi:10.1016/0771-050X(80)90013-3"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rk45": {}}
    calibration: ClassVar[float] = 30.0
    tableau = Tableau(
        c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        b=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        local_order=5,
    )


@dataclass(frozen=True)
class RK23(_Pair):
    """Bogacki and Shampine's pair of orders 3 and 2: three evaluations a step, for loose tolerances.

    `rtol`, `atol`, `max_evaluations`, `coordinates` and `controller` are those of `RK45`.
    """

    order = 3
    source: ClassVar[str] = "doi:10.1016/0893-9659(89)90079-7"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rk23": {}}
    calibration: ClassVar[float] = 5.0
    tableau = Tableau(
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
        local_order=3,
    )
