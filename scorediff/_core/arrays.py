"""Arrays that come from outside: read and checked once, kept in float64, moved once to where they are used."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["ArrayLike", "Placed", "device_of", "no_less", "parameter", "positive", "real"]

ArrayLike = Tensor | np.ndarray | float | Sequence[Any]


def parameter(name: str, value: ArrayLike) -> Tensor:
    """`value` as a float64 tensor on the CPU that shares no memory with it.

    Raises TypeError where it is not an array of real numbers, ValueError where one of them is not finite.
    """
    return no_less(name, real(name, value), -torch.inf)


def real(name: str, value: ArrayLike) -> Tensor:
    """The same, of numbers that need not be finite: those of any floating dtype, on any device."""
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} wants an array of real numbers, got {value!r} ({error})") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} wants real numbers, got {tensor.dtype}")
    return tensor.to("cpu", torch.float64, copy=True).contiguous()


def no_less(name: str, tensor: Tensor, least: float) -> Tensor:
    """`tensor` itself. Raises ValueError naming the first entry that is not finite or below `least`."""
    bad = torch.nonzero(~(torch.isfinite(tensor) & (tensor >= least)))
    if len(bad):
        where = tuple(bad[0].tolist())
        wanted = "a finite number" if least == -torch.inf else f"a finite number >= {least:g}"
        raise ValueError(f"{name}{list(where) if where else ''} is {tensor[where].item():g}; it wants {wanted}")
    return tensor


def positive(name: str, value: Any, what: str) -> float:
    """`value` as a float. Raises ValueError where it is not a positive number, saying `what` is wanted."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < np.inf:
        raise ValueError(f"{name} = {value!r}: give {what}, a positive number")
    return number


def device_of(device: Any) -> torch.device | None:
    """`device` as one that is there, None as it is. Raises ValueError, or TypeError where it cannot name a device."""
    if device is None:
        return None
    if not isinstance(device, (torch.device, str, int)):
        raise TypeError(f"device = {device!r}: give a torch.device or a name, such as 'cpu' or 'cuda:0'")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # no such name, or none such in this machine
        raise ValueError(f"device = {device!r}: {str(error).splitlines()[0]}") from error


class Placed:
    """What `make` returns, kept in every dtype and on every device it was asked for in."""

    def __init__(self, make: Callable[[], tuple[Tensor, ...]]) -> None:
        self._make = make
        self._copies: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tensors in the dtype and on the device of `x`."""
        key = (x.dtype, x.device)
        if key not in self._copies:
            # A copy made in inference mode could never be used under autograd.
            with torch.inference_mode(False):
                self._copies[key] = tuple(tensor.to(x.device, x.dtype) for tensor in self._make())
        return self._copies[key]
