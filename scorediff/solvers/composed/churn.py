"""EDM's stochastic sampler around any step of the flow: a little noise up, then a longer step down."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from scorediff._core.states import Workspace
from scorediff.coordinates import DDIMCoordinates
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.base import Exact, Solver
from scorediff.solvers.composed.wrapper import SolverWrapper, check_falling
from scorediff.solvers.runge_kutta import Euler, Heun
from scorediff.spacings import Grid

__all__ = ["Churn"]


@dataclass(frozen=True)
class Churn(SolverWrapper):
    """Before each of the N steps, noise lifts s = sigma/alpha to `(1 + gamma) s`, gamma = min(s_churn / N, sqrt 2 - 1),
    where s lies in [s_tmin, s_tmax] (arXiv:2206.00364, algorithm 2); not above the start of the run.

    A stochastic solver of the flow: each sample is noisy, the distribution at the nodes is the flow's to the order of
    the step. With `s_noise` other than 1 it keeps a bias that no number of steps removes, and no order is declared.

    `solver`: any one-step method of the flow; Heun's in s, as published. `s_churn`: the noise of a whole run. `s_tmin`,
    `s_tmax`: where it is added, everywhere by default. `s_noise`: by what it is enlarged, 1 is exact.
    """

    solver: Solver = Heun(DDIMCoordinates())
    s_churn: float = 10.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "edm-stochastic": {"solver": Heun(DDIMCoordinates())},
        "edm-stochastic-euler": {"solver": Euler(DDIMCoordinates())},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_one_step()
        for name in ("s_churn", "s_tmin", "s_noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be finite and at least 0")
        if not self.s_tmin <= self.s_tmax:
            raise ValueError(f"s_tmin = {self.s_tmin} is above s_tmax = {self.s_tmax}")

    @property
    def weak_order(self) -> int | None:
        return self.solver.order if self.s_noise == 1 else None

    @property
    def nfe(self) -> int | None:
        return self.solver.nfe

    @property
    def exact_on(self) -> frozenset[Exact]:
        return self.solver.exact_on

    @property
    def own_variance(self) -> float | None:
        return self.solver.own_variance

    @property
    def invariant(self) -> bool:
        return self.solver.invariant

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        check_falling(grid)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        schedule, work = problem.schedule, Workspace()
        here = np.asarray(schedule.log_snr(grid.times))[:-1]
        # log(1 + gamma), by which noise takes the log-SNR back
        lift = math.log1p(min(self.s_churn / grid.steps, math.sqrt(2) - 1))
        s = np.exp(-here)
        up = np.where((self.s_tmin <= s) & (s <= self.s_tmax), np.maximum(here - lift, here[0]), here)
        t_up = np.where(up < here, np.clip(schedule.time_at(up), None, grid.start), grid.times[:-1])
        # x / alpha + sqrt(s_up^2 - s^2) s_noise z
        std = self.s_noise * np.asarray(schedule.sigma(t_up)) * np.sqrt(-np.expm1(2 * (up - here)))
        ratio = np.asarray(schedule.alpha(t_up)) / schedule.alpha(grid.times[:-1])
        step = self.solver.stepper(problem, list(zip(t_up.tolist(), grid.times[1:].tolist(), strict=True)), noise)
        for n in range(grid.steps):
            if std[n]:
                z = noise(float(here[n]), float(up[n]), tag=1 + grid.first + n)
                x = work.combine((float(ratio[n]), x), (float(std[n]), z))
            x = step(n, x)
            yield float(grid.times[n + 1]), x
