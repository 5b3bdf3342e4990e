"""Embedded pairs of exponential Runge-Kutta methods, with an error held per sample: nothing is remembered."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import per_sample
from scorediff.linear_parts import DataPart, LinearPart, NoiseLevel
from scorediff.linear_parts.base import check_data_std
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.adaptive.controller import Controller, IController
from scorediff.solvers.adaptive.rows import evaluated, put, put_all, rms, take, take_all
from scorediff.solvers.adaptive.run import AdaptiveRun, Trial, check_controller
from scorediff.solvers.adaptive.segments import SUM_OF_STEPS, Segments, error_weight
from scorediff.solvers.adaptive.stepping import Proposal, Stepping
from scorediff.solvers.base import AdaptiveSolver, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.exponential.engine import check_kind
from scorediff.solvers.exponential.etd import KROGSTAD43
from scorediff.solvers.exponential.runge_kutta import weight_of
from scorediff.solvers.exponential.singlestep import ERK3
from scorediff.solvers.exponential.tableau import ExponentialTableau, Phi
from scorediff.spacings import Grid

__all__ = ["ExponentialRungeKutta32", "ExponentialRungeKutta43"]


@dataclass(frozen=True)
class _ExponentialPair(AdaptiveSolver):
    """Subclasses state a tableau with a `lower` row. The error of a step, as it will be in the data, is held to
    `atol + rtol data_std`, root mean square per sample.

    Where one step says nothing about the next (a jump of the denoiser is landed on), no history misleads it.
    """

    rtol: float = 1e-3
    atol: float = 0.0
    data_std: float = 1.0
    part: LinearPart = field(default=DataPart(), kw_only=True)
    controller: Controller = field(default=IController(grow=3.0), kw_only=True)
    estimates = SUM_OF_STEPS
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float]

    def __post_init__(self) -> None:
        check_kind(self, "part", LinearPart, "NoisePart()")
        check_controller(self)
        check_data_std(self)

    @property
    @abstractmethod
    def tableau(self) -> ExponentialTableau:
        """The weights."""

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def least_evaluations(self) -> int:
        return len(self.tableau.c)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        yield from _Run(self, CountingDenoiser.before(problem, x, grid), x, grid).steps()


class _Run(AdaptiveRun):
    """One run: `first` is what the linear part leaves of the evaluation at each state, where it is not `missing`."""

    def __init__(self, solver: _ExponentialPair, problem: Problem, x: Tensor, grid: Grid) -> None:
        self.tableau, self.part, self.problem, self.data_std = solver.tableau, solver.part, problem, solver.data_std
        schedule, segments = problem.schedule, Segments.of(problem.denoiser, grid)
        stepping = Stepping.at_start(segments, schedule.log_snr, schedule.time_at, solver.controller, x.shape[0])
        # errors weigh as they do in the data
        weight = float(error_weight(schedule, grid.end, self.data_std))
        super().__init__(solver, stepping, solver.calibration / weight)
        # that at the start of a step is there already, or counted when it is made
        self.cost = len(self.tableau.c) - 1
        self.allowed = solver.atol + solver.rtol * self.data_std
        self.x, self.missing = x, np.ones(len(x), dtype=bool)
        self.first = [torch.zeros_like(v) for v in self.part.split_apart(x, 0.0)]
        stepping.order[:] = solver.order
        # 1 in log-SNR at a tolerance of 1
        stepping.h[:] = np.sign(stepping.left) * np.minimum(self.allowed ** (1 / solver.order), np.abs(stepping.left))

    def running(self) -> np.ndarray:
        return self.stepping.running(self.cost + self.missing, self.max_evaluations)

    def prepare(self, rows: np.ndarray) -> None:
        if self.missing[rows].any():
            some = rows[self.missing[rows]]
            found = self._evaluated(self.stepping.here(some), take(self.x, some), some)
            self.first = put_all(self.first, some, found)
            self.stepping.evaluations[some] += 1

    def attempt(self, step: Proposal) -> Trial:
        new, last, difference = self._stages(step, take(self.x, step.rows), take_all(self.first, step.rows))
        local = rms(difference) * error_weight(self.problem.schedule, step.t, self.data_std)
        factor = self.stepping.step_factor(step.rows, local / self.allowed, self.tableau.order)
        return Trial(local / self.allowed, local, factor, (new, last))

    def move(self, step: Proposal, good: np.ndarray, trial: Trial) -> Iterator[Step]:
        moved, which = step.rows[good], np.flatnonzero(good)
        new, last = trial.state
        self.x = put(self.x, moved, take(new, which))
        self.missing[step.rows] = False
        if last is None:
            self.missing[moved] = True
        else:
            self.first = put_all(self.first, moved, take_all(last, which))
        return iter(())

    def restart(self, rows: np.ndarray) -> None:
        self.missing[rows] = True

    def _evaluated(self, t: np.ndarray, x: Tensor, rows: np.ndarray) -> list[Tensor]:
        return evaluated(self.problem, self.part, t, x, rows, len(self.x))

    def _stages(self, step: Proposal, x: Tensor, first: list[Tensor]) -> tuple[Tensor, list[Tensor] | None, Tensor]:
        """The state after a step, what is left of the evaluation there if it was made, and the difference of the two
        results.
        """
        tableau, part, stepping, rows, h = self.tableau, self.part, self.stepping, step.rows, step.h
        schedule = self.problem.schedule
        start = NoiseLevel.at(schedule, stepping.t[rows])
        outputs, parts = [first], part.split_apart(x, start.alpha)
        # a last stage that is the result is not made again
        rows_of = tableau.rows[:-1] if tableau.first_same_as_last else tableau.rows
        for c, row in zip((*tableau.c[1:], 1.0), rows_of, strict=False):
            t = step.t if c == 1 else stepping.time(rows, stepping.s[rows] + c * h)
            level = NoiseLevel.at(schedule, t)
            stages = [self._stage(n, (start, level), row, v, outputs, h) for n, v in enumerate(parts)]
            state = part.join_apart(stages, level.alpha, x)
            if len(outputs) < len(tableau.c):
                outputs.append(self._evaluated(step.evaluate if c == 1 else t, state, rows))
        nothing = [torch.zeros_like(v) for v in parts]
        apart = [self._stage(n, (level, level), tableau.difference, v, outputs, h) for n, v in enumerate(nothing)]
        return state, outputs[-1] if tableau.first_same_as_last else None, part.join_apart(apart, 0.0, x)

    def _stage(
        self,
        n: int,
        ends: tuple[NoiseLevel, NoiseLevel],
        row: Sequence[Phi],
        x: Tensor,
        outputs: list[list[Tensor]],
        h: np.ndarray,
    ) -> Tensor:
        """`u = propagator x_0 + integral_weight h sum_j a_j M_j` for the part of variance n."""
        one, (start, end), eta = self.part.components[n], ends, np.zeros(len(h))
        kernel, weight = one.kernel(end, eta), one.integral_weight(end, eta) * h
        state = x * per_sample(one.propagator(start, end, eta), x)
        for w, output in zip(row, outputs, strict=False):
            state = state + output[n] * per_sample(weight * weight_of(w, kernel, h), x)
        return state


@dataclass(frozen=True)
class ExponentialRungeKutta32(_ExponentialPair):
    """Hochbruck and Ostermann's order 3 at thirds of the step, with order 2 embedded; 3 evaluations a step.

    `rtol`, `atol`, `max_evaluations`: as of every `AdaptiveSolver`. `data_std`: the data's standard deviation per
    entry, 1 as for data scaled to it. `part`: the linear part, that of the data by default. `controller`: what
    chooses the steps, by default never more than three times as long.
    """

    source: ClassVar[str] = "arXiv:2206.00927"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exp-rk32": {}}
    tableau = ERK3
    calibration: ClassVar[float] = 1.0


@dataclass(frozen=True)
class ExponentialRungeKutta43(_ExponentialPair):
    """Krogstad's order 4, with order 3 embedded, in which the evaluation after the step stands for the last stage.

    4 evaluations a step: that one is the first of the next one. The two evaluations whose difference is the estimate
    may agree where both are wrong: at loose tolerances, and from data to noise, errors of fifty tolerances occur, and
    larger ones above 1e-4 with a part that leaves little at the start, such as `Preconditioned`.

    `rtol`, `atol`, `max_evaluations`, `data_std`, `part` and `controller` are those of `ExponentialRungeKutta32`.
    """

    source: ClassVar[str] = "Krogstad 2005"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exp-rk43": {}}
    tableau = KROGSTAD43
    calibration: ClassVar[float] = 50.0
