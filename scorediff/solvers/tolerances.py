"""What tolerances and budgets may be."""

import numpy as np
import torch

__all__ = ["check_budget", "check_tolerance"]


def check_tolerance(rtol: float, atol: float, dtype: torch.dtype) -> None:
    """Raise ValueError for tolerances that are negative or under what a state of `dtype` can hold."""
    least = 10 * torch.finfo(dtype).eps
    for name, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < np.inf:
            raise ValueError(f"{name} = {value!r}: tolerances must be finite numbers and not negative")
    if not rtol + atol:
        raise ValueError("rtol = atol = 0: no step is that good, allow some error")
    if max(rtol, atol) < least:
        raise ValueError(
            f"rtol = {rtol:.3g}, atol = {atol:.3g} are under what {dtype} can hold ({least:.2g}): "
            "loosen one, or use float64"
        )


def check_budget(budget: int, first: int) -> None:
    """Raise ValueError for a budget that is not a whole number, or too small for the `first` step."""
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < first:
        raise ValueError(f"max_evaluations = {budget!r}: a whole number from {first} on, which the first step takes")
