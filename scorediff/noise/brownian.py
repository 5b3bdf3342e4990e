"""Noise that is one path, whatever the grid."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from scorediff.noise.base import Noise, normals

__all__ = ["BrownianPath"]


# Away from the small tags of solver bodies, and from those of independent draws.
_TREE_TAG = 2**62

_Part = tuple[np.ndarray, np.ndarray]


class BrownianPath(Noise):
    """Increments of one Brownian path over the solver's integration variable: refine the grid, and the path stays the
    same.

    A tree halves [-1024, 1024] down to 2^-42; each node splits its increment W and its H (see `area`) by the exact
    conditional distribution, so the answer is a function of the interval alone, not of the order in which intervals are
    asked for.

    Raises ValueError for an interval outside [-1024, 1024].
    """

    _ROOT, _DEPTH = 1024.0, 53

    def __init__(self, seed: int, x: Tensor, ids: Sequence[int] | None = None) -> None:
        super().__init__(seed, x, ids)
        self._last: dict[tuple[int, int], tuple[_Part, _Part]] = {}  # the halves of each node on the last way down

    @property
    def cell(self) -> float:
        return 2 * self._ROOT / 2**self._DEPTH

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
                f"a Brownian path lives on [{-self._ROOT}, {self._ROOT}] of the integration variable, not on "
                f"[{lo}, {hi}]"
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
        rows = [normals(self.seed, i, (node, tag, _TREE_TAG), 2 * size).reshape(2, size) for i in self.ids]
        return np.stack(rows, axis=1) if rows else np.empty((2, 0, 0))
