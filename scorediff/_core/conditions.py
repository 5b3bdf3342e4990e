"""What a network is given besides the time and the state."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor

from scorediff._core.reprs import brief

__all__ = ["Conditions", "Shared", "note_call", "shared"]


@final
@dataclass(frozen=True, eq=False)
class Shared:
    """A condition that is the same for all samples: `value`, which is what the network is given."""

    value: Any


def shared(value: Any) -> Shared:
    """A condition that is the same for all samples, as in `cond={"tokens": shared(tokens)}`.

    Without this a tensor has a row for each sample, follows its samples into parts of a batch, and must have as many
    rows as there are samples. The network is given `value` itself, whole, whatever the batch; what is not a tensor is
    shared in any case, a list and a numpy array too: make a tensor of one that has a row for each sample.

    >>> import torch
    >>> net = lambda x, t, centre: (x - centre) * t[:, None]
    >>> model = Denoiser(net, VPLinear(), NoisePrediction())
    >>> model(0.5, torch.ones(4, 2), centre=shared(torch.tensor([1.0, 0.0]))).output[0].tolist()
    [0.0, 0.5]
    """
    return value if isinstance(value, Shared) else Shared(value)


class Conditions(dict[str, Any]):
    """The conditions `cond` by name; those in `per_sample` have a row for each sample, the others are shared.

    Which is which is said once, of a whole batch: a part of it may be as long as something shared is.
    """

    per_sample: frozenset[str]

    def __init__(self, cond: Mapping[str, Any], per_sample: frozenset[str]) -> None:
        super().__init__(cond)
        self.per_sample = per_sample

    @classmethod
    def of(cls, cond: Mapping[str, Any] | None, batch: int) -> "Conditions":
        """`cond` for `batch` samples: tensors are per sample, what is `shared` is unwrapped. As it is where that has
        been done.

        Raises ValueError for a tensor of another number of rows.
        """
        if isinstance(cond, cls):
            return cond
        if not cond:
            return cls({}, frozenset())
        known = _SHARED.get()
        tensors = {
            name: value
            for name, value in cond.items()
            if isinstance(value, Tensor) and not any(value is one for one in known)
        }
        for name, value in tensors.items():
            if value.shape[:1] != (batch,):
                raise ValueError(
                    f"cond[{name!r}] is a tensor of shape {tuple(value.shape)} for {batch} samples: give a row for "
                    "each, or sd.shared(value), which is the same for all"
                )
        values = {name: value.value if isinstance(value, Shared) else value for name, value in cond.items()}
        return cls(values, frozenset(tensors))

    @contextmanager
    def unwrapped(self) -> Iterator[None]:
        """While it lasts, tensors that are shared here are so for every denoiser that they are handed on to."""
        token = _SHARED.set((*_SHARED.get(), *(v for k, v in self.items() if k not in self.per_sample)))
        try:
            yield
        finally:
            _SHARED.reset(token)

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


def note_call(error: Exception, what: str, x: Tensor, t: Any, number: Any, cond: Mapping[str, Any]) -> None:
    """Add to an error from inside a function (`what` it is) what that was called with, the innermost first: the state
    `x`, the time `t`, the number that stood for it, and the conditions.
    """
    if any(note.startswith(_CALLED) for note in vars(error).get("__notes__", ())):
        return
    given = "" if np.all(np.equal(number, t)) else f", given as {_shown(number)}"
    said = [f"a state of {_shown(x)}", f"t = {_shown(t)}{given}"]
    said += [f"{name} = {_shown(value)}" for name, value in cond.items()] or ["no conditions"]
    error.add_note(f"{_CALLED} {what} with {'; '.join(said)}")


def _shown(value: Any) -> str:
    """A tensor by its shape, dtype and device, times by their ends, anything else in brief."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)}, {value.dtype} on {value.device}"
    if isinstance(value, np.ndarray):
        ends = f", {value.min():.6g} .. {value.max():.6g}" if value.size and value.dtype.kind in "fiu" else ""
        return f"array {value.shape}{ends}"
    words = f"{value:.6g}" if isinstance(value, float) else brief(value)
    return words if len(words) <= _LONG else f"{words[:_LONG]}..."


_CALLED = "Raised in a call of"
_LONG = 60

#: What is shared among the conditions of the denoisers that are being evaluated by functions that do not know it.
_SHARED: ContextVar[tuple[Any, ...]] = ContextVar("shared", default=())
