"""Arrays that come from outside: read and checked once, kept in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["ArrayLike", "no_less", "parameter"]

ArrayLike = Tensor | np.ndarray | float | Sequence[Any]


def parameter(name: str, value: ArrayLike) -> Tensor:
    """`value` as a float64 tensor on the CPU that shares no memory with it.

    Raises TypeError where it is no array of real numbers, ValueError where one of them is not finite.
    """
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} wants an array of real numbers, got {value!r} ({error})") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} wants real numbers, got {tensor.dtype}")
    return no_less(name, tensor.to("cpu", torch.float64, copy=True).contiguous(), -torch.inf)


def no_less(name: str, tensor: Tensor, least: float) -> Tensor:
    """`tensor` itself. Raises ValueError naming the first entry that is not finite or below `least`."""
    bad = torch.nonzero(~(torch.isfinite(tensor) & (tensor >= least)))
    if len(bad):
        where = tuple(bad[0].tolist())
        wanted = "a finite number" if least == -torch.inf else f"a finite number >= {least:g}"
        raise ValueError(f"{name}{list(where) if where else ''} is {tensor[where].item():g}; it wants {wanted}")
    return tensor
