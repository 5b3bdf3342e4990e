"""How long the next step may be, from the error of the last one: one controller for every adaptive solver."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

#: An error below this, in units of the tolerance, is as good as this.
TINY = 1e-10

__all__ = ["TINY", "Controller", "check_budget", "check_tolerance"]


def check_tolerance(solver: Any, dtype: torch.dtype) -> None:
    """Raise ValueError for tolerances that are negative or under what a state of `dtype` can hold, TypeError for what
    is no controller.
    """
    controller = getattr(solver, "controller", None)
    if controller is not None and not isinstance(controller, Controller):
        raise TypeError(f"controller = {controller!r} of {type(solver).__name__}: give a Controller()")
    least = 10 * torch.finfo(dtype).eps
    for name in ("rtol", "atol"):
        value = getattr(solver, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < np.inf:
            raise ValueError(f"{name} = {value!r}: tolerances must be finite numbers and not negative")
    if not solver.rtol + solver.atol:
        raise ValueError("rtol = atol = 0: no step is that good, allow some error")
    if max(solver.rtol, solver.atol) < least:
        raise ValueError(
            f"rtol = {solver.rtol:.3g}, atol = {solver.atol:.3g} are under what {dtype} can hold ({least:.2g}): "
            "loosen one, or use float64"
        )


def check_budget(solver: Any, first: int) -> None:
    """Raise ValueError for a budget that is no whole number, or too small for the `first` step."""
    budget = solver.max_evaluations
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < first:
        raise ValueError(f"max_evaluations = {budget!r}: a whole number from {first} on, which the first step takes")


@dataclass(frozen=True)
class Controller:
    """`h_1 = h_0 safety e_0^(-integral / q) (e_-1 / e_0)^(proportional / q)`, q the order of the local error.

    Errors `e` are in units of the tolerance. The plain rule has integral = 1, proportional = 0; a smoother one (PI) 0.3
    and 0.4 (Gustafsson 1991). No step is longer than `grow` or shorter than `shrink` times the last one; the one after
    a rejection is not longer; while a run has made fewer than `young` steps, `grow_young` bounds it.
    Raises ValueError for limits that leave no room.
    """

    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 5.0
    integral: float = 1.0
    proportional: float = 0.0
    young: int = 2
    grow_young: float = 10.0

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("safety", 0, 1),
            ("shrink", 0, 1),
            ("grow", 1, np.inf),
            ("grow_young", 1, np.inf),
            ("integral", 0, 10),
        ):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and lowest < value <= highest):
                raise ValueError(f"{name} = {value!r} of the controller: it lies in ({lowest}, {highest}]")
        if not isinstance(self.young, int):
            raise ValueError(f"young = {self.young!r} of the controller: a number of steps")
        if not (isinstance(self.proportional, (int, float)) and 0 <= self.proportional < np.inf):
            raise ValueError(f"proportional = {self.proportional!r} of the controller: 0 or more")

    def promise(self, error: np.ndarray, order: Any, before: np.ndarray) -> np.ndarray:
        """The factor by which the step may change where the local error is of `order`, limits apart."""
        error = np.maximum(error, TINY)
        with np.errstate(invalid="ignore"):
            found = self.safety * error ** (-self.integral / order)
            if self.proportional:
                found = found * (before / error) ** (self.proportional / order)
        return np.asarray(found)

    def within(self, factor: np.ndarray, passed: np.ndarray, after: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """That factor within the limits, for steps that `passed`, came `after` a rejection, or are among the first."""
        most = np.where(steps < self.young, max(self.grow, self.grow_young), self.grow)
        most = np.where(passed & ~after, most, np.where(passed, 1.0, self.safety))
        return np.asarray(np.clip(np.nan_to_num(factor, nan=self.shrink), self.shrink, most))
