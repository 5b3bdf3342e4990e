"""The predictor-corrector sampler of score-based SDEs: Langevin steps at every node, then a step of any solver."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorediff._core.states import row_mean
from scorediff.noise import Noise
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import Solver
from scorediff.solvers.composed.wrapper import check_falling
from scorediff.solvers.exponential.first_order import DDIM
from scorediff.spacings import Grid, Spacing

__all__ = ["PredictorCorrector"]


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """At every node `corrections` of `x + length score + sqrt(2 length) z`, then one of `predictor` (arXiv:2011.13456,
    algorithms 2 to 5).

    `length = 2 (snr |z| / |score|)^2` for each sample on its own (the paper takes the norms' mean over a batch), so
    that a sample does not depend on its neighbours. Langevin steps of a length that does not fall with the grid's
    keep a bias of their own, and where an event has few entries the norms scatter: no order is declared. The
    predictor must forget the steps before.
    """

    predictor: Solver = DDIM()
    snr: float = 0.16
    corrections: int = 1
    linear = False
    solves: ClassVar[tuple[type, ...]] = (ProbabilityFlow, ReverseSDE)
    source: ClassVar[str] = "arXiv:2011.13456"

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver):
            raise TypeError(
                f"PredictorCorrector is made of a solver, such as PredictorCorrector(DDIM()), got {self.predictor!r}"
            )
        if self.predictor.adaptive or not self.predictor.one_step:
            raise ValueError(f"{self.predictor!r} is not a one-step method on a fixed grid, such as DDIM()")
        if not 0 < self.snr < math.inf:
            raise ValueError(f"snr = {self.snr}: it must be positive and finite")
        if isinstance(self.corrections, bool) or not isinstance(self.corrections, int) or self.corrections < 0:
            raise ValueError(f"corrections = {self.corrections!r}: a whole number from 0 on")

    @property
    def nfe(self) -> int | None:
        return None if self.predictor.nfe is None else self.predictor.nfe + self.corrections

    @property
    def spacing(self) -> Spacing:
        return self.predictor.spacing

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        if not isinstance(problem, self.predictor.solves):
            raise TypeError(f"{self.predictor!r} does not solve {type(problem).__name__}")
        self.predictor.check(problem, grid, dtype)
        check_falling(grid)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        step = self.predictor.stepper(problem, list(grid.pairs()), noise)
        for n, (t, t_1) in enumerate(grid.pairs()):
            a, b = float(problem.schedule.log_snr(t)), float(problem.schedule.log_snr(t_1))
            for k in range(self.corrections):
                score = problem.denoiser(t, x)[1] * (-1 / float(problem.schedule.sigma(t)))
                z = noise(a, b, tag=1 + k)
                # length = 2 (snr |z| / |score|)^2
                length = 2 * self.snr**2 * _square(z) / _square(score)
                # where there is no score there is nothing to correct
                length = torch.where(length.isfinite(), length, 0.0)
                x = x + score * length.to(x.dtype) + z * (2 * length).sqrt().to(x.dtype)
            x = step(n, x)
            yield t_1, x


def _square(x: Tensor) -> Tensor:
    """The mean square of each sample, of shape (B, 1, ...), in no less than float32: half precision overflows."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return row_mean(wide.square()).reshape(-1, *(1,) * (x.ndim - 1))
