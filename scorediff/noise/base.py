"""Standard normals as a pure function of (seed, sample id, interval, tag): the noise of a run never depends on its
batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import index

import numpy as np
import torch
from torch import Tensor

__all__ = ["Noise", "normals"]


class Noise(ABC):
    """The driving noise of one run: `noise(a, b, tag)` is the N(0, 1) increment over the interval of a solver's
    integration variable.

    Within a run the intervals of one tag must be disjoint. `x` gives shape (B, ...), dtype and device of what comes
    back; row i depends on `seed` and `ids[i]` alone (0 .. B - 1 by default), and is drawn in float64 on the host for
    every device.

    Raises ValueError for a seed or an id outside [0, 2^64), or a number of ids other than B; TypeError for one that
    is not a whole number.
    """

    def __init__(self, seed: int, x: Tensor, ids: Sequence[int] | None = None) -> None:
        rows = range(x.shape[0]) if ids is None else [index(i) for i in ids]
        seed = index(seed)
        if len(rows) != x.shape[0]:
            raise ValueError(f"{len(rows)} sample ids for a batch of {x.shape[0]}: give one id per sample")
        for name, value in [("seed", seed), *(("sample id", i) for i in rows)]:
            if not 0 <= value < 2**64:
                raise ValueError(f"{name} {value} is outside [0, 2^64)")
        self.seed, self.ids = seed, rows
        self._like, self._size = x, x[0].numel() if x.shape[0] else 0
        self._singles: dict[int, Noise] = {}

    @property
    def cell(self) -> float:
        """The shortest interval over which increments have the variance they should; 0 where every interval will do."""
        return 0.0

    @abstractmethod
    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        """`(W_b - W_a) / sqrt|b - a|`, of the shape of the state."""

    @abstractmethod
    def area(self, a: float, b: float, tag: int = 0) -> Tensor:
        """`H sqrt(12 / |b - a|)`, H the mean over the interval of the path less its chord: N(0, 1), independent of the
        increment.
        """

    def each(self, rows: Sequence[int] | np.ndarray, a: np.ndarray, b: np.ndarray, tag: int = 0) -> Tensor:
        """The increments of some samples, each over an interval of its own: shape (len(rows), ...)."""
        parts = [
            self._alone(int(i))(float(p), float(q), tag) if p != q else torch.zeros_like(self._like[:1])
            for i, p, q in zip(rows, a, b, strict=True)
        ]
        return torch.cat(parts) if parts else self._like[:0]

    def _alone(self, i: int) -> "Noise":
        if i not in self._singles:
            self._singles[i] = type(self)(self.seed, self._like[i : i + 1], [self.ids[i]])
        return self._singles[i]

    def _draw(self, words: tuple[int, int, int]) -> np.ndarray:
        """Float64 normals of shape (B, size), one stream per sample."""
        rows = [normals(self.seed, i, words, self._size) for i in self.ids]
        return np.stack(rows) if rows else np.empty((0, 0))

    def _as_state(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(dtype=self._like.dtype).reshape(self._like.shape).to(self._like.device)


def normals(seed: int, sample_id: int, words: tuple[int, int, int], size: int) -> np.ndarray:
    # Philox is a keyed counter: the key is (seed, id), and the words fill the counter above its running low word.
    bits = np.random.Philox(
        key=np.array([seed, sample_id], dtype=np.uint64), counter=np.array([0, *words], dtype=np.uint64)
    )
    return np.random.Generator(bits).standard_normal(size)
