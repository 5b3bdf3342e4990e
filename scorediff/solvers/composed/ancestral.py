"""Ancestral sampling with any step of the flow: down below the node, and noise on top."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from scorediff._core.states import Workspace
from scorediff.noise import Noise
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import Exact, Solver
from scorediff.solvers.composed.wrapper import SolverWrapper
from scorediff.solvers.counting import lowest_time
from scorediff.solvers.exponential.engine import etas
from scorediff.solvers.exponential.etd import Krogstad
from scorediff.solvers.exponential.first_order import DDIM
from scorediff.solvers.exponential.singlestep import DPM2, RES, DPMSolverSinglestep
from scorediff.spacings import Grid

__all__ = ["Ancestral"]


@dataclass(frozen=True)
class Ancestral(SolverWrapper):
    """`solver` carries the flow from s_0 down to s_down, then noise leads up to s_1, in s = sigma/alpha:

        s_up = min(s_1, eta sqrt(s_1^2 (s_0^2 - s_1^2) / s_0^2)),  s_down = sqrt(s_1^2 - s_up^2)

    (k-diffusion's rule). The distribution at the nodes is that of the flow, up to the error of the step, so its weak
    order is the order of the step, whatever that is. The noise is cut where s_down would lie below the end of the
    schedule, or of the run if that is lower: so a run in two parts is the run in one, and the last step of the whole is
    pure flow. "euler-a" is DDIM but for that.

    `solver`: any one-step method of the flow; Krogstad's, of order 4, where steps are meant to be few and long.
    """

    solver: Solver = Krogstad()
    one_step = True
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "euler-a": {"solver": DDIM()},
        "dpm2-a": {"solver": DPM2()},
        "dpm++2s-a": {"solver": DPMSolverSinglestep(k=2)},
        "res-3-a": {"solver": RES(k=3)},
        "krogstad-a": {"solver": Krogstad()},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_one_step()

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
        # the noise is cut at the end of the schedule, which is another log-SNR on another schedule
        return False

    @property
    def starts_at_pure_noise(self) -> bool:
        return self.solver.starts_at_pure_noise

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        lowest, eta = lowest_time(problem.schedule, grid), etas(problem, grid).max()
        if eta > 1 and not np.isfinite(problem.schedule.log_snr(lowest)):
            raise ValueError(
                f"eta = {eta:g}: above 1 the noise is cut at the end of the schedule, but at t = {lowest:.6g} of "
                f"{problem.schedule!r} sigma is 0: take eta up to 1"
            )
        problem.denoiser.check(grid.start, lowest)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        schedule, work = problem.schedule, Workspace()
        lowest = lowest_time(schedule, grid)
        log_snr = np.asarray(schedule.log_snr(grid.times))
        most = float(schedule.log_snr(lowest)) if lowest < grid.end else log_snr[-1]
        h, end = np.diff(log_snr), log_snr[1:]
        eta = np.array([problem.eta_at(t) for t in grid.times[:-1]])
        # (s_down / s_1)^2 = 1 - eta^2 (1 - e^(-2h)), not below the lowest s that the network may be asked at
        fraction = np.maximum(1 + eta**2 * np.expm1(-2 * h), np.exp(2 * (end - most)))
        down = np.where(
            fraction < 1, np.clip(schedule.time_at(end - np.log(fraction) / 2), lowest, None), grid.times[1:]
        )
        # alpha_1 s_up = sigma_1 sqrt(1 - s_down^2 / s_1^2)
        std = schedule.sigma(grid.times[1:]) * np.sqrt(1 - np.minimum(fraction, 1.0))
        ratio = np.asarray(schedule.alpha(grid.times[1:])) / schedule.alpha(down)
        segments = list(zip(grid.times[:-1].tolist(), down.tolist(), strict=True))
        step = self.solver.stepper(ProbabilityFlow(problem.denoiser), segments, noise)
        nodes = log_snr.tolist()
        for n, (to, up) in enumerate(zip(ratio.tolist(), np.broadcast_to(std, h.shape).tolist(), strict=True)):
            x = step(n, x)
            if up:
                x = work.combine((to, x), (up, noise(nodes[n], nodes[n + 1])))
            yield float(grid.times[n + 1]), x
