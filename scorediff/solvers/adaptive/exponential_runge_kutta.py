"""Embedded pairs of exponential Runge-Kutta methods, with an error held per sample: nothing is remembered."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import per_sample
from scorediff.linear_parts.base import check_scale
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.adaptive.controller import Controller, check_budget, check_tolerance
from scorediff.solvers.adaptive.stepping import SUM_OF_STEPS, Legs, Proposal, Walk, put, rms, take, worth
from scorediff.solvers.base import Solver
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.exponential.engine import Point
from scorediff.solvers.exponential.forms import DataForm, Form, check_kind
from scorediff.solvers.exponential.runge_kutta import ERK3, KROGSTAD43
from scorediff.solvers.exponential.tableau import ExponentialTableau
from scorediff.spacings import Grid

__all__ = ["ExponentialRungeKutta32", "ExponentialRungeKutta43"]


@dataclass(frozen=True)
class _ExponentialPair(Solver):
    """Subclasses state a tableau with a `lower` row. The error of a step, as it will be in the data, is held to
    `atol + rtol data_std`, root mean square per sample.

    Where one step says nothing about the next (a jump of the denoiser is landed on), no history misleads it.
    """

    rtol: float = 1e-3
    atol: float = 0.0
    data_std: float = 1.0
    form: Form = field(default=DataForm(), kw_only=True)
    max_evaluations: int = 10_000
    controller: Controller = Controller(grow=3.0)
    adaptive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    estimates: ClassVar[str] = SUM_OF_STEPS
    tableau: ClassVar[ExponentialTableau]
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float]

    def __post_init__(self) -> None:
        check_kind(self, "form", Form, "NoiseForm()")
        check_scale(self)

    @property
    def order(self) -> int:
        return self.tableau.order

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        check_tolerance(self, dtype)
        check_budget(self, first=len(self.tableau.c))

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        problem = CountingDenoiser.before(problem, x, grid)  # a bare problem has no door yet
        schedule, cost = problem.schedule, len(self.tableau.c)
        walk = Walk.at_start(
            Legs.of(problem.denoiser, grid), schedule.log_snr, schedule.time_at, self.controller, x.shape[0]
        )
        # errors count as they do in the data
        factor = self.calibration / float(worth(schedule, grid.end, self.data_std))
        allowed, first, unread = self.atol + self.rtol * self.data_std, torch.zeros_like(x), np.ones(len(x), dtype=bool)
        walk.order[:] = self.order
        # 1 in log-SNR at a tolerance of 1
        walk.h[:] = np.sign(walk.left) * np.minimum(allowed ** (1 / self.order), np.abs(walk.left))
        rows = walk.running(cost, self.max_evaluations)
        yield walk.step(x, factor)
        while rows.size:
            if unread[rows].any():
                ask = rows[unread[rows]]
                first = put(first, ask, self._part(problem, walk.asked(ask), take(x, ask), ask, len(x)))
                walk.evaluations[ask] += 1
            step = walk.propose(rows)
            new, last, error = self._attempt(problem, walk, step, take(x, rows), take(first, rows), len(x))
            local = rms(error) * worth(schedule, step.t, self.data_std)
            promise = self.controller.promise(local / allowed, self.order, walk.before[rows])
            good = walk.judge(step, local / allowed, promise, local, cost - 1)
            moved = rows[good]
            x = put(x, moved, take(new, np.flatnonzero(good)))
            unread[rows] = False
            if last is None:
                unread[moved] = True
            else:
                first = put(first, moved, take(last, np.flatnonzero(good)))
                unread[walk.jumped(moved, self.max_evaluations)] = True
            rows = walk.running(cost - 1 + unread, self.max_evaluations)
            yield walk.step(x, factor)

    def _part(self, problem: Problem, t: np.ndarray, x: Tensor, rows: np.ndarray, batch: int) -> Tensor:
        # a copy: a denoiser of one's own may write into it when it is asked again
        return problem.denoiser(t, x, rows=None if len(rows) == batch else rows)[self.form.part].clone()

    def _attempt(
        self, problem: Problem, walk: Walk, step: Proposal, x: Tensor, first: Tensor, batch: int
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The state after a step, the reading there if it was taken, and the difference of the two results."""
        tableau, rows = self.tableau, step.rows
        eta, z = np.zeros(len(rows)), self.form.kappa(np.zeros(len(rows))) * step.h
        start = Point.at(problem.schedule, walk.t[rows])
        readings = [first]
        state, point = x, start
        # a last stage that is the result is not made again
        rows_of = tableau.rows[:-1] if tableau.first_same_as_last else tableau.rows
        for c, row in zip((*tableau.c[1:], 1.0), rows_of, strict=False):
            t = step.t if c == 1 else walk.time(rows, walk.s[rows] + c * step.h)
            point = Point.at(problem.schedule, t)
            # u_i = decay x_0 + pull h sum_j a_ij(z) M_j
            pull = self.form.pull(point, eta) * step.h
            state = x * per_sample(self.form.decay(start, point, eta), x)
            for w, reading in zip(row, readings, strict=False):
                state = state + reading * per_sample(pull * w.at(z), x)
            if len(readings) < len(tableau.c):
                at = step.ask if c == 1 else t
                readings.append(self._part(problem, at, state, rows, batch))
        difference = torch.zeros_like(x)
        for w, reading in zip(tableau.difference, readings, strict=True):
            difference = difference + reading * per_sample(pull * w.at(z), x)
        return state, readings[-1] if tableau.first_same_as_last else None, difference


@dataclass(frozen=True)
class ExponentialRungeKutta32(_ExponentialPair):
    """Hochbruck and Ostermann's order 3 at thirds of the step, with order 2 embedded; 3 evaluations a step."""

    source: ClassVar[str] = "arXiv:2206.00927"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exp-rk32": {}}
    tableau: ClassVar[ExponentialTableau] = ERK3
    calibration: ClassVar[float] = 1.0


@dataclass(frozen=True)
class ExponentialRungeKutta43(_ExponentialPair):
    """Krogstad's order 4, with order 3 embedded, in which the reading after the step stands for the last stage.

    4 evaluations a step: that reading is the first of the next one. The two readings whose difference is the estimate
    may agree where both are wrong: at loose tolerances, and from data to noise, errors of fifty tolerances occur.
    """

    source: ClassVar[str] = "Krogstad 2005"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exp-rk43": {}}
    tableau: ClassVar[ExponentialTableau] = KROGSTAD43
    calibration: ClassVar[float] = 50.0
