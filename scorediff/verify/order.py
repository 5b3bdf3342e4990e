"""The measured order of a solver: of its trajectories on the flow, of its distribution on the reverse SDE."""

from collections.abc import Callable, Sequence

from scorediff.denoiser import DenoiserBase, as_denoiser
from scorediff.guidance import warn_of_kinks
from scorediff.schedules import Schedule
from scorediff.solvers import Solver
from scorediff.solvers.probe import eta_for
from scorediff.spacings import Grid, Spacing
from scorediff.targets import Target
from scorediff.verify.ladder import Ladder, measured
from scorediff.verify.measured import OrderReport
from scorediff.verify.runs import (
    GAUSSIAN,
    LINE,
    MIXTURE,
    SCHEDULES,
    PlainFunction,
    as_solver,
    checked_grid,
    checked_schedule,
    checked_steps,
    checked_target,
    ends,
    stochastic,
    uneven,
)

__all__ = ["order"]


def order(
    solver: Solver | str | PlainFunction,
    *,
    target: Target | None = None,
    schedule: Schedule | str | None = None,
    grid: Grid | Sequence[float] | Spacing | str | None = None,
    eta: float | None = None,
    declared: float | None = None,
    steps: Sequence[int] | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    seed: int = 0,
    guidance: Callable[[DenoiserBase], DenoiserBase] | None = None,
) -> OrderReport:
    """Measure the order of a solver, or of a function `(denoise, x_T, grid) -> x_0`, over a ladder of refinements.

    With `eta = 0` (the default where the solver solves the flow) the error is that of the state at t_end, the root
    mean square over samples and entries, against the true trajectory: in closed form for a Gaussian, converged by two
    routes otherwise. With `eta > 0`, and for a stochastic solver of the flow, it is that of the distribution, started
    from the exact marginal, without Monte Carlo: Wasserstein-2 on a Gaussian; on a mixture in one dimension, the
    characteristic function.

    Without `target`, `schedule` and `grid`: on a Gaussian of eight eigenvalues and on a mixture, on VP and on rectified
    flow, over log-SNRs from -2 to 2; and once on the steps of `uneven`, 1 : 6 : 2 : 8 by turns. `grid` is the rule that
    spaces the `steps` of the ladder (the solver's own by default), or a `Grid` whose every step is refined. An adaptive
    solver runs at falling tolerances, and its order is that in the mean number of its steps. A function gets
    `denoise(t, x) -> (data, noise)` and the `Grid`; its order is what you declare. `guidance` makes another denoiser of
    each target's, such as `lambda model: Autoguidance(model, weak, 2.0)`: the order is then that of trajectories of the
    guided equation, and there is a warning where that is not smooth.

    The report agrees unless an order is more than 0.15 below the declared one on any target, or more than 0.35 above on
    all; from order 5 on, unless its interval lies below. Raises TypeError or ValueError for what cannot be run.

    >>> print(order(DDIM()))  # doctest: +ELLIPSIS
    ddim: order measured ... (... to ...), declared 1: OK
    """
    solver, rule = as_solver(solver, declared), checked_grid(grid, t_start, t_end)
    eta = eta_for(solver, eta)
    if solver.adaptive and not (steps is None and rule is None):
        raise TypeError(f"{solver!r} chooses its own steps, at falling tolerances: drop steps= and grid=")
    ladder = None if steps is None else checked_steps(steps)
    weak = bool(eta) or stochastic(solver)
    if weak and guidance is not None:
        raise ValueError(
            f"the distribution of {solver.name} on a guided equation is not known: orders are of the flow, at eta = 0"
        )
    wanted = declared if declared is not None else solver.weak_order if weak else solver.order
    targets = [GAUSSIAN, LINE if weak else MIXTURE] if target is None else [checked_target(target)]
    # an adaptive solver's steps follow the solution, whatever the schedule: one is enough
    schedules = SCHEDULES[: 1 if solver.adaptive else None] if schedule is None else (checked_schedule(schedule),)
    problems = [(one, each, rule) for each in schedules for one in targets]
    if target is None and schedule is None and rule is None and not solver.adaptive:
        problems.append((GAUSSIAN, SCHEDULES[0], uneven(wanted)))
    if guidance is not None:
        guided = as_denoiser(guidance(targets[0].denoiser(schedules[0])), "verify.order")
        warn_of_kinks(guided, *_span(problems[0][2], schedules[0], t_start, t_end))
    measurements = [
        measured(Ladder(solver, one, each, eta, nodes, _span(nodes, each, t_start, t_end), seed, guidance), ladder)
        for one, each, nodes in problems
    ]
    return OrderReport(solver.name, "weak order" if weak else "order", wanted, solver.nfe, tuple(measurements))


def _span(
    nodes: Grid | Spacing | None, schedule: Schedule, t_start: float | None, t_end: float | None
) -> tuple[float, float]:
    if isinstance(nodes, Grid):
        return nodes.start, nodes.end
    first, last = ends(schedule)
    return (first if t_start is None else t_start, last if t_end is None else t_end)
