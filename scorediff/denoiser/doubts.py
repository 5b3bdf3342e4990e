"""What is seldom meant, and warned of where a run starts: dropout at work, a network on a table without its rows."""

import functools
import inspect
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrizations import _SpectralNorm

from scorediff._core.warn import warn
from scorediff.denoiser.base import DenoiserBase
from scorediff.denoiser.network import Denoiser
from scorediff.schedules import VPDiscrete, ZeroTerminalSNR

__all__ = ["noisy_modules", "warn_of_doubts"]


def warn_of_doubts(denoiser: DenoiserBase) -> None:
    """Warn of networks in training mode, where that changes what they say, and of those that are given the time for
    the row of a table.
    """
    found = noisy_modules(denoiser)
    if found:
        names = "; ".join(found[:_FEW]) + (f"; and {len(found) - _FEW} more" if len(found) > _FEW else "")
        warn(
            f"a network is in training mode, where the same state gives other outputs each time or depends on its "
            f"batch ({names}): call its eval() before it samples"
        )
    for network in {id(one): one for one in _made_of(denoiser) if isinstance(one, Denoiser)}.values():
        schedule = network.schedule
        if network.time is None and isinstance(schedule, (VPDiscrete, ZeroTerminalSNR)):
            first, last = schedule.domain
            warn(
                f"the network on {schedule!r} is given the time itself, {first:g} .. {last:g}, and such networks want "
                f"the row, 0 .. {len(schedule.betas) - 1}, nearly always: give Denoiser(..., time=schedule.index), or "
                "time=lambda t: t where it was trained so"
            )


def noisy_modules(denoiser: DenoiserBase) -> list[str]:
    """The modules in training mode of all networks in a denoiser that act otherwise than in `eval()`, as
    `encoder.dropout of UNet, Dropout(p=0.1)`.

    Those of torch are known. What a network does with `self.training` in a function of its own cannot be seen.
    """
    networks = {id(net): net for one in _made_of(denoiser) for function in one.functions for net in _modules(function)}
    found: dict[int, str] = {}
    for net in networks.values():
        for name, module in net.named_modules():
            if module.training and _acts_otherwise(module):
                found.setdefault(id(module), f"{name or 'itself'} of {type(net).__name__}, {module!r}")
    return list(found.values())


def _made_of(denoiser: DenoiserBase) -> Iterator[DenoiserBase]:
    yield denoiser
    for part in denoiser.made_of:
        yield from _made_of(part)


def _modules(function: Any) -> Iterator[nn.Module]:
    """The modules that a callable is, or that it holds: what it closes over, is bound to, or has for an attribute."""
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, DenoiserBase):
        for part in _made_of(function):
            yield from (net for one in part.functions for net in _modules(one))
    else:
        for value in _inside_of(function):
            if isinstance(value, (nn.Module, DenoiserBase, MethodType, functools.partial)):
                yield from _modules(value)


def _inside_of(function: Any) -> tuple[Any, ...]:
    if isinstance(function, FunctionType):
        seen = inspect.getclosurevars(function)
        return (*seen.nonlocals.values(), *seen.globals.values())
    if isinstance(function, MethodType):
        return (function.__self__,)
    if isinstance(function, functools.partial):
        return (function.func, *function.args, *function.keywords.values())
    try:
        return tuple(vars(function).values())
    except TypeError:  # of an object without attributes of its own
        return ()


def _acts_otherwise(module: nn.Module) -> bool:
    """Whether it acts otherwise in training mode."""
    match module:
        case _DropoutNd() | nn.MultiheadAttention() | nn.RNNBase():
            rate = module.p if isinstance(module, _DropoutNd) else module.dropout
            return rate > 0 and not (isinstance(module, nn.RNNBase) and module.num_layers == 1)
        case _NormBase():
            return module.track_running_stats
        case nn.RReLU():
            return module.lower != module.upper
    return isinstance(module, _SpectralNorm)


_FEW = 3
