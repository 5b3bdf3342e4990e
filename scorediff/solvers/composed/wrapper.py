"""What solvers made of a solver of the flow have in common."""

from dataclasses import dataclass

import torch

from scorediff.problems import ProbabilityFlow, Problem
from scorediff.solvers.base import Solver
from scorediff.spacings import Grid, Spacing

__all__ = ["SolverWrapper", "check_falling"]


@dataclass(frozen=True)
class SolverWrapper(Solver):
    """A solver that adds noise to the steps of another one, its `solver`: what it claims follows from what that claims.

    Raises TypeError or ValueError for a solver that does not run the flow on a fixed grid with a declared order.
    """

    solver: Solver
    one_step = False

    def __post_init__(self) -> None:
        name, inner = type(self).__name__, self.solver
        if not isinstance(inner, Solver):
            raise TypeError(f"{name} is made of a solver, such as {name}(Krogstad()), got {inner!r}")
        if ProbabilityFlow not in inner.solves or inner.adaptive:
            raise ValueError(f"{name} takes steps of the flow on a fixed grid, which {inner!r} does not")
        if inner.order is None:
            raise ValueError(
                f"{inner!r} adds noise of its own, or declares no order: give {name} a step of the flow alone"
            )

    def check_one_step(self) -> None:
        """Raise ValueError where the solver uses a history, which noise between its steps would spoil."""
        if not self.solver.one_step:
            raise ValueError(
                f"{self.solver!r} remembers the steps before, and {type(self).__name__} leads away from them: give a "
                "one-step method, such as RES(k=3)"
            )

    @property
    def weak_order(self) -> int | None:
        return self.solver.order

    @property
    def linear(self) -> bool:
        return self.solver.linear

    @property
    def depends_on_batch(self) -> bool:
        return self.solver.depends_on_batch

    @property
    def spacing(self) -> Spacing:
        return self.solver.spacing

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        self.solver.check(ProbabilityFlow(problem.denoiser), grid, dtype)


def check_falling(grid: Grid) -> None:
    """Raise ValueError for a grid that leads from data to noise."""
    if grid.end > grid.start:
        raise ValueError(f"{grid!r} rises: noise is added on the way to the data alone")
