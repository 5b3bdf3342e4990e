"""What solvers made of solvers ask of them."""

from scorediff.problems import ProbabilityFlow
from scorediff.solvers.base import Solver

__all__ = ["check_step"]


def check_step(outer: Solver, inner: Solver, *, one_step: bool) -> None:
    """Raise TypeError or ValueError where `inner` cannot take the steps of `outer`."""
    name = type(outer).__name__
    if not isinstance(inner, Solver):
        raise TypeError(f"{name} is made of a solver, such as {name}(Krogstad()), got {inner!r}")
    if ProbabilityFlow not in inner.solves or inner.adaptive:
        raise ValueError(f"{name} takes steps of the flow on a fixed grid, which {inner!r} does not")
    if inner.order is None:
        raise ValueError(f"{inner!r} adds noise of its own, or declares no order: give {name} a step of the flow alone")
    if one_step and not inner.one_step:
        raise ValueError(
            f"{inner!r} remembers the steps before, and {name} leads away from them: give a one-step method, such as "
            "RES(k=3)"
        )
