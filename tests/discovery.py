"""Every concrete class, found by walking the package: to exist is to be tested."""

import inspect
import os

import hypothesis
import pytest
from engines import stand_ins
from orders import recorded

import scorediff as sd
from scorediff._core import registry
from scorediff.backends import TorchDiffEqAdamsBashforth, TorchDiffEqAdamsMoulton
from scorediff.lab import metrics
from scorediff.targets import Target


def _of_the_package(base):
    return [one for one in registry.names(base).values() if type(one).__module__.startswith("scorediff.")]


SCHEDULES = _of_the_package(sd.schedules.Schedule)
#: Each once, whatever it is called elsewhere.
PREDICTIONS = list(dict.fromkeys(_of_the_package(sd.predictions.Prediction)))
COORDINATES = _of_the_package(sd.coordinates.Coordinates)
SPACINGS = _of_the_package(sd.spacings.Spacing)
TERMINALS = _of_the_package(sd.solvers.Terminal)
CONTROLLERS = _of_the_package(sd.solvers.Controller)
LINEAR_PARTS = _of_the_package(sd.linear_parts.LinearPart)
TARGETS = _of_the_package(Target)
SOLVERS = _of_the_package(sd.Solver)
OURS = [s for s in SOLVERS if not type(s).__module__.startswith("scorediff.backends")]
GUIDANCES = [cls for cls in registry.concrete(sd.guidance.Guidance) if cls.__module__.startswith("scorediff.")]
#: Functions of two sets of features that return one estimate, or a few.
METRICS = [
    function
    for name in metrics.__all__
    if inspect.isfunction(function := getattr(metrics, name))
    and list(inspect.signature(function).parameters)[:2] == ["real", "made"]
]
#: Solvers that nobody has measured yet.
UNRECORDED = [s for s in SOLVERS if s.name not in recorded()]
BY_NIGHT = os.environ.get("HYPOTHESIS_PROFILE") == "night"


def by_day(values, now):
    """`values` as parameters, those that are not `now` for the night."""
    return [value if value in now else _nightly(value) for value in values]


def _nightly(value):
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.nightly)


def engines_by_day(solvers):
    """By day, one for each engine and each branch in it; by night all."""
    return by_day(solvers, stand_ins(solvers))


def examples(count):
    """So many by day, where they are dear; 20 by night, where the others are 100."""
    return hypothesis.settings(max_examples=20 if BY_NIGHT else count)


def eta_of(solver):
    return 0.0 if sd.ProbabilityFlow in solver.solves else 1.0


def takes_even_steps_alone(solver):
    """Whether it takes no other steps than even ones of its own time."""
    return isinstance(solver, (TorchDiffEqAdamsBashforth, TorchDiffEqAdamsMoulton))


def nodes_for(solver, schedule, log_snr):
    """The nodes at these log-SNRs, or as many even ones for a solver that takes no others."""
    times = schedule.time_at(log_snr)
    if not takes_even_steps_alone(solver):
        return sd.Grid(times)
    return solver.spacing(schedule, len(times) - 1, t_start=float(times[0]), t_end=float(times[-1]))


def label(value):
    """A test id: the same in every process, unlike a repr that holds an address."""
    return (
        value.name
        if isinstance(value, sd.Solver)
        else type(value).__name__
        if hasattr(value, "__dataclass_fields__")
        else None
    )


def within(schedule, log_snr):
    """Log-SNRs drawn from [-4, 4], squeezed into what `schedule` reaches of it."""
    least = max(float(schedule.log_snr(schedule.t_start)), -4.0)
    most = min(float(schedule.log_snr(schedule.t_end)), 4.0)
    return least + (most - least) * (log_snr + 4) / 8
