"""The strong order of a solver: how fast its samples settle as the grid is refined on one Brownian path."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.denoiser import DenoiserBase, PairOutput
from scorediff.noise import BrownianPath
from scorediff.problems import ReverseSDE
from scorediff.schedules import Schedule
from scorediff.solvers import Solver, solve
from scorediff.solvers.solve import resolve
from scorediff.spacings import Grid, Spacing
from scorediff.targets import Target
from scorediff.verify.measured import Measurement, OrderReport
from scorediff.verify.runs import (
    GAUSSIAN,
    MIXTURE,
    checked_grid,
    checked_schedule,
    checked_steps,
    checked_target,
    described,
    ends,
    grid_of,
    refined,
)
from scorediff.verify.slope import ConvergencePoint, counted, fit

__all__ = ["strong_order"]

_STEPS = (8, 16, 32, 64, 128, 256)
_SAMPLES = 512
_ROUNDING = 1e-7  # a path is asked at nodes that differ in their last bits, and is rough


def strong_order(
    solver: Solver | str,
    *,
    target: Target | None = None,
    schedule: Schedule | str | None = None,
    grid: Grid | Sequence[float] | Spacing | str | None = None,
    eta: float = 1.0,
    declared: float | None = None,
    steps: Sequence[int] = _STEPS,
    t_start: float | None = None,
    t_end: float | None = None,
    seed: int = 0,
) -> OrderReport:
    """Measure how fast the output settles as the steps are doubled along one Brownian path, on the reverse SDE.

    The error at `N` steps is the mean over 512 samples of the distance to the output of twice as many (a root mean
    square over samples would be that of the few that start where a mixture parts). That samples settle does not say
    that their distribution is right: the weak order does. Without `target` and `schedule`: on a Gaussian and on a
    mixture, on VP, over log-SNRs from -2 to 2. `steps` must double; of a `Grid` every step is split into as many parts.
    Raises TypeError or ValueError for what cannot be run, an adaptive solver among it.

    >>> print(strong_order("ddpm", target=Gaussian((0.5,), 0.2), steps=(8, 16, 32, 64, 128)))  # doctest: +ELLIPSIS
    ddpm: strong order measured ... (... to ...), declared 1: OK
    """
    solver, one, rule = resolve(solver), checked_schedule(schedule), checked_grid(grid, t_start, t_end)
    steps = checked_steps(steps)
    if solver.adaptive:
        raise ValueError(f"{solver!r} chooses its steps from values: it has no ladder of grids on one path")
    if any(b != 2 * a for a, b in pairwise(steps)) or len(steps) < 5:
        raise ValueError(f"steps = {tuple(steps)}: each must be twice the one before, and at least 5 are needed")
    first, last = ends(one)
    span = (first if t_start is None else t_start, last if t_end is None else t_end)
    measurements = []
    for each in [GAUSSIAN, MIXTURE] if target is None else [checked_target(target)]:
        run = _Coupled(solver, each, one, eta, seed)
        if isinstance(rule, Grid):
            nodes = [refined(rule, one, n) for n in steps]
        else:
            nodes = [grid_of(solver, one, n, rule, *span, run.problem) for n in steps]
        ends_of = [run(node) for node in nodes]
        points = [
            ConvergencePoint(node.steps, a[1], _distance(b[0] - a[0]))
            for node, (a, b) in zip(nodes, pairwise(ends_of), strict=False)
        ]
        words = f"{described(each)}, {type(one).__name__}, eta = {eta:g}"
        measurements.append(Measurement(words, fit(points, _ROUNDING), counted(points)))
    wanted = solver.strong_order if declared is None else declared
    return OrderReport(solver.name, "strong order", wanted, solver.nfe, tuple(measurements))


def _distance(apart: Tensor) -> float:
    return float(apart.reshape(_SAMPLES, -1).square().mean(1).sqrt().mean())


@dataclass(frozen=True)
class _Coupled:
    """Runs of one solver from one start along one path."""

    solver: Solver
    target: Target
    schedule: Schedule
    eta: float
    seed: int

    @property
    def problem(self) -> ReverseSDE:
        return ReverseSDE(_Side(self.target.denoiser(self.schedule), self.target.event_shape), self.eta)

    def __call__(self, nodes: Grid) -> tuple[Tensor, float]:
        # many samples side by side in one row, whose entries have a path each: a path is drawn a row at a time
        start = self.target.at(self.schedule, nodes.start).sample(_SAMPLES, self.seed).reshape(1, -1)
        solution = solve(
            self.problem, start, self.solver, grid=nodes, noise=BrownianPath, seed=self.seed, progress=False
        )
        return solution.check().x, float(solution.calls)


@final
class _Side(DenoiserBase):
    """A denoiser on samples that lie side by side in one row."""

    def __init__(self, denoiser: DenoiserBase, event_shape: tuple[int, ...]) -> None:
        self.denoiser, self.schedule, self.event_shape = denoiser, denoiser.schedule, event_shape

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> PairOutput:
        data, noise = (part.reshape(x.shape) for part in self.denoiser(t, x.reshape(-1, *self.event_shape)))
        return PairOutput(x, data, noise)
