"""Embedded Runge-Kutta pairs in any coordinates, with an error held per sample."""

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
from scorediff.solvers.adaptive.controller import Controller, check_budget, check_tolerance
from scorediff.solvers.adaptive.stepping import SUM_OF_STEPS, Legs, Proposal, Walk, put, rms, take, worth
from scorediff.solvers.base import Solver, Status
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.runge_kutta import Tableau
from scorediff.spacings import Grid

__all__ = ["RK23", "RK45"]


@dataclass(frozen=True)
class _Pair(Solver):
    """A pair whose last stage is the first of the next step; the error of each sample is held to `atol + rtol |y|`."""

    rtol: float = 1e-5
    atol: float = 1e-5
    coordinates: Coordinates = field(default_factory=Angle)
    max_evaluations: int = 10_000
    controller: Controller = Controller()
    adaptive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    estimates: ClassVar[str] = SUM_OF_STEPS
    tableau: ClassVar[Tableau]
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float]

    def __post_init__(self) -> None:
        if not isinstance(self.coordinates, Coordinates):
            raise TypeError(f"coordinates = {self.coordinates!r}: give Coordinates, such as LogSNR()")

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)
        check_tolerance(self, dtype)
        check_budget(self, first=2 + self._cost)

    @property
    def _cost(self) -> int:
        return len(self.tableau.b) - 1

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        moved = Field(CountingDenoiser.before(problem, x, grid), self.coordinates)  # a bare problem has no door yet
        # in half precision y would lose what a step adds
        y = moved.enter(grid.start, x.to(torch.promote_types(x.dtype, torch.float32)))
        k = moved.drift_at(grid.start, y)
        walk = Walk.at_start(Legs.of(problem.denoiser, grid), moved.clock, moved.time, self.controller, x.shape[0])
        walk.order[:] = self.order or 0
        # errors count as they do in data of unit variance
        factor = self.calibration / float(worth(problem.schedule, grid.end))
        walk.h[:] = self._first_step(moved, walk, y, k)
        walk.evaluations += 2
        walk.status[~np.isfinite(walk.h)] = Status.NON_FINITE
        rows = walk.running(self._cost, self.max_evaluations)
        yield walk.step(x, factor)
        while rows.size:
            step = walk.propose(rows)
            new_y, new_k, error, size = self._attempt(moved, walk, step, take(y, rows), take(k, rows))
            promise = self.controller.promise(error, self.tableau.local_order, walk.before[rows])
            # the error of the state, and what becomes of it
            scale = self.coordinates.scale(problem.schedule, step.t)
            local = size / scale * worth(problem.schedule, step.t)
            good = walk.judge(step, error, promise, local, self._cost)
            y, k = _moved(y, rows, good, new_y), _moved(k, rows, good, new_k)
            jumped = walk.jumped(rows[good], self.max_evaluations)
            if jumped.size:
                walk.evaluations[jumped] += 1
                k = put(k, jumped, moved.drift_at(walk.asked(jumped), take(y, jumped), rows=jumped))
            rows = walk.running(self._cost, self.max_evaluations)
            yield walk.step(moved.leave(walk.t, y).to(x.dtype), factor)

    def _first_step(self, moved: Field, walk: Walk, y: Tensor, k: Tensor) -> np.ndarray:
        # Hairer, Norsett, Wanner, "Solving ODEs I", II.4: so that an Euler step, and its error, would be small
        size, slope = self._norm(y, y), self._norm(k, y)
        left, every = walk.left, np.arange(len(walk.t))
        span = np.abs(left)
        with np.errstate(divide="ignore", invalid="ignore"):
            h = np.where((size < 1e-5) | (slope < 1e-5), 1e-6 * span, 0.01 * size / slope)
        h = np.where(np.isfinite(h), np.minimum(h, span), 1e-6 * span) * np.sign(left)
        trial = y + k * per_sample(h, y)
        # a first leg may be shorter than h: then the slope is asked for at its end
        bend = self._norm(moved.drift_at(walk.time(every, walk.s + h), trial) - k, y)
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.maximum(slope, bend / np.abs(h))
            power = 1 / self.tableau.local_order
            longer = np.where(worst <= 1e-15, np.maximum(1e-6 * span, np.abs(h) * 1e-3), (0.01 / worst) ** power)
        return np.minimum(np.minimum(100 * np.abs(h), longer), span) * np.sign(h)

    def _attempt(
        self, moved: Field, walk: Walk, step: Proposal, y: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
        """One step: the state and slope there, the error in units of the tolerance, and its root mean square."""
        work, tableau, column = Workspace(), self.tableau, per_sample(step.h, y)
        slopes = [k]
        new = y
        for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            new = y + work.combine(*zip(row, slopes, strict=True)) * column
            at = step.ask if c == 1 else walk.time(step.rows, walk.s[step.rows] + c * step.h)
            slopes.append(moved.drift_at(at, new, rows=step.rows))
        error = work.combine(*zip(tableau.error, slopes, strict=True)) * column
        return new, slopes[-1], self._norm(error, torch.maximum(y.abs(), new.abs())), rms(error)

    def _norm(self, v: Tensor, scale: Tensor) -> np.ndarray:
        """RMS per sample of `v / (atol + rtol |scale|)`, on the host."""
        return rms(v / (self.atol + self.rtol * scale.abs()).clamp_min(torch.finfo(v.dtype).tiny))


def _moved(whole: Tensor, rows: np.ndarray, good: np.ndarray, new: Tensor) -> Tensor:
    """The states after a step that some of the samples `rows` passed."""
    return put(whole, rows[good], take(new, np.flatnonzero(good)))


@dataclass(frozen=True)
class RK45(_Pair):
    """Dormand and Prince's pair of orders 5 and 4, with the error of each sample held to `atol + rtol |y|`.

    Steps that fail are shortened for that sample alone; samples that arrive leave the network's batch.
    `max_evaluations` is per sample. The answer for a sample does not depend on its neighbours (bit for bit, where the
    network's does not). Save times, and times where the denoiser jumps, are landed on.
    """

    order = 5
    source: ClassVar[str] = "doi:10.1016/0771-050X(80)90013-3"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rk45": {}}
    calibration: ClassVar[float] = 30.0
    tableau: ClassVar[Tableau] = Tableau(
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
    """Bogacki and Shampine's pair of orders 3 and 2: three evaluations a step, for loose tolerances."""

    order = 3
    source: ClassVar[str] = "doi:10.1016/0893-9659(89)90079-7"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rk23": {}}
    calibration: ClassVar[float] = 5.0
    tableau: ClassVar[Tableau] = Tableau(
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
        local_order=3,
    )
