"""Black-box methods for the reverse SDE, in any coordinates; its noise is additive, so Ito and Stratonovich agree."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from scorediff._core.states import Workspace
from scorediff.coordinates import Coordinates, DDIMCoordinates, Field, Time
from scorediff.noise import Noise
from scorediff.problems import Problem, ReverseSDE
from scorediff.solvers.base import Exact, Solver
from scorediff.spacings import Grid, Spacing, UniformIn

__all__ = ["EulerMaruyama", "StochasticHeun"]


@dataclass(frozen=True)
class _BlackBoxSDE(Solver):
    coordinates: Coordinates = field(default_factory=Time)
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)

    @property
    def exact_on(self) -> frozenset[Exact]:
        # the drift is in proportion to E, 0 along the mean
        return frozenset({Exact.MEAN}) if isinstance(self.coordinates, DDIMCoordinates) else frozenset()

    @property
    def spacing(self) -> Spacing:
        return UniformIn(self.coordinates)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)  # the noise of the SDE is singular where the log-SNR is
        self.coordinates.check(problem.schedule, grid.start, grid.end)


@dataclass(frozen=True)
class EulerMaruyama(_BlackBoxSDE):
    """`y_1 = y_0 + a_0 h + b_0 sqrt|h| z`.

    `coordinates`: what it steps in, time by default, as textbooks have it.
    """

    weak_order = 1
    strong_order = 1
    nfe = 1
    source: ClassVar[str] = "Maruyama 1955"

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        moved, work = Field(problem, self.coordinates), Workspace()
        y = moved.enter(grid.start, x)
        for t, s in grid.pairs():
            start, end = float(moved.value(t)), float(moved.value(s))
            std = float(moved.diffusion_at(t)) * abs(end - start) ** 0.5
            y = work.combine((1.0, y), (end - start, moved.drift_at(t, y)), (std, noise(start, end)))
            yield s, moved.leave(s, y)


@dataclass(frozen=True)
class StochasticHeun(_BlackBoxSDE):
    """`y' = y_0 + a_0 h + b_0 sqrt|h| z`, then `y_1 = y_0 + (a_0 + a(y')) h / 2 + (b_0 + b_1) sqrt|h| z / 2`.

    `coordinates`: what it steps in, time by default, as textbooks have it.
    """

    weak_order = 2
    strong_order = 1
    nfe = 2
    source: ClassVar[str] = "Ruemelin 1982"

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        moved, work = Field(problem, self.coordinates), Workspace()
        y = moved.enter(grid.start, x)
        for t, s in grid.pairs():
            start, end = float(moved.value(t)), float(moved.value(s))
            h, z = end - start, noise(start, end)
            b_0, b_1 = (float(moved.diffusion_at(node)) * abs(h) ** 0.5 for node in (t, s))
            a_0 = moved.drift_at(t, y)
            predicted = work.combine((1.0, y), (h, a_0), (b_0, z))
            a_1 = moved.drift_at(s, predicted)
            y = work.combine((1.0, y), (h / 2, a_0), (h / 2, a_1), ((b_0 + b_1) / 2, z))
            yield s, moved.leave(s, y)
