"""Arithmetic on states: batched tensors of shape (B, ...), with coefficients that are plain floats."""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Workspace", "per_sample", "row_mean"]

# What refers to a pooled buffer that nobody uses, at the moment `_is_free` looks: the pool's list, the loop variable,
# the parameter and the argument of `getrefcount`; and to its memory: the tensor and the storage handle just made.
_IDLE_REFERENCES = 4
_IDLE_STORAGE_USES = 2


def per_sample(value: Any, x: Tensor) -> Any:
    """A host coefficient ready to multiply `x` of shape (B, ...): a float stays a float, an array of shape (B,) becomes
    a tensor of shape (B, 1, ...) with the dtype and device of `x`."""
    if isinstance(value, np.ndarray) and value.ndim:
        column = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64)).to(device=x.device, dtype=x.dtype)
        return column.reshape(-1, *(1,) * (x.ndim - 1))
    return float(value)


def row_mean(x: Tensor) -> Tensor:
    """The mean of each sample of `x` of shape (B, ...), shape (B,), summed in an order that does not depend on B."""
    v = x.reshape(x.shape[0], -1)
    size = v.shape[1]
    while v.shape[1] > 1:
        half = v.shape[1] // 2
        odd = v[:, 2 * half :]
        v = torch.cat([v[:, :half] + v[:, half : 2 * half], odd], dim=1)
    return v[:, 0] / size


class Workspace:
    """Sums `c_1 x_1 + c_2 x_2 + ...` of states, in memory that is used again once nobody holds it.

    A fresh tensor of 50 MB costs more in page faults than in arithmetic. So results live in a few buffers; one is
    written again only when neither Python nor a torch view refers to it any longer, hence a caller may keep whatever he
    was given. States that are no tensors, and tensors that carry gradients, take plain `+` and `*`.
    """

    def __init__(self) -> None:
        self._pool: list[Tensor] = []

    def combine(self, *terms: tuple[float, Any]) -> Any:
        """The sum of `coefficient * state` over `terms`; terms with coefficient 0 are dropped, the first is kept."""
        (c, x), *rest = terms
        if not isinstance(x, Tensor) or (torch.is_grad_enabled() and any(_has_grad(v) for _, v in terms)):
            return _plain_sum(c, x, rest)
        out = self._buffer(x)
        # As an increment where c is near 1: rounding c itself to float32 would err the same way at every step.
        if 0.5 < c < 1.5:
            torch.add(x, x, alpha=c - 1.0, out=out)
        else:
            torch.mul(x, c, out=out)
        for c_i, x_i in rest:
            if c_i != 0.0:
                out.add_(x_i, alpha=c_i)
        return out

    def _buffer(self, like: Tensor) -> Tensor:
        for buffer in self._pool:
            if (
                buffer.shape == like.shape
                and buffer.dtype == like.dtype
                and buffer.device == like.device
                and _is_free(buffer)
            ):
                return buffer
        buffer = torch.empty_like(like, memory_format=torch.contiguous_format)
        self._pool.append(buffer)
        return buffer


def _has_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _is_free(buffer: Tensor) -> bool:
    storage = buffer.untyped_storage()
    return (
        sys.getrefcount(buffer) == _IDLE_REFERENCES
        and torch._C._storage_Use_Count(storage._cdata) == _IDLE_STORAGE_USES
    )


def _plain_sum(c: float, x: Any, rest: list[tuple[float, Any]]) -> Any:
    total = x * c
    for c_i, x_i in rest:
        if c_i != 0.0:
            total = total + x_i * c_i
    return total
