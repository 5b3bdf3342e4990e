"""Restart sampling around any solver of the flow: back up through an interval, and down again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from scorediff._core.states import Workspace
from scorediff.coordinates import DDIMCoordinates
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.schedules import Schedule
from scorediff.solvers.base import Solver, Step
from scorediff.solvers.composed.wrapper import SolverWrapper, check_falling
from scorediff.solvers.exponential.dpm_solver import DPMSolverPP
from scorediff.solvers.runge_kutta import Heun
from scorediff.spacings import Grid

__all__ = ["Restart"]


@dataclass(frozen=True)
class Restart(SolverWrapper):
    """Once the run has passed s = sigma/alpha from `s_max` to `s_min`, noise leads back up and `solver` down again,
    `repeats` times (arXiv:2306.14878).

    Both ends are moved outwards to nodes of the grid, and the way down is on the grid's own nodes, so that it is as
    fine as the rest. A stochastic solver of the flow: its distribution has the order of `solver`, which may be a
    multistep method: it starts afresh after each turn. Raises ValueError where the run has no two nodes in the
    interval.

    `solver`: any method of the flow; Heun's in s, as published. `s_min`, `s_max`: the interval, where the distribution
    of the data comes apart into its modes. `repeats`: how often it is gone through again.
    """

    solver: Solver = Heun(DDIMCoordinates())
    s_min: float = 0.3
    s_max: float = 1.0
    repeats: int = 2
    source: ClassVar[str] = "arXiv:2306.14878"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "restart": {"solver": Heun(DDIMCoordinates())},
        "restart-dpm++2m": {"solver": DPMSolverPP(2)},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.s_min < self.s_max:
            raise ValueError(
                f"the interval from s_min = {self.s_min} to s_max = {self.s_max} is empty: 0 < s_min < s_max"
            )
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 0:
            raise ValueError(f"repeats = {self.repeats!r}: a whole number from 0 on")

    @property
    def starts_at_pure_noise(self) -> bool:
        return self.solver.starts_at_pure_noise

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        check_falling(grid)
        top, bottom = self._turns(problem.schedule, grid)
        if self.repeats and not top < bottom:
            s = np.exp(-np.asarray(problem.schedule.log_snr(grid.times)))
            raise ValueError(
                f"no step of {grid!r}, with sigma/alpha from {s[0]:.3g} to {s[-1]:.3g}, lies between s_max = "
                f"{self.s_max} and s_min = {self.s_min}: take more steps or another interval"
            )

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        if not self.repeats:
            yield from self.solver.run(problem, x, grid, noise)
            return
        schedule, work, times = problem.schedule, Workspace(), grid.times
        top, bottom = self._turns(schedule, grid)
        t, s = float(times[bottom]), float(times[top])
        for step in self.solver.run(problem, x, grid[: bottom + 1], noise):
            x, order = step[1], Step(*step).order
            if step[0] != t:
                yield step
        a, b = float(schedule.log_snr(t)), float(schedule.log_snr(s))
        for turn in range(self.repeats):
            # x / alpha + sqrt(s_max^2 - s_min^2) z
            std = float(schedule.sigma(s)) * float(np.sqrt(-np.expm1(2 * (b - a))))
            x = work.combine((float(schedule.alpha(s) / schedule.alpha(t)), x), (std, noise(a, b, tag=1 + turn)))
            *_, (_, x, *_) = self.solver.run(problem, x, grid[top : bottom + 1], noise)
        yield Step(t, x, order)
        if bottom < grid.steps:
            yield from self.solver.run(problem, x, grid[bottom:], noise)

    def _turns(self, schedule: Schedule, grid: Grid) -> tuple[int, int]:
        """The last node at s_max or above, and the first at s_min or below; the ends of the run where there is none."""
        s = np.exp(-np.asarray(schedule.log_snr(grid.times)))
        top, bottom = int(np.sum(s >= self.s_max)) - 1, int(np.sum(s > self.s_min))
        return max(top, 0), min(bottom, grid.steps)
