"""Networks that are built to take the weights of a file, and no larger than those."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

__all__ = ["fitting"]

M = TypeVar("M", bound=nn.Module)


def fitting(path: Path, weights: Mapping[str, Tensor], build: Callable[[], M]) -> M:
    """The module that `build` makes, once it is known that it takes the `weights` of the file `path`; not loaded yet.

    It is made without memory first, on the meta device, and given up as soon as it has far more parameters than there
    are weights, or a larger one than any: so numbers from a stranger's file can neither fill the memory nor loop for
    ever. Raises ValueError, naming the file and what differs.
    """
    shapes = {name: tuple(w.shape) for name, w in weights.items()}
    try:
        with torch.device("meta"), _no_larger_than(shapes):
            wanted = {name: tuple(w.shape) for name, w in build().state_dict().items()}
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a network of another library's raises whatever it meets in numbers that cannot be
        words, *_ = str(error).splitlines() or [type(error).__name__]  # torch adds where in its own code
        raise ValueError(f"{path} does not fit the network that it describes: {words[:200]}") from error
    differ = [
        f"{name} of shape {shapes.get(name, 'none')} for {wanted.get(name, 'none')}"
        for name in wanted | shapes
        if shapes.get(name) != wanted.get(name)
    ]
    if differ:
        listed = ", ".join(differ[:3]) + (f" and {len(differ) - 3} more" if len(differ) > 3 else "")
        raise ValueError(f"{path} does not fit the network that it describes: {listed}")
    return build()


@contextmanager
def _no_larger_than(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Raises ValueError where modules are given far more parameters than there are `shapes`, or a larger one."""
    # some modules register a parameter more than once
    left, largest = 4 * len(shapes) + 64, max((math.prod(shape) for shape in shapes.values()), default=0)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is None:
            return
        left -= 1
        if parameter.numel() > largest:
            raise ValueError(f"a {name} of {parameter.numel()} numbers, and its largest weight has {largest}")
        if left < 0:
            raise ValueError(f"more layers than its {len(shapes)} weights are for")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
