"""Ancestral sampling with any step of the flow: down below the node, and noise on top."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from scorediff.grids import Grid, Spacing
from scorediff.noise import Noise
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import Exact, Solver
from scorediff.solvers.composed.wrapped import check_step
from scorediff.solvers.exponential import DDIM, DPM2, RES, DPMSolverSinglestep, Krogstad
from scorediff.states import Workspace

__all__ = ["Ancestral"]


@dataclass(frozen=True)
class Ancestral(Solver):
    """`step` carries the flow from s_0 down to s_down, then noise leads up to s_1, in s = sigma/alpha:

        s_up = min(s_1, eta sqrt(s_1^2 (s_0^2 - s_1^2) / s_0^2)),  s_down = sqrt(s_1^2 - s_up^2)

    (k-diffusion's rule). The law at the nodes is that of the flow, up to the error of the step, so its weak order is
    the order of the step, whatever that is. Where s_down would lie below the end of the run, the noise is
    cut: the last step is pure flow. "euler-a" is DDIM but for that.
    """

    step: Solver = Krogstad()
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "euler-a": {"step": DDIM()},
        "dpm2-a": {"step": DPM2()},
        "dpm++2s-a": {"step": DPMSolverSinglestep(k=2)},
        "res-3-a": {"step": RES(k=3)},
        "krogstad-a": {"step": Krogstad()},
    }

    def __post_init__(self) -> None:
        check_step(self, self.step, one_step=True)

    @property
    def weak_order(self) -> int | None:
        return self.step.order

    @property
    def nfe(self) -> int | None:
        return self.step.nfe

    @property
    def exact_on(self) -> frozenset[Exact]:
        return self.step.exact_on

    @property
    def invariant(self) -> bool:  # type: ignore[override]
        return self.step.invariant

    @property
    def spacing(self) -> Spacing:
        return self.step.spacing

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        self.step.check(ProbabilityFlow(problem.denoiser), grid, dtype)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        flow, schedule, work = ProbabilityFlow(problem.denoiser), problem.schedule, Workspace()
        last = float(schedule.log_snr(grid.end))
        for t, t_1 in grid.pairs():
            start, end = float(schedule.log_snr(t)), float(schedule.log_snr(t_1))
            # (s_down / s_1)^2 = 1 - eta^2 (1 - e^(-2h)), not below the end of the run
            share = 1 + problem.eta_at(t) ** 2 * np.expm1(2 * (start - end))
            down = min(end - 0.5 * np.log(share), last) if share > 0 else last
            if not down > end:
                *_, (_, x, *_) = self.step.run(flow, x, Grid([t, t_1]), noise)
            else:
                t_down = t_1 if down == end else max(float(schedule.time_at(down)), grid.end)
                *_, (_, x, *_) = self.step.run(flow, x, Grid([t, t_down]), noise)
                # alpha_1 s_up = sigma_1 sqrt(1 - s_down^2 / s_1^2)
                s_up = float(schedule.sigma(t_1)) * np.sqrt(-np.expm1(2 * (end - down)))
                x = work.combine(
                    (float(schedule.alpha(t_1) / schedule.alpha(t_down)), x), (float(s_up), noise(start, end))
                )
            yield t_1, x
