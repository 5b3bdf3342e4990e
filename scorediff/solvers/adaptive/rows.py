"""Some samples of a batch: taken out, put back, measured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import per_sample, row_mean_on_host
from scorediff.linear_parts import IsotropicPart, NoiseLevel

__all__ = ["left_of", "put", "restore", "rms", "take"]


def rms(v: Tensor) -> np.ndarray:
    """The root mean square of each sample, float64 on the host; in half precision squares would overflow."""
    return np.asarray(np.sqrt(row_mean_on_host(v.to(torch.promote_types(v.dtype, torch.float32)) ** 2)))


def take(whole: Tensor, rows: np.ndarray) -> Tensor:
    """Some rows of `whole`, or itself where those are all."""
    return whole if len(rows) == len(whole) else whole[torch.from_numpy(rows).to(whole.device)]


def restore(new: Sequence[Tensor], old: Sequence[Tensor], good: np.ndarray) -> None:
    """Write the rows of `old` that are not `good` back into `new`, tensor by tensor."""
    if not good.all():
        rows = torch.from_numpy(np.flatnonzero(~good)).to(new[0].device)
        for a, b in zip(new, old, strict=False):
            a[rows] = b[rows]


def put(whole: Tensor, rows: np.ndarray, part: Tensor) -> Tensor:
    """A copy of `whole` with some rows replaced, or `part` itself where those are all."""
    if len(rows) == len(whole):
        return part
    whole = whole.clone()
    whole[torch.from_numpy(rows).to(whole.device)] = part
    return whole


def left_of(part: IsotropicPart, output: Sequence[Tensor], level: NoiseLevel, x: Tensor) -> Tensor:
    """What a linear part leaves of an evaluation at the states `x`, as memory of its own: a user-defined denoiser may
    write into its output when it is called again.
    """
    on_data, on_noise = part.on(level)
    if not on_noise.any():
        return output[0].clone()
    if not on_data.any():
        return output[1].clone()
    return output[0] * per_sample(on_data, x) + output[1] * per_sample(on_noise, x)
