"""What a network is told besides the time and the state."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["Conditions"]


class Conditions(dict[str, Any]):
    """Conditions by name; those in `per_sample` have a row for each sample, the others are shared.

    Which is which is said once, of a whole batch: a part of it may be as long as something shared is.
    """

    per_sample: frozenset[str]

    def __init__(self, cond: Mapping[str, Any], per_sample: frozenset[str]) -> None:
        super().__init__(cond)
        self.per_sample = per_sample

    @classmethod
    def of(cls, cond: Mapping[str, Any] | None, batch: int) -> "Conditions":
        """`cond` for a batch: tensors of leading dimension `batch` are per sample. As it is where that is said."""
        if isinstance(cond, cls):
            return cond
        cond = cond or {}
        return cls(cond, frozenset(k for k, v in cond.items() if isinstance(v, Tensor) and v.shape[:1] == (batch,)))

    def of_rows(self, rows: Any) -> "Conditions":
        """The conditions of some samples, given by a slice, an array or a tensor of indices."""
        return Conditions({k: v[rows] if k in self.per_sample else v for k, v in self.items()}, self.per_sample)

    def without(self, prefix: str) -> "Conditions":
        """Those whose names do not begin so."""
        return Conditions({k: v for k, v in self.items() if not k.startswith(prefix)}, self.per_sample)

    def beginning(self, prefix: str) -> "Conditions":
        """Those whose names begin so, without it."""
        n = len(prefix)
        names = frozenset(k[n:] for k in self.per_sample if k.startswith(prefix))
        return Conditions({k[n:]: v for k, v in self.items() if k.startswith(prefix)}, names)
