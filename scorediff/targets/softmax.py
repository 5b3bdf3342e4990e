"""Softmax-weighted sums over many components, a block at a time."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["blocks", "pick", "softmax_average"]


def blocks(total: int, size: int) -> Iterator[slice]:
    """`range(total)` in consecutive slices of at most `size`; one empty slice where there is nothing."""
    for start in range(0, max(total, 1), size):
        yield slice(start, min(start + size, total))


def pick(value: Any, rows: slice) -> Any:
    """The rows of a host coefficient: a float is the same for all."""
    return value[rows] if np.ndim(value) else value


def softmax_average(terms: Iterable[tuple[Tensor, Callable[[Tensor], Tensor]]]) -> Tensor:
    """`sum_k softmax(logits)_k value_k`, of shape (B, M), in one pass over blocks of k.

    A term is a block's logits of shape (B, k) and the function that sums its values with weights of that shape.
    """
    top = mass = total = None
    for logits, weighted_sum in terms:
        peak = logits.detach().amax(-1, keepdim=True)
        # Weights below the smallest normal number change nothing, and torch's exp takes ten times longer to make them.
        floor = 0.99 * math.log(torch.finfo(logits.dtype).tiny)
        new_top = peak if top is None else torch.maximum(top, peak)
        weights = (logits - new_top).clamp(min=floor).exp()
        added, summed = weights.sum(-1, keepdim=True), weighted_sum(weights)
        if top is None or mass is None or total is None:
            top, mass, total = new_top, added, summed
        else:
            factor = (top - new_top).exp()
            top, mass, total = new_top, mass * factor + added, total * factor + summed
    if mass is None or total is None:
        raise ValueError("an average over no components")
    return total / mass
