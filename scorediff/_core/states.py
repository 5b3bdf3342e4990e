"""Arithmetic on states: batched tensors of shape (B, ...), with coefficients that are plain floats."""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Workspace", "own_memory", "per_sample", "private", "row_mean", "row_mean_on_host", "version"]


def per_sample(value: Any, x: Tensor) -> Any:
    """A host coefficient ready to multiply `x` of shape (B, ...): a float stays a float, an array of shape (B,) becomes
    a tensor of shape (B, 1, ...) with the dtype and device of `x`."""
    if isinstance(value, np.ndarray) and value.ndim:
        column = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64)).to(device=x.device, dtype=x.dtype)
        return column.reshape(-1, *(1,) * (x.ndim - 1))
    return float(value)


def row_mean(x: Tensor) -> Tensor:
    """The mean of each sample of `x` of shape (B, ...), shape (B,), summed in an order that does not depend on B."""
    v = _few_columns(x.flatten(1))
    while v.shape[1] > 1:
        half = v.shape[1] // 2
        pairs = v[:, :half] + v[:, half : 2 * half]
        v = torch.cat([pairs, v[:, 2 * half :]], dim=1) if v.shape[1] % 2 else pairs
    return v[:, 0] / x.shape[1:].numel()


def row_mean_on_host(x: Tensor) -> np.ndarray:
    """The same as float64 on the host, for one read: the last sums are made there."""
    return np.asarray(_few_columns(x.flatten(1)).cpu().double().numpy().sum(axis=1) / x.shape[1:].numel())


def _few_columns(v: Tensor) -> Tensor:
    """Sums of parts of the rows of `v`, fewer than 128 a row."""
    while v.shape[1] >= 2 * _COLUMNS:
        # as many sums beside one another as there are columns: none is ever taken apart among threads
        rows = v.shape[1] // _COLUMNS
        tail = v[:, rows * _COLUMNS :]
        v = v[:, : rows * _COLUMNS].unflatten(1, (rows, _COLUMNS)).sum(1)
        v = torch.cat([v, tail], dim=1) if tail.shape[1] else v
    return v


_COLUMNS = 64


class Workspace:
    """Sums `c_1 x_1 + c_2 x_2 + ...` of states, in memory that is used again once nobody holds it.

    A fresh tensor of 50 MB costs more in page faults than in arithmetic. So results live in a few buffers; one is
    written again only when no tensor refers to it any longer, hence a caller may keep whatever it was given. States
    that are not tensors, and tensors that carry gradients, take plain `+` and `*`.
    """

    def __init__(self, buffers: int = 8) -> None:
        self._pool: list[Tensor] = []
        self._most = buffers

    def combine(self, *terms: tuple[float, Any]) -> Any:
        """The sum of `coefficient * state` over `terms`; terms with coefficient 0 are left out."""
        c, x = terms[0]
        rest = []
        for c_i, x_i in terms[1:]:
            if x_i is x:
                c += c_i
            elif c_i:
                rest.append((c_i, x_i))
        if c == 0 and rest:
            (c, x), *rest = rest
        if not isinstance(x, Tensor) or (torch.is_grad_enabled() and any(_has_grad(v) for _, v in terms)):
            return _plain_sum(c, x, rest)
        out = self.buffer(x)
        # As an increment where c is near 1: rounding c itself to float32 would err the same way at every step.
        if 0.5 < c < 1.5:
            torch.add(x, x, alpha=c - 1.0, out=out)
        else:
            torch.mul(x, c, out=out)
        for c_i, x_i in rest:
            out.add_(x_i, alpha=c_i)
        return out

    def buffer(self, like: Tensor) -> Tensor:
        """Memory of the shape and dtype of `like` that nobody holds, to be written."""
        # A fresh alias each time: what autograd hung on the last one, a gradient or a hook, stays with it.
        for base in self._pool:
            if _storage_uses(base) == _IDLE_USES and base.shape == like.shape and base.dtype == like.dtype:
                return base.detach()
        base = torch.empty_like(like)
        # a caller may keep states: past a few the pool forgets them, rather than look at all each time
        self._pool = [*self._pool[1 - self._most :], base]
        return base.detach()


def _has_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def version(value: Any) -> int:
    """How often a tensor was written into, where torch keeps count."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def private(x: Any) -> Any:
    """A state for somebody who might write into it: itself, or a copy in inference mode, where torch keeps no count."""
    return x.clone() if isinstance(x, Tensor) and x.is_inference() else x


def _storage_uses(base: Tensor) -> int:
    """How many tensors share the memory of `base`, views and aliases included."""
    return int(torch._C._storage_Use_Count(base.untyped_storage()._cdata))


_IDLE_USES = _storage_uses(torch.empty(1))


def own_memory(box: list[Any]) -> Any:
    """What is alone in `box`, to which nobody but the box should refer; a copy where somebody else could write into it.

    A network may fill the same memory at every call: a captured graph, an exported engine, a buffer of its own. So a
    tensor is taken as it is only where nobody else refers to it, to its memory or to what it is a view of, and where
    torch has allocated that memory.
    """
    if not isinstance(box[0], Tensor):
        return box[0]
    try:
        return box[0] if _holders(box) in _ALONE else box[0].clone()
    except NotImplementedError:  # a value inside a transform of torch.func, which has no memory
        return box[0]


def _holders(box: list[Any]) -> tuple[int, ...]:
    """How many refer to a tensor in Python, how many in C++, how many to its memory, and whether torch allocated that;
    then the first two of what it is a view of.
    """
    x = box[0]
    storage, base = x.untyped_storage(), x._base
    counts = (sys.getrefcount(x), x._use_count(), torch._C._storage_Use_Count(storage._cdata), storage.resizable())
    return counts if base is None else (*counts, sys.getrefcount(base), base._use_count())


# Measured on what nobody else refers to, since the numbers are those of this Python and this torch: in some versions of
# it a holder in C++ holds the object of Python too, in others not.
_ALONE = (_holders([torch.empty(1)]), _holders([torch.empty(1)[:1]]))


def _plain_sum(c: float, x: Any, rest: list[tuple[float, Any]]) -> Any:
    total = x * c
    for c_i, x_i in rest:
        total = total + x_i * c_i
    return total
