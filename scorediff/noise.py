"""Standard normals as a pure function of (seed, sample id, interval, tag): the noise of a run never depends on its
batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import index

import numpy as np
import torch
from torch import Tensor

__all__ = ["BrownianPath", "IndependentNoise", "Noise", "start_noise"]

# Tags of a run's own draws, away from the small tags of solver bodies.
_START_TAG, _AREA_TAG, _TREE_TAG = 2**64 - 1, 2**63, 2**62


def _normals(seed: int, sample_id: int, words: tuple[int, int, int], size: int) -> np.ndarray:
    # Philox is a keyed counter: the key is (seed, id), and the words fill the counter above its running low word.
    bits = np.random.Philox(
        key=np.array([seed, sample_id], dtype=np.uint64), counter=np.array([0, *words], dtype=np.uint64)
    )
    return np.random.Generator(bits).standard_normal(size)


def _bits(value: float) -> int:
    return int(np.float64(value + 0.0).view(np.uint64))  # + 0.0 makes -0.0 and 0.0 one number


class Noise(ABC):
    """The driving noise of one run: `noise(a, b, tag)` is the N(0, 1) increment over the interval of a solver's clock.

    Within a run the intervals of one tag must be disjoint. `x` gives shape (B, ...), dtype and device of what comes
    back; row i depends on `seed` and `ids[i]` alone (0 .. B - 1 by default), and is drawn in float64 on the host for
    every device.

    Raises ValueError for a seed or an id outside [0, 2^64), or a number of ids other than B; TypeError for one that
    is no whole number.
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
        rows = [_normals(self.seed, i, words, self._size) for i in self.ids]
        return np.stack(rows) if rows else np.empty((0, 0))

    def _as_state(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(dtype=self._like.dtype).reshape(self._like.shape).to(self._like.device)


class IndependentNoise(Noise):
    """Increments that are independent for different intervals: what sampling needs, and cheap."""

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._as_state(self._draw((_bits(a), _bits(b), tag)))

    def area(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._as_state(self._draw((_bits(a), _bits(b), _AREA_TAG + tag)))


_Part = tuple[np.ndarray, np.ndarray]


class BrownianPath(Noise):
    """Increments of one Brownian path over the solver's clock: refine the grid, and the path stays the same.

    A tree halves [-1024, 1024] down to 2^-42; each node splits its increment W and its H (see `area`) by the exact
    conditional law, so the answer is a function of the interval alone, not of the order in which intervals are asked
    for.
    """

    _ROOT, _DEPTH = 1024.0, 53

    def __init__(self, seed: int, x: Tensor, ids: Sequence[int] | None = None) -> None:
        super().__init__(seed, x, ids)
        self._last: dict[tuple[int, int], tuple[_Part, _Part]] = {}  # the halves of each node on the last way down

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        increment, _ = self._between(a, b, tag)
        return self._as_state(increment / np.sqrt(abs(b - a)))

    def area(self, a: float, b: float, tag: int = 0) -> Tensor:
        _, h = self._between(a, b, tag)
        return self._as_state(h * np.sqrt(12 / abs(b - a)))

    def _between(self, a: float, b: float, tag: int) -> tuple[np.ndarray, np.ndarray]:
        """W and H of the path from `a` to `b`, in either direction."""
        lo, hi = min(a, b), max(a, b)
        if not (-self._ROOT <= lo < hi <= self._ROOT):
            raise ValueError(
                f"a Brownian path lives on [{-self._ROOT}, {self._ROOT}] of the clock, not on [{lo}, {hi}]"
            )
        (w_lo, i_lo), (w_hi, i_hi) = self._until(lo, tag), self._until(hi, tag)
        # H = (1/h) INT_lo^hi (W_r - W_lo) dr - (W_hi - W_lo) / 2; seen from the other end both change sign or not
        w = w_hi - w_lo
        h = (i_hi - i_lo - w_lo * (hi - lo)) / (hi - lo) - w / 2
        return (w, h) if a < b else (-w, h)

    def _until(self, r: float, tag: int) -> tuple[np.ndarray, np.ndarray]:
        """`W_r` and `INT W` from the left end of the tree to `r`."""
        length, left, node = 2 * self._ROOT, -self._ROOT, 1
        z = self._draw_two(0, tag)
        w, h = np.sqrt(length) * z[0], np.sqrt(length / 12) * z[1]
        w_left, i_left = np.zeros_like(w), np.zeros_like(w)
        descent = {}
        for _ in range(self._DEPTH):
            length /= 2
            halves = self._last.get((tag, node)) or self._split(node, tag, w, h, length)
            descent[tag, node] = halves
            (w, h), right = halves[0], r >= left + length
            if right:
                # INT over the left half = length (W_left + W1 / 2 + H1)
                i_left = i_left + length * (w_left + w / 2 + h)
                w_left, left = w_left + w, left + length
                w, h = halves[1]
            node = 2 * node + right
        self._last = descent
        # below the last level the path is its conditional mean
        part = (r - left) / length
        return w_left + part * w + 6 * part * (1 - part) * h, i_left + (r - left) * w_left

    def _split(self, node: int, tag: int, w: np.ndarray, h: np.ndarray, k: float) -> tuple[_Part, _Part]:
        """(W, H) of both halves, each of length `k`, given (W, H) of the whole."""
        z = self._draw_two(node, tag)
        # With A = W1 - W2 and S = H1 + H2: H = A/4 + S/2, so
        # A = 3 H + sqrt(k/2) z1, S = 2 H - A/2, H1 - H2 = sqrt(k/6) z2
        a = 3 * h + np.sqrt(k / 2) * z[0]
        s, d = 2 * h - a / 2, np.sqrt(k / 6) * z[1]
        return ((w + a) / 2, (s + d) / 2), ((w - a) / 2, (s - d) / 2)

    def _draw_two(self, node: int, tag: int) -> np.ndarray:
        size = self._size
        rows = [_normals(self.seed, i, (node, tag, _TREE_TAG), 2 * size).reshape(2, size) for i in self.ids]
        return np.stack(rows, axis=1) if rows else np.empty((2, 0, 0))


def start_noise(seed: int, x: Tensor, ids: Sequence[int] | None = None) -> Tensor:
    """The standard normals a run starts from, shape, dtype and device of `x`: the same whatever the solver and the
    grid.
    """
    noise = IndependentNoise(seed, x, ids)
    return noise._as_state(noise._draw((0, 0, _START_TAG)))
