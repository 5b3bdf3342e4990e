"""Explicit Runge-Kutta methods for the probability flow, in any coordinates: a tableau each, one engine."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from scorediff._core.states import Workspace
from scorediff.coordinates import Coordinates, DDIMCoordinates, Field, Time
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.base import Exact, Solver
from scorediff.spacings import Grid, Spacing
from scorediff.spacings.log_shift import for_runge_kutta

__all__ = ["RK2", "RK4", "Euler", "Heun", "Kutta3", "Tableau"]


@dataclass(frozen=True)
class Tableau:
    """Nodes `c`, stage weights `a` (a row per stage), weights `b`, and those of the error estimate, if any, which is
    of `local_order` in the step.

    Raises ValueError where `sum b = 1`, `sum a_i = c_i` or (with an estimate) `sum error = 0` fails.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    error: tuple[float, ...] = ()
    local_order: int = 0

    def __post_init__(self) -> None:
        sums = [(sum(row), c) for row, c in zip(self.a, self.c, strict=True)] + [
            (sum(self.b), 1.0),
            (sum(self.error), 0.0),
        ]
        for k, (got, wanted) in enumerate(sums):
            if abs(got - wanted) > 1e-14:
                raise ValueError(f"row {k} of the tableau sums to {got}, not {wanted}")


@dataclass(frozen=True)
class _RungeKutta(Solver):
    """`y_1 = y_0 + h sum_i b_i k_i`, `k_i` the drift at `s_0 + c_i h`, `y_0 + h sum_j a_ij k_j`."""

    coordinates: Coordinates = field(default_factory=Time)

    def __post_init__(self) -> None:
        if not isinstance(self.coordinates, Coordinates):
            raise TypeError(f"coordinates = {self.coordinates!r}: give Coordinates, such as LogSNR()")

    @property
    @abstractmethod
    def tableau(self) -> Tableau:
        """The nodes and weights."""

    @property
    def nfe(self) -> int:
        return len(self.tableau.b)

    @property
    def invariant(self) -> bool:
        # neither y = x / alpha nor s knows the schedule
        return isinstance(self.coordinates, DDIMCoordinates)

    @property
    def exact_on(self) -> frozenset[Exact]:
        # dy/ds = E: 0 along the mean, constant along the paths of a point mass
        straight = isinstance(self.coordinates, DDIMCoordinates)
        return frozenset({Exact.MEAN, Exact.POINT_MASS}) if straight else frozenset()

    @property
    def spacing(self) -> Spacing:
        return for_runge_kutta(self.coordinates, self.order)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        moved, work, tableau = Field(problem, self.coordinates), Workspace(), self.tableau
        y = moved.enter(grid.start, x)
        for t, s in grid.pairs():
            start, h = moved.value(t), moved.value(s) - moved.value(t)
            slopes: list[Any] = []
            for c, row in zip(tableau.c, tableau.a, strict=True):
                stage = work.combine((1.0, y), *((h * a, k) for a, k in zip(row, slopes, strict=True)))
                # grid nodes are passed on as they are, not through the variable and back
                at = t if c == 0 else s if c == 1 else min(max(moved.time(start + c * h), min(t, s)), max(t, s))
                slopes.append(moved.drift_at(at, stage))
            y = work.combine((1.0, y), *((h * b, k) for b, k in zip(tableau.b, slopes, strict=True)))
            yield s, moved.leave(s, y)


@dataclass(frozen=True)
class Euler(_RungeKutta):
    """Euler's method; in DDIM coordinates it is DDIM.

    `coordinates`: what it steps in, time by default, as textbooks have it.
    """

    order = 1
    source: ClassVar[str] = "Euler 1768"
    tableau = Tableau(c=(0.0,), a=((),), b=(1.0,))


@dataclass(frozen=True)
class Heun(_RungeKutta):
    """Heun's method: `y' = y_0 + h k(y_0)`, `y_1 = y_0 + h (k(y_0) + k(y')) / 2`; "edm-heun" is EDM's, in DDIM
    coordinates on its own grid (arXiv:2206.00364, algorithm 1).

    `coordinates`: what it steps in, time by default, as textbooks have it.
    """

    order = 2
    tableau = Tableau(c=(0.0, 1.0), a=((), (1.0,)), b=(0.5, 0.5))
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"heun": {}, "edm-heun": {"coordinates": DDIMCoordinates()}}


@dataclass(frozen=True)
class RK2(_RungeKutta):
    """Order 2 with its second stage at `alpha` of the step: EDM's general family (arXiv:2206.00364, algorithm 3).

    1/2 is the midpoint method, 1 Heun's.

    `coordinates`: what it steps in, time by default, as textbooks have it.
    """

    alpha: float = 0.5
    order = 2
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "midpoint": {"alpha": 0.5},
        "ralston": {"alpha": 2 / 3},
        "edm-midpoint": {"alpha": 0.5, "coordinates": DDIMCoordinates()},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha = {self.alpha}: the second stage lies in (0, 1] of the step")

    @property
    def tableau(self) -> Tableau:
        b = 1 / (2 * self.alpha)
        return Tableau(c=(0.0, self.alpha), a=((), (self.alpha,)), b=(1 - b, b))


@dataclass(frozen=True)
class Kutta3(_RungeKutta):
    """Kutta's method of order 3; in DDIM coordinates DEIS' rho-Kutta (arXiv:2204.13902).

    `coordinates`: what it steps in, time by default, as textbooks have it.
    """

    order = 3
    source: ClassVar[str] = "Kutta 1901"
    tableau = Tableau(c=(0.0, 0.5, 1.0), a=((), (0.5,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6))
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "kutta3": {},
        "deis-rho-kutta3": {"coordinates": DDIMCoordinates()},
    }


@dataclass(frozen=True)
class RK4(_RungeKutta):
    """The classical method of order 4.

    `coordinates`: what it steps in, time by default, as textbooks have it.
    """

    order = 4
    source: ClassVar[str] = "Kutta 1901"
    tableau = Tableau(
        c=(0.0, 0.5, 0.5, 1.0), a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6)
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rk4": {},
        "deis-rho-rk4": {"coordinates": DDIMCoordinates()},
    }
