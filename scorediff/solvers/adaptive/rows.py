"""Some samples of a batch: taken out, put back, measured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import per_sample, row_mean_on_host
from scorediff.linear_parts import LinearPart, NoiseLevel
from scorediff.problems import Problem

__all__ = ["evaluated", "put", "put_all", "restore", "rms", "take", "take_all"]


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


def put_all(whole: Sequence[Tensor], rows: np.ndarray, parts: Sequence[Tensor]) -> list[Tensor]:
    """The same for several."""
    return [put(old, rows, new) for old, new in zip(whole, parts, strict=True)]


def take_all(whole: Sequence[Tensor], rows: np.ndarray) -> list[Tensor]:
    """Some rows of each."""
    return [take(v, rows) for v in whole]


def evaluated(
    problem: Problem, part: LinearPart, t: np.ndarray, x: Tensor, rows: np.ndarray, batch: int
) -> list[Tensor]:
    """What a linear part leaves of the evaluation of the states `x` of some of the batch, for each of its variances, as
    memory of its own: a user-defined denoiser may write into its output when it is called again.
    """
    data, noise = problem.denoiser(t, x, rows=None if len(rows) == batch else rows)
    level, found = NoiseLevel.at(problem.schedule, t), []
    for one, d, e in zip(part.components, part.split_apart(data, 1.0), part.split_apart(noise, 0.0), strict=True):
        on_data, on_noise = one.on(level)
        if not on_noise.any():
            found.append(d.clone())
        elif not on_data.any():
            found.append(e.clone())
        else:
            found.append(d * per_sample(on_data, d) + e * per_sample(on_noise, e))
    return found
