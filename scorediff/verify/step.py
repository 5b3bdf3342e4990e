"""The order of one step: how far each step leads away from the exact flow through the state that it starts from."""

import math
from dataclasses import dataclass

from torch import Tensor

from scorediff.problems import ProbabilityFlow
from scorediff.schedules import Schedule
from scorediff.solvers import Solver, solve
from scorediff.solvers.probe import Unmeasurable
from scorediff.spacings import Grid, Spacing, UniformLogSNR
from scorediff.verify.runs import GAUSSIAN, PlainFunction, as_solver, checked_schedule, ends, stochastic, uneven

__all__ = ["StepOrder", "step_order"]

_STEPS = (48, 96)
_SAMPLES = 16
_START = 4  # the first quarter of the steps is that of the start
_LOSS = 0.4
_ROUNDING = 1e-14  # of one step, in units of its state


@dataclass(frozen=True)
class StepOrder:
    """What `step_order` found.

    `solver`: its name. `declared`: the order of the whole run, which a step has as well unless it starts from a
    corrected state; None where none is declared. `even` and `uneven`: the order of one step on such steps, infinite
    where a step is exact to rounding.
    """

    solver: str
    declared: float | None
    even: float
    uneven: float

    @property
    def ok(self) -> bool:
        """Whether uneven steps lose nothing to the lower of the order on even steps and the declared one, if there is
        one that is finite.
        """
        wanted = min(self.even, math.inf if self.declared is None else self.declared)
        return math.isinf(wanted) or self.uneven >= wanted - _LOSS

    def __str__(self) -> str:
        verdict = "OK" if self.ok else "it loses order where neighbouring steps differ (a wrong ratio of steps?)"
        found = f"{self.even:.2f} on even steps, {self.uneven:.2f} on uneven ones"
        return f"{self.solver}: order of one step {found}: {verdict}"


def step_order(
    solver: Solver | str | PlainFunction, *, declared: float | None = None, schedule: Schedule | str | None = None
) -> StepOrder:
    """Measure the order of one step of `solver`, on even steps in the log-SNR and on steps of 1 : 6 : 2 : 8 by turns.

    `R_n = rms(x_(n+1) - Phi(t_n, t_(n+1)) x_n)`, Phi the flow of a Gaussian in closed form, from the solver's own
    state; the order is that at which the largest `R_n` past the first quarter of the run falls from 48 to 96 steps,
    less 1. An order measured at the end of a run cannot see a ratio of neighbouring steps that is upside down:
    `h_(n-1)^2 / 2 D'` where `h_n^2 / 2 D'` is meant makes good the term of the step before, and the sum telescopes on
    every grid. One step can. A method whose step starts from a corrected state is of one order less than it declares on
    both kinds of steps, so these are compared with one another. Of a function `(denoise, x_T, grid) -> x_0` the states
    between are the ends of shorter runs.

    `declared`: the order, in place of what the class says. `schedule`: VP-linear if left out, over log-SNRs from -2 to
    2. Raises TypeError or ValueError for what is not a solver of the flow on a fixed grid.

    >>> print(step_order("dpm++2m"))  # doctest: +ELLIPSIS
    dpm++2m: order of one step 2... on even steps, 2... on uneven ones: OK
    """
    solver, one = as_solver(solver, declared), checked_schedule(schedule)
    if solver.adaptive or stochastic(solver) or ProbabilityFlow not in solver.solves:
        raise Unmeasurable(f"{solver!r}: one step has an order where it follows the flow on a grid that is given")
    even, other = (_order(solver, one, spacing) for spacing in (UniformLogSNR(), uneven(ease=1)))
    return StepOrder(solver.name, declared if declared is not None else solver.order, even, other)


def _order(solver: Solver, schedule: Schedule, spacing: Spacing) -> float:
    coarse, fine = (_largest(solver, schedule, spacing, n) for n in _STEPS)
    return math.log(coarse / fine) / math.log(_STEPS[1] / _STEPS[0]) - 1 if coarse and fine else math.inf


def _largest(solver: Solver, schedule: Schedule, spacing: Spacing, steps: int) -> float:
    """The largest rms of a step's error; 0 where all are at rounding."""
    t_start, t_end = ends(schedule)
    grid = spacing(schedule, steps, t_start=t_start, t_end=t_end)
    x = GAUSSIAN.at(schedule, t_start).sample(_SAMPLES)
    states, found = _states(solver, schedule, grid, x), 0.0
    for n in range(steps // _START, steps):
        exact = GAUSSIAN.flow(schedule, grid.times[n], grid.times[n + 1], states[n])
        error = float((states[n + 1] - exact).square().mean().sqrt())
        found = max(found, error if error > _ROUNDING * float(1 + exact.square().mean().sqrt()) else 0.0)
    return found


def _states(solver: Solver, schedule: Schedule, grid: Grid, x: Tensor) -> Tensor:
    """The states at all nodes, of shape (steps + 1, B, ...)."""
    flow = ProbabilityFlow(GAUSSIAN.denoiser(schedule))
    states = solve(flow, x, solver, grid=grid, save=True, progress=False).check().states
    assert states is not None
    # a function shows its end alone: for the states before it, the runs that stop there
    for n in range(grid.steps // _START, grid.steps) if states[1:-1].isnan().any() else ():
        states[n] = solve(flow, x, solver, grid=grid[: n + 1], progress=False).check().x
    return states
