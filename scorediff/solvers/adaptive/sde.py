"""An adaptive solver of the reverse SDE: steps are cut out of one Brownian path, which rejections leave as it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from scorediff._core.states import per_sample
from scorediff.linear_parts.base import check_scale
from scorediff.noise import Noise
from scorediff.problems import Problem, ReverseSDE
from scorediff.solvers.adaptive.controller import Controller, check_budget, check_tolerance
from scorediff.solvers.adaptive.stepping import SUM_OF_STEPS, Legs, Proposal, Walk, put, rms, take, worth
from scorediff.solvers.base import Solver
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.exponential.engine import Point
from scorediff.solvers.exponential.forms import DataForm, phi
from scorediff.spacings import Grid

__all__ = ["AdaptiveSDE"]

_LOCAL_ORDER = 1.5  # data moves with the root of the step along a path
#: In log-SNR: over a longer step all noise is new, and data that stays where it was says nothing.
_LONGEST = 0.7
_FORM = DataForm()


@dataclass(frozen=True)
class AdaptiveSDE(Solver):
    """The exponential Euler step in data form, corrected by the line through both readings: one evaluation a step.

    Its error is the correction, held to `atol + rtol data_std` as it will be in the data, root mean square per sample.
    The noise over a step is the increment of the sample's Brownian path in log-SNR: a step that is rejected and taken
    again in parts sees the same path, so that no noise is thrown away for being large, and as the tolerance falls the
    samples converge, strongly. Needs `noise=BrownianPath`, which it takes by itself. Eta may be a function of time; it
    is held within a step.
    """

    rtol: float = 1e-2
    atol: float = 0.0
    data_std: float = 1.0
    max_evaluations: int = 10_000
    controller: Controller = Controller(safety=0.8, grow=3.0)
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    adaptive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    estimates: ClassVar[str] = SUM_OF_STEPS
    one_step: ClassVar[bool] = False
    needs_path: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2105.14080"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"adaptive-sde": {}}
    #: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
    calibration: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_scale(self)

    def check(self, problem: Problem, grid: Grid, dtype: Any) -> None:
        super().check(problem, grid, dtype)
        check_tolerance(self, dtype)
        check_budget(self, first=2)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        problem = CountingDenoiser.before(problem, x, grid)  # a bare problem has no door yet
        schedule = problem.schedule
        walk = Walk.at_start(
            Legs.of(problem.denoiser, grid), schedule.log_snr, schedule.time_at, self.controller, len(x)
        )
        # errors count as they do in the data
        factor = self.calibration / float(worth(schedule, grid.end, self.data_std))
        allowed = self.atol + self.rtol * self.data_std
        walk.h[:] = np.sign(walk.left) * np.minimum(allowed ** (1 / _LOCAL_ORDER), np.abs(walk.left))
        # copies: a denoiser of one's own may write into a reading when it is asked again
        data = problem.denoiser(walk.t, x)[0].clone()
        walk.evaluations += 1
        rows = walk.running(1, self.max_evaluations)
        yield walk.step(x, factor)
        while rows.size:
            walk.h = np.clip(walk.h, -_LONGEST, _LONGEST)
            step = walk.propose(rows)
            new, read, error = self._attempt(problem, walk, step, take(x, rows), take(data, rows), noise)
            local = rms(error) * worth(schedule, step.t, self.data_std)
            promise = self.controller.promise(local / allowed, _LOCAL_ORDER, walk.before[rows])
            good = walk.judge(step, local / allowed, promise, local, 1)
            moved, which = rows[good], np.flatnonzero(good)
            x, data = put(x, moved, take(new, which)), put(data, moved, take(read, which))
            jumped = walk.jumped(moved, self.max_evaluations)
            if jumped.size:
                read = problem.denoiser(walk.asked(jumped), take(x, jumped), rows=jumped)[0].clone()
                data = put(data, jumped, read)
                walk.evaluations[jumped] += 1
            rows = walk.running(1, self.max_evaluations)
            yield walk.step(x, factor)

    def _attempt(
        self, problem: Any, walk: Walk, step: Proposal, x: Tensor, data: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The corrected state after a step, the reading at the predicted one, and the correction."""
        rows = step.rows
        eta = np.array([problem.eta_at(t) for t in walk.t[rows]])
        start, end = Point.at(problem.schedule, walk.t[rows]), Point.at(problem.schedule, step.t)
        z, pull = _FORM.kappa(eta) * step.h, _FORM.pull(end, eta) * step.h
        increment = noise.each(rows, walk.s[rows], step.s)
        # x_1 = decay x_0 + pull h phi_1 D_0 + spread z, then + pull h phi_2 (D_1 - D_0)
        predicted = (
            x * per_sample(_FORM.decay(start, end, eta), x)
            + data * per_sample(pull * phi(1, z), x)
            + increment * per_sample(_FORM.spread(start, end, eta), x)
        )
        whole = len(rows) == len(walk.t)
        read = problem.denoiser(step.ask, predicted, rows=None if whole else rows)[0].clone()
        correction = (read - data) * per_sample(pull * phi(2, z), x)
        return predicted + correction, read, correction
