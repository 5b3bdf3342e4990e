"""The coefficients of a sampler, by which two samplers are one or not."""

from collections.abc import Sequence

from scorediff.predictions import DataPrediction, Prediction
from scorediff.schedules import Schedule
from scorediff.solvers import Solver
from scorediff.solvers.probe import Weights, eta_for, pose
from scorediff.solvers.solve import resolve
from scorediff.solvers.unrolled import Coefficients, Outputs, unrolled
from scorediff.spacings import Grid, Spacing
from scorediff.verify.runs import checked_schedule, grid_of

__all__ = ["Coefficients", "coefficients"]


def coefficients(
    solver: Solver | str,
    grid: Grid | Sequence[float] | Spacing | str | None = None,
    *,
    steps: int | None = None,
    schedule: Schedule | str | None = None,
    eta: float | None = None,
    prediction: Prediction | None = None,
) -> Coefficients:
    """The unrolled coefficients of a fixed-grid sampler, for networks that predict the data, or another `prediction`.

    `grid` is a `Grid` or its times, or the rule that makes one of `steps` steps. `eta` is 0 where the solver solves the
    flow, else 1. Two samplers whose coefficients agree are one sampler, whatever the network.

    Raises ValueError where the solver is adaptive, or not linear.

    >>> import numpy as np
    >>> a, b = (coefficients(name, steps=5) for name in ("ddim", "dpm++1"))
    >>> a.distance(b) < 1e-14
    True
    """
    solver, schedule, prediction = resolve(solver), checked_schedule(schedule), prediction or DataPrediction()
    if not isinstance(prediction, Prediction):
        raise TypeError(f"prediction = {prediction!r}: give a Prediction such as NoisePrediction()")
    eta = eta_for(solver, eta)
    stand_in = Outputs(schedule, prediction, Weights(1, 1), 1)
    nodes = grid_of(solver, schedule, steps, grid, None, None, pose(stand_in, eta))
    return unrolled(solver, nodes, schedule, eta, prediction).coefficients
