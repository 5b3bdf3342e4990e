"""Every concrete class, found by walking the package: to exist is to be tested."""

import scorediff as sd
from scorediff import registry

SCHEDULES = list(registry.names(sd.Schedule).values())
PREDICTIONS = list(registry.names(sd.Prediction).values())
COORDINATES = list(registry.names(sd.Coordinates).values())
SPACINGS = list(registry.names(sd.Spacing).values())
TERMINALS = list(registry.names(sd.Terminal).values())
SOLVERS = [s for s in registry.names(sd.Solver).values() if type(s).__module__.startswith("scorediff.")]
OURS = [s for s in SOLVERS if not type(s).__module__.startswith("scorediff.backends")]


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
