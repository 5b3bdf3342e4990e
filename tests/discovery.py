"""Every concrete class, found by walking the package: to exist is to be tested."""

import os

import pytest

import scorediff as sd
from scorediff import registry

SCHEDULES = list(registry.names(sd.Schedule).values())
PREDICTIONS = list(registry.names(sd.Prediction).values())
COORDINATES = list(registry.names(sd.Coordinates).values())
SPACINGS = list(registry.names(sd.Spacing).values())
TERMINALS = list(registry.names(sd.Terminal).values())
SOLVERS = [s for s in registry.names(sd.Solver).values() if type(s).__module__.startswith("scorediff.")]
OURS = [s for s in SOLVERS if not type(s).__module__.startswith("scorediff.backends")]


def _first_of_each_class():
    by_class = {}
    for solver in OURS:
        by_class.setdefault(type(solver), solver)
    return list(by_class.values())


MANY = os.environ.get("HYPOTHESIS_PROFILE") == "slow"
#: The first variant of each class: the others differ from it in a number.
FIRST = _first_of_each_class()


def main_first(solvers, *, guests=False):
    """The rest is left to the slow run; so are guests, which take their time, unless told otherwise.

    With many examples guests are left out of what runs now.
    """
    now = [s for s in solvers if s in FIRST or (guests and not MANY and s not in OURS)]
    return [s if s in now else pytest.param(s, marks=pytest.mark.slow) for s in solvers]


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
