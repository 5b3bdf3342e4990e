"""An adaptive solver of the reverse SDE: steps are cut out of one Brownian path, which rejections leave as it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from scorediff._core.states import per_sample
from scorediff.linear_parts import DataPart, LinearPart, NoiseLevel
from scorediff.linear_parts.base import check_data_std
from scorediff.noise import Noise
from scorediff.problems import Problem, ReverseSDE
from scorediff.solvers.adaptive.controller import Controller, IController
from scorediff.solvers.adaptive.rows import evaluated, put, put_all, rms, take, take_all
from scorediff.solvers.adaptive.run import AdaptiveRun, Trial, check_controller
from scorediff.solvers.adaptive.segments import SUM_OF_STEPS, Segments, error_weight
from scorediff.solvers.adaptive.step_ends import OnLattice
from scorediff.solvers.adaptive.stepping import Proposal, Stepping
from scorediff.solvers.base import AdaptiveSolver, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.exponential.engine import check_kind
from scorediff.spacings import Grid

__all__ = ["AdaptiveSDE"]

_LOCAL_ORDER = 1.5  # data moves with the root of the step along a path
#: In log-SNR: over a longer step all noise is new, and data that stays where it was says nothing.
_LONGEST = 0.7


@dataclass(frozen=True)
class AdaptiveSDE(AdaptiveSolver):
    """The exponential Euler step, corrected by the line through both outputs: one evaluation a step.

        x' = propagator x_t + integral_weight h phi_1 M_t + noise_std z
        x_s = x' + integral_weight h phi_2 (M_s - M_t)

    Its error is the correction, held to `atol + rtol data_std` as it will be in the data, root mean square per sample.
    The noise over a step is the increment of the sample's Brownian path in log-SNR: a step that is rejected and taken
    again in parts sees the same path, so that no noise is thrown away for being large, and as the tolerance falls the
    samples converge, strongly. Needs `noise=BrownianPath`, which it takes by itself. Eta may be a function of time; it
    is held within a step.

    Steps end on a lattice of log-SNR (`OnLattice`), but where they land on a save time or the end, so that rounding
    moves none of them: a relative disturbance of 1e-7 of every output, as another machine or batch makes it in float32,
    moves a sample by as much, but for about one sample in ten thousand, of which a step lies on the edge of a cell or
    its error on the edge of the tolerance. A step too short for the path is `Status.STEP_UNDERFLOW`.

    `rtol`: 1e-2, since strong errors fall slowly. `data_std`: the data's standard deviation per entry, 1 as for data
    scaled to it. `part`: the linear part, M what it leaves, the data by default. `controller`: what chooses the steps,
    for errors that scatter.

    `atol`, `max_evaluations`: as of every `AdaptiveSolver`.
    """

    rtol: float = 1e-2
    atol: float = 0.0
    data_std: float = 1.0
    part: LinearPart = field(default=DataPart(), kw_only=True)
    controller: Controller = field(default=IController(safety=0.8, grow=3.0), kw_only=True)
    estimates = SUM_OF_STEPS
    one_step = False
    needs_path = True
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    source: ClassVar[str] = "arXiv:2105.14080"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"adaptive-sde": {}}
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_kind(self, "part", LinearPart, "DataPart()")
        check_controller(self)
        check_data_std(self)

    @property
    def least_evaluations(self) -> int:
        return 2

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        yield from _Run(self, CountingDenoiser.before(problem, x, grid), x, grid, noise).steps()


class _Run(AdaptiveRun):
    """One run: `output` is what the linear part leaves of the evaluation at each state."""

    cost = 1

    def __init__(self, solver: AdaptiveSDE, problem: Problem, x: Tensor, grid: Grid, noise: Noise) -> None:
        self.problem, self.part, self.noise, self.data_std = problem, solver.part, noise, solver.data_std
        schedule, segments = problem.schedule, Segments.of(problem.denoiser, grid)
        variable, lattice = (schedule.log_snr, schedule.time_at), OnLattice(noise.cell)
        stepping = Stepping.at_start(segments, *variable, solver.controller, len(x), lattice)
        # errors weigh as they do in the data
        weight = float(error_weight(schedule, grid.end, self.data_std))
        super().__init__(solver, stepping, solver.calibration / weight)
        self.allowed = solver.atol + solver.rtol * self.data_std
        first = self.allowed ** (1 / _LOCAL_ORDER)
        stepping.h[:] = np.sign(stepping.left) * np.minimum(first, np.abs(stepping.left))
        self.x = x
        self.output = self._evaluated(stepping.t, x, np.arange(len(x)))
        stepping.evaluations += 1

    def prepare(self, rows: np.ndarray) -> None:
        self.stepping.h = np.clip(self.stepping.h, -_LONGEST, _LONGEST)

    def attempt(self, step: Proposal) -> Trial:
        new, output, correction = self._corrected(step, take(self.x, step.rows), take_all(self.output, step.rows))
        local = rms(correction) * error_weight(self.problem.schedule, step.t, self.data_std)
        factor = self.stepping.step_factor(step.rows, local / self.allowed, _LOCAL_ORDER)
        return Trial(local / self.allowed, local, factor, (new, output))

    def move(self, step: Proposal, good: np.ndarray, trial: Trial) -> Iterator[Step]:
        moved, which = step.rows[good], np.flatnonzero(good)
        new, output = trial.state
        self.x = put(self.x, moved, take(new, which))
        self.output = put_all(self.output, moved, take_all(output, which))
        return iter(())

    def restart(self, rows: np.ndarray) -> None:
        output = self._evaluated(self.stepping.here(rows), take(self.x, rows), rows)
        self.output = put_all(self.output, rows, output)
        self.stepping.evaluations[rows] += 1

    def _evaluated(self, t: np.ndarray, x: Tensor, rows: np.ndarray) -> list[Tensor]:
        return evaluated(self.problem, self.part, t, x, rows, len(self.x))

    def _corrected(self, step: Proposal, x: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        """The corrected state after a step, what is left of the evaluation at the predicted one, and the correction."""
        part, schedule, stepping, rows = self.part, self.problem.schedule, self.stepping, step.rows
        eta = np.array([self.problem.eta_at(t) for t in stepping.t[rows]])
        start, end = NoiseLevel.at(schedule, stepping.t[rows]), NoiseLevel.at(schedule, step.t)
        increments = part.split_apart(self.noise.each(rows, stepping.s[rows], step.s), 0.0)
        predicted, weights = [], []
        parts = zip(part.components, part.split_apart(x, start.alpha), outputs, increments, strict=True)
        for one, v, output, z in parts:
            kernel, weight = one.kernel(end, eta), one.integral_weight(end, eta) * step.h
            predicted.append(
                v * per_sample(one.propagator(start, end, eta), v)
                + output * per_sample(weight * kernel.phi(1, 1.0, step.h), v)
                + z * per_sample(one.noise_std(start, end, eta), v)
            )
            weights.append(weight * kernel.phi(2, 1.0, step.h))
        state = part.join_apart(predicted, end.alpha, x)
        new = self._evaluated(step.evaluate, state, rows)
        apart = [(a - b) * per_sample(w, a) for a, b, w in zip(new, outputs, weights, strict=True)]
        correction = part.join_apart(apart, 0.0, x)
        return state + correction, new, correction
