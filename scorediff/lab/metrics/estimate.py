"""A number, and how well it is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "jackknife"]


@dataclass(frozen=True)
class Estimate:
    """A number estimated from samples.

    `value`: the number. `error`: its standard error over draws of the samples. `bias`: by how much it is too large, on
    the mean, because the samples are finitely many; 0 where that is not estimated. Between two sets of one distribution
    the error is an upper estimate.
    """

    value: float
    error: float
    bias: float = 0.0

    def __str__(self) -> str:
        bias = f" (bias {self.bias:+.2g})" if abs(self.bias) > self.error / 4 else ""
        return f"{self.value:.4g} ± {self.error:.2g}{bias}"


def jackknife(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    a: np.ndarray,
    b: np.ndarray,
    groups: int,
    strata: np.ndarray | None = None,
) -> list[Estimate]:
    """What `statistic(a, b)` returns, with error and bias from leaving out one of `groups` parts of both at a time.

    `strata` of shape (len(b),) are classes of which `b` has numbers that were given: every part has the same
    fraction of each, since those do not vary.

    Raises ValueError for sets of fewer than two samples a group.
    """
    if groups < 2:
        raise ValueError(f"groups = {groups}: at least 2 are needed")
    if min(len(a), len(b)) < 2 * groups:
        raise ValueError(f"{len(a)} and {len(b)} samples cannot be split into {groups} groups: take more samples")
    # at random: samples may come sorted by class, or with their classes in turn
    draw = np.random.default_rng(0)
    p, q = (draw.permutation(len(x)) % groups for x in (a, b))
    if strata is not None:
        q[np.lexsort((draw.random(len(b)), strata))] = np.arange(len(b)) % groups
    without = np.array([statistic(a[p != g], b[q != g]) for g in range(groups)])
    value = np.asarray(statistic(a, b))
    # (g - 1) / g SUM (x_i - mean)^2, and (g - 1) (mean - x)
    error = np.sqrt((groups - 1) * without.var(axis=0))
    bias = (groups - 1) * (without.mean(axis=0) - value)
    return [Estimate(*map(float, row)) for row in zip(value, error, bias, strict=True)]
