"""Runge-Kutta with an error held per sample: every sample has its own time, step, error and fate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff.coordinates import Angle, Coordinates, Field
from scorediff.grids import Grid
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.base import Solver, Status, Step
from scorediff.solvers.door import Door
from scorediff.solvers.runge_kutta import Tableau
from scorediff.states import Workspace, per_sample, row_mean

__all__ = ["RK45", "check_tolerance"]

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0


def check_tolerance(solver: Any, dtype: torch.dtype) -> None:
    """Raise ValueError for tolerances that are negative or under what a state of `dtype` can hold."""
    least = 10 * torch.finfo(dtype).eps
    if not (solver.rtol >= 0 and solver.atol >= 0 and np.isfinite(solver.rtol + solver.atol)):
        raise ValueError(f"rtol = {solver.rtol}, atol = {solver.atol}: tolerances must be finite and not negative")
    if max(solver.rtol, solver.atol) < least:
        raise ValueError(
            f"rtol = {solver.rtol:.3g}, atol = {solver.atol:.3g} are under what {dtype} can hold ({least:.2g}): "
            "loosen one, or use float64"
        )


@dataclass(frozen=True)
class RK45(Solver):
    """Dormand and Prince's pair of orders 5 and 4, with the error of each sample held to `atol + rtol |y|`.

    Steps that fail are shortened for that sample alone; samples that arrive leave the network's batch.
    `max_evaluations` is per sample. The answer for a sample does not depend on its neighbours (bit for bit, where the
    network's does not).
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    coordinates: Coordinates = field(default_factory=Angle)
    max_evaluations: int = 10_000

    order = 5
    adaptive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    source: ClassVar[str] = "doi:10.1016/0771-050X(80)90013-3"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rk45": {}}
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
    )

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)
        check_tolerance(self, dtype)
        if self.max_evaluations < 2:
            raise ValueError(f"max_evaluations = {self.max_evaluations}: the first step alone takes 2")

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        moved = Field(Door.before(problem, x, grid), self.coordinates)  # a bare problem has no door yet
        ends = grid.times[1:]
        y = moved.enter(grid.start, x)
        k = moved.drift_at(grid.start, y)
        walk = _Walk.at_start(moved, grid, x.shape[0])
        walk.h[:] = self._first_step(moved, walk, y, k)
        walk.evaluations += 2
        walk.fail(~np.isfinite(walk.h), Status.NON_FINITE)
        yield walk.step(x)
        while (rows := np.flatnonzero(walk.status == Status.RUNNING)).size:
            walk.fail(rows[walk.evaluations[rows] + 6 > self.max_evaluations], Status.BUDGET_EXHAUSTED)
            step = np.abs(walk.h)
            walk.fail(rows[step[rows] < 16 * np.spacing(np.abs(walk.s[rows]))], Status.STEP_UNDERFLOW)
            rows = np.flatnonzero(walk.status == Status.RUNNING)
            if rows.size:
                h, t_to, lands = walk.propose(rows, ends)
                whole = rows.size == y.shape[0]
                new_y, new_k, error = self._attempt(
                    walk, t_to, h, y if whole else y[rows], k if whole else k[rows], rows
                )
                good = walk.judge(rows, h, t_to, lands, error, ends)
                if good.all() and whole:
                    y, k = new_y, new_k
                elif good.any():
                    y, k = y.clone(), k.clone()
                    y[rows[good]], k[rows[good]] = new_y[good], new_k[good]
            yield walk.step(moved.leave(walk.t, y))

    def _first_step(self, moved: Field, walk: "_Walk", y: Tensor, k: Tensor) -> np.ndarray:
        # Hairer, Norsett, Wanner, "Solving ODEs I", II.4: so that an Euler step, and its error, would be small
        size, slope = self._norm(y, y), self._norm(k, y)
        span = np.abs(walk.goal - walk.s)
        with np.errstate(divide="ignore", invalid="ignore"):
            h = np.where((size < 1e-5) | (slope < 1e-5), 1e-6 * span, 0.01 * size / slope)
        h = np.where(np.isfinite(h), np.minimum(h, span), 1e-6 * span) * np.sign(walk.goal - walk.s)
        trial = y + k * per_sample(h, y)
        bend = self._norm(moved.drift_at(walk.time(walk.s + h), trial) - k, y)
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.maximum(slope, bend / np.abs(h))
            longer = np.where(worst <= 1e-15, np.maximum(1e-6 * span, np.abs(h) * 1e-3), (0.01 / worst) ** (1 / 5))
        return np.minimum(np.minimum(100 * np.abs(h), longer), span) * np.sign(h)

    def _attempt(
        self, walk: "_Walk", t_to: np.ndarray, h: np.ndarray, y: Tensor, k: Tensor, rows: np.ndarray
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """One step of `rows` by `h`: the state and slope there, and the error in units of the tolerance."""
        work, tableau, column = Workspace(), self.tableau, per_sample(h, y)
        slopes = [k]
        new = y
        for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
            new = y + work.combine(*zip(row, slopes, strict=True)) * column
            at = t_to if c == 1 else walk.time(walk.s[rows] + c * h)
            slopes.append(walk.moved.drift_at(at, new, rows=rows))
        error = work.combine(*zip(tableau.error, slopes, strict=True)) * column
        return new, slopes[-1], self._norm(error, torch.maximum(y.abs(), new.abs()))

    def _norm(self, v: Tensor, scale: Tensor) -> np.ndarray:
        """RMS per sample of `v / (atol + rtol |scale|)`, on the host; in half precision its squares would overflow."""
        wide = torch.promote_types(v.dtype, torch.float32)
        allowed = (self.atol + self.rtol * scale.abs().to(wide)).clamp_min(torch.finfo(wide).tiny)
        return np.sqrt(row_mean((v.to(wide) / allowed) ** 2).double().cpu().numpy())


@dataclass
class _Walk:
    """Where each sample of a run is: arrays of shape (B,), the local state of one `run`."""

    moved: Field
    ends: tuple[float, float]
    t: np.ndarray
    s: np.ndarray
    h: np.ndarray
    goal: np.ndarray
    leg: np.ndarray
    error: np.ndarray
    status: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray
    evaluations: np.ndarray

    @classmethod
    def at_start(cls, moved: Field, grid: Grid, batch: int) -> "_Walk":
        def filled(value: float) -> np.ndarray:
            return np.full(batch, value)

        start, goal = float(moved.clock(grid.start)), float(moved.clock(float(grid.times[1])))
        counts = [np.full(batch, int(n)) for n in (Status.RUNNING, 0, 0, 0)]
        return cls(
            moved,
            (min(grid.start, grid.end), max(grid.start, grid.end)),
            filled(grid.start),
            filled(start),
            filled(0.0),
            filled(goal),
            np.zeros(batch, dtype=int),
            filled(0.0),
            *counts,
        )

    def time(self, s: np.ndarray) -> np.ndarray:
        """Times at the clock readings `s`, kept inside the run where rounding would leave it."""
        return np.clip(self.moved.time(s), *self.ends)

    def fail(self, which: np.ndarray, status: Status) -> None:
        self.status[which] = status

    def propose(self, rows: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps cut so as to land on the next end exactly, the times they lead to, and which of them land."""
        left = self.goal[rows] - self.s[rows]
        h = self.h[rows]
        # the last step of a leg takes all that is left; the one before it, half of it rather than leave a crumb
        lands = np.abs(h) * 1.01 >= np.abs(left)
        h = np.where(lands, left, np.where(2 * np.abs(h) > np.abs(left), left / 2, h))
        t_to = np.where(lands, ends[self.leg[rows]], self.time(self.s[rows] + h))
        return h, t_to, lands

    def judge(
        self, rows: np.ndarray, h: np.ndarray, t_to: np.ndarray, lands: np.ndarray, error: np.ndarray, ends: np.ndarray
    ) -> np.ndarray:
        """Accept or reject each row's step, move those that pass, and set the next steps; returns which passed."""
        self.evaluations[rows] += 6
        self.error[rows] = error
        self.fail(rows[~np.isfinite(error)], Status.NON_FINITE)
        good = error <= 1
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.clip(_SAFETY * error ** (-1 / 5), _SHRINK, _GROW)
        longer = h * np.where(good, factor, np.minimum(factor, 1.0))
        # a step cut short to land says nothing against the step it was cut from
        uncut = self.h[rows]
        longer = np.where(good & (np.abs(h) < np.abs(uncut)) & (np.abs(longer) < np.abs(uncut)), uncut, longer)
        self.h[rows] = np.where(np.isfinite(error), longer, h)
        self.accepted[rows] += good
        self.rejected[rows] += ~good
        moved = rows[good]
        self.s[moved] = np.where(lands[good], self.goal[moved], self.s[moved] + h[good])
        self.t[moved] = t_to[good]
        landed = rows[good & lands]
        self.leg[landed] += 1
        self.fail(landed[self.leg[landed] == len(ends)], Status.SUCCESS)
        on = landed[self.leg[landed] < len(ends)]
        self.goal[on] = self.moved.clock(ends[self.leg[on]])
        return good

    def step(self, x: Tensor) -> Step:
        """What the run yields: copies, since these arrays go on changing."""
        order = np.full(self.t.shape, RK45.order)
        return Step(
            self.t.copy(), x, order, self.error.copy(), self.status.copy(), self.accepted.copy(), self.rejected.copy()
        )
