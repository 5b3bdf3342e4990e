"""A network behind a function of it: another calling convention, the same parameters."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["Wrapped"]


class Wrapped(nn.Module):
    """`call(net, x, t, **cond)` in place of `net(x, t, **cond)`: `x` and the result of shape (B, ...), `t` of shape
    (B,).

    The parameters of `net` are this module's, hence a denoiser sees its dtype and device, and follows a later
    `net.half()` or `net.to(device)`. Raises TypeError where one of both is not callable.

    >>> import torch
    >>> net = Wrapped(torch.nn.Linear(2, 2), lambda net, x, t: net(x) * t[:, None])
    >>> net(torch.ones(3, 2), torch.ones(3)).shape, len(list(net.parameters()))
    (torch.Size([3, 2]), 2)
    """

    def __init__(self, net: Callable[..., Any], call: Callable[..., Tensor]) -> None:
        super().__init__()
        if not callable(net):
            raise TypeError(f"net must be a module or a callable, got {type(net).__name__}")
        if not callable(call):
            raise TypeError(f"call must be a function (net, x, t, **cond), got {type(call).__name__}")
        self.net, self.call = net, call

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.call(self.net, x, t, **cond)
