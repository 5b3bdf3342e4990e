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


def _of_each_class(*places):
    by_class = {}
    for solver in OURS:
        by_class.setdefault(type(solver), []).append(solver)
    return [s for solvers in by_class.values() for s in {s.name: s for s in (solvers[p] for p in places)}.values()]


TENFOLD = os.environ.get("HYPOTHESIS_PROFILE") == "slow"
FIRST = _of_each_class(0)
#: The first and the last variant of each class: the others differ from them in a number.
MAIN = _of_each_class(0, -1)


def main_first(solvers, main=MAIN, *, guests=False):
    """The rest is left to the slow run; so are guests, which take their time, unless told otherwise.

    With ten times the examples one variant of each of our classes is enough.
    """
    main, guests = (FIRST, False) if TENFOLD else (main, guests)
    now = [s for s in solvers if s in main or (guests and s not in OURS)]
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
