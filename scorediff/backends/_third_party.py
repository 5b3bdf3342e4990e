"""What every third-party back end needs: the times of a run for its values of the integration variable, checked
options, a budget.
"""

import bisect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from scorediff._core.registry import nearest
from scorediff.coordinates import Field

__all__ = ["BudgetExhausted", "RunTimes", "check_method", "column", "working"]

_ULPS = 2


class BudgetExhausted(Exception):
    """The next evaluation would be one more than allowed."""


class RunTimes:
    """The times of a run by the integration variable `s(t)` of `field`: its `values` at the nodes, the time of a value.

    A back end hands over values of `dtype`. Within two units in the last place of the value at a node, the time is that
    node's, exactly; so is that of a value beyond an end by no more than two units in the last place of the larger end.
    """

    def __init__(self, field: Field, times: Sequence[float], dtype: torch.dtype) -> None:
        self._field, self._eps = field, _ULPS * torch.finfo(dtype).eps
        self.values = [float(field.value(t)) for t in times]
        self._nodes = sorted(zip(self.values, times, strict=True))
        self._keys = [s for s, _ in self._nodes]

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value of the run."""
        return self._keys[0], self._keys[-1]

    def at(self, s: float) -> float:
        """The time at the value `s`. Raises ValueError for one outside the run."""
        i = bisect.bisect_left(self._keys, s)
        for node, t in self._nodes[max(i - 1, 0) : i + 1]:
            if abs(s - node) <= self._eps * abs(node):
                return t
        lo, hi = self.ends
        if lo <= s <= hi:
            return float(self._field.time(s))
        slack = self._eps * max(abs(lo), abs(hi))
        if not lo - slack <= s <= hi + slack:
            raise ValueError(
                f"the back end evaluated the drift at s = {s:.17g}, outside the run's [{lo:.17g}, {hi:.17g}]"
            )
        return self._nodes[0 if s < lo else -1][1]


def working(x: Tensor) -> Tensor:
    """The state as a back end carries it: float32 for the half precisions, which cannot hold its increments."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_method(solver: Any, method: str, known: Collection[str], elsewhere: str = "") -> None:
    """Raise ValueError for a method that is not among the `known`; `elsewhere` is the way out."""
    if method not in known:
        way_out = elsewhere or f"{nearest(str(method), known)} known: {', '.join(known)}"
        raise ValueError(f"{type(solver).__name__} has no method {method!r}{way_out}")


def column(values: Tensor, like: Tensor) -> Tensor:
    """`values` of shape (B,) as (B, 1, ...), to meet a state."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
