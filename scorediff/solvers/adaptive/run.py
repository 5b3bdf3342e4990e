"""The loop of every adaptive solver: propose, try, accept or reject, move, leave behind."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from scorediff.solvers.adaptive.controller import Controller
from scorediff.solvers.adaptive.stepping import Proposal, Stepping
from scorediff.solvers.base import AdaptiveSolver, Step

__all__ = ["AdaptiveRun", "Trial", "check_controller"]


class Trial(NamedTuple):
    """What came of trying a step, arrays with a number for each sample that tried: its `error` in units of the
    tolerance, the same as it will be at the end of the run, `local`, by what `factor` the next step may be longer, and
    what the method itself wants to know of it.
    """

    error: np.ndarray
    local: np.ndarray
    factor: np.ndarray
    state: Any


class AdaptiveRun(ABC):
    """One run of an adaptive method: a subclass tries steps and moves samples, and begins anew after discontinuities.

    `x`: the whole batch as it stands. `calibration`: what the sum of the local errors is multiplied with. `cost`: the
    evaluations of a step. `halve`: a step beyond this fraction of what is left of a segment takes half of it.
    """

    x: Tensor
    cost: int
    halve: float = 0.5

    def __init__(self, solver: AdaptiveSolver, stepping: Stepping, calibration: float) -> None:
        self.stepping, self.max_evaluations, self.calibration = stepping, solver.max_evaluations, calibration

    @abstractmethod
    def attempt(self, step: Proposal) -> Trial:
        """Try a step."""

    @abstractmethod
    def move(self, step: Proposal, good: np.ndarray, trial: Trial) -> Iterator[Step]:
        """Move those samples whose step was `good`; yields the states at save times that were passed, if it meets those
        on the way.
        """

    @abstractmethod
    def restart(self, rows: np.ndarray) -> None:
        """Evaluate anew where some samples stand, on a discontinuity."""

    def prepare(self, rows: np.ndarray) -> None:
        """Do what a step of some samples needs before it is proposed."""
        return

    def running(self) -> np.ndarray:
        """The samples under way that can pay for a step."""
        return self.stepping.running(self.cost, self.max_evaluations)

    def steps(self) -> Iterator[Step]:
        """The run: a `Step` at its start, and after every trial."""
        stepping, rows = self.stepping, self.running()
        yield stepping.step(self.x, self.calibration)
        while rows.size:
            self.prepare(rows)
            step = stepping.propose(rows, self.halve)
            trial = self.attempt(step)
            good = stepping.accept_or_reject(step, trial.error, trial.factor, trial.local, self.cost)
            yield from self.move(step, good, trial)
            jumped = stepping.jumped(rows[good], self.max_evaluations)
            if jumped.size:
                self.restart(jumped)
            rows = self.running()
            yield stepping.step(self.x, self.calibration)


def check_controller(solver: Any) -> None:
    """Raise TypeError where the `controller` of a solver is not one."""
    if not isinstance(solver.controller, Controller):
        raise TypeError(f"controller = {solver.controller!r} of {type(solver).__name__}: give an IController()")
