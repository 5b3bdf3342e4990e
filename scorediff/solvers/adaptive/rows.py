"""Some samples of a batch: taken out, put back, measured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import per_sample, row_mean_on_host
from scorediff.linear_parts import LinearPart, NoiseLevel

__all__ = ["join_at", "left_of", "put", "restore", "rms", "split_at", "take"]


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


def split_at(part: LinearPart, x: Tensor, alpha: np.ndarray | float) -> tuple[Tensor, ...]:
    """The states `x` as one part for each variance, at alpha of each sample, shape (B,)."""
    return part.split_apart(x, _column(alpha, x))


def join_at(part: LinearPart, parts: Sequence[Tensor], alpha: np.ndarray | float, like: Tensor) -> Tensor:
    """The states again."""
    return part.join_apart(parts, _column(alpha, like), like)


def left_of(part: LinearPart, output: Sequence[Tensor], level: NoiseLevel) -> list[Tensor]:
    """What a linear part leaves of an evaluation, for each of its variances, as memory of its own: a user-defined
    denoiser may write into its output when it is called again.
    """
    found = []
    for one, data, noise in zip(
        part.components, split_at(part, output[0], 1.0), split_at(part, output[1], 0.0), strict=True
    ):
        on_data, on_noise = one.on(level)
        if not on_noise.any():
            found.append(data.clone())
        elif not on_data.any():
            found.append(noise.clone())
        else:
            found.append(data * per_sample(on_data, data) + noise * per_sample(on_noise, noise))
    return found


def _column(alpha: np.ndarray | float, x: Tensor) -> Tensor:
    return torch.from_numpy(np.broadcast_to(np.asarray(alpha, dtype=np.float64), (len(x),)).copy()).to(x)
