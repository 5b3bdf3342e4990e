"""The closed-loop gain of a sampler: what an error of the network becomes in the sample.

Unrolled, a sampler whose network predicts the data makes of its outputs m

    x = L m,   x_0 = w . m,

with x the states at which the network is asked. On a Gaussian of variance v the output is `m = J x + e`, e its errors
and `J_k = alpha_k v / (alpha_k^2 v + sigma_k^2)`, so that

    x_0 = g . e,   g = w J (1 - L J)^-1 L + w.

A step that takes one output with a large weight and another with a large negative one does no harm while both are
exact. The gain is what it does otherwise, also round the loop: an error in x comes back in every later output.
"""

import json
import warnings
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from scorediff._core.warn import warn
from scorediff.predictions import DataPrediction
from scorediff.schedules import Schedule
from scorediff.solvers.base import Solver
from scorediff.solvers.plan import Plan
from scorediff.solvers.probe import eta_for
from scorediff.solvers.unrolled import unrolled
from scorediff.spacings import Grid

__all__ = ["LIMIT", "Gain", "GainWarning", "gain", "warn_of_gain"]

#: A run whose gain for errors of the noise is above this is warned of.
LIMIT = 10.0

_VARIANCES = (0.0, 1e-4, 0.01, 0.1, 0.5, 1.0, 4.0)
#: What was found, by class, which it does not keep alive.
_KEPT: WeakKeyDictionary[type, dict[Any, "Gain | None"]] = WeakKeyDictionary()
_MOST_KEPT = 256
_MOST_STEPS = 64  # gains are large at few steps; to look through more costs more than it tells


class Gain(NamedTuple):
    """The rms error of a sample for independent errors of rms 1 in every output of the network, at worst over Gaussian
    data of variances from 0 to 4: `data` for errors of the predicted data; `noise` for errors of the predicted noise,
    which weigh `sigma / alpha` as much where that is below 1, and as much where it is above.
    """

    data: float
    noise: float


class GainWarning(UserWarning):
    """A run makes errors of its network many times as large."""


def gain(solver: Solver, schedule: Schedule, grid: Grid, eta: float | None = None) -> Gain | None:
    """The gain of `solver` on `grid` of `schedule`, on the reverse SDE where `eta` is not 0; by default it is 0 for a
    solver of the flow and 1 for another.

    None for a solver that is not a linear map of the network's outputs: one that is adaptive, or clips or iterates.
    """
    kept = _KEPT.setdefault(type(solver), {})
    key = (json.dumps(solver.to_dict(), sort_keys=True, default=repr), schedule, grid, eta)
    if key not in kept:
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[key] = _gain(solver, schedule, grid, eta)
    return kept[key]


def warn_of_gain(plan: Plan) -> None:
    """Warn of a run on a fixed grid that makes errors of its network many times as large."""
    solver, grid, eta = plan.solver, plan.grid, plan.problem.eta
    if solver.adaptive or grid.steps > _MOST_STEPS or callable(eta):
        return
    schedule = plan.problem.schedule
    found = gain(solver, schedule, grid, float(eta))
    if found is not None and not found.noise <= LIMIT:
        warn(
            f"{solver.name} on {'this step' if grid.steps == 1 else f'these {grid.steps} steps'} of "
            f"{type(schedule).__name__} makes errors of the network {found.noise:.2g} times as large: take more steps, "
            "another spacing=, or another solver, such as dpm++2m",
            GainWarning,
        )


def _gain(solver: Solver, schedule: Schedule, grid: Grid, eta: float | None) -> Gain | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a third party may warn of what only this probe meets
            found = unrolled(solver, grid, schedule, eta_for(solver, eta), DataPrediction()).coefficients
    except Exception:  # what has no coefficients, or fails here: the run itself says it better
        return None
    with np.errstate(all="ignore"):  # sigma / alpha is infinite where alpha is 0
        alpha, sigma = (np.asarray(fn(found.times)) for fn in (schedule.alpha, schedule.sigma))
        loop, result = found.outputs[:-1], found.outputs[-1]
        weakened = np.minimum(1.0, sigma / alpha)
        gains = [_errors(loop, result, alpha * v / (alpha**2 * v + sigma**2)) for v in _VARIANCES]
    return Gain(*(float(max(np.linalg.norm(g * size) for g in gains)) for size in (1.0, weakened)))


def _errors(loop: np.ndarray, result: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """What an error of each output becomes in the result, shape (K,)."""
    # g = w J (1 - L J)^-1 L + w
    there = np.linalg.solve((np.eye(len(slope)) - loop * slope).T, result * slope)
    return np.asarray(there @ loop + result)
