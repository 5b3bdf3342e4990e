"""The distribution of a data set."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.arrays import ArrayLike, Placed, no_less, parameter
from scorediff._core.states import per_sample
from scorediff.schedules import Schedule
from scorediff.targets.mixture import mixture_log_density
from scorediff.targets.softmax import blocks, pick, softmax_average
from scorediff.targets.targets import Target, positive_square

__all__ = ["Empirical"]


@final
class Empirical(Target):
    """`(1/N) sum_i N(data[i], bandwidth^2 I)`: a data set, smoothed; bandwidth 0 is the data set itself.

    `data` of shape (N, ...), by default three points in two dimensions. `bandwidth` is in the units of the data, by
    default one at which these three can be distinguished and still overlap. At most `chunk` data and `chunk` states are
    compared at a time, so memory beyond the data is of order `chunk^2`, whatever N and the batch: a few MB by default.

    Raises ValueError for an empty data set, numbers that are not finite, a negative bandwidth or a chunk below 1.
    """

    def __init__(
        self,
        data: ArrayLike = ((-1.5, 0.0), (0.5, 1.0), (1.0, -1.0)),
        bandwidth: float = 0.2,
        chunk: int = 1024,
    ) -> None:
        self.data = parameter("data", data)
        if self.data.ndim == 0 or self.data.numel() == 0:
            raise ValueError(f"data has shape {tuple(self.data.shape)}; it wants (N, ...), N samples")
        self.bandwidth = no_less("bandwidth", parameter("bandwidth", bandwidth), 0.0).item()
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; it wants the number of data compared at a time, 1 or more")
        self.chunk = chunk
        self._placed = Placed(self._parts)

    def __repr__(self) -> str:
        return f"Empirical(data={tuple(self.data.shape)}, bandwidth={self.bandwidth:g}, chunk={self.chunk})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape[1:])

    def _parts(self) -> tuple[Tensor, ...]:
        # Only differences of squared distances matter; about the centre they keep the most digits.
        points = self.data.reshape(len(self.data), -1)
        centre = points.mean(0)
        points = points - centre
        return centre, points, points.square().sum(-1) / 2

    def at(self, schedule: Schedule, t: float) -> "Empirical":
        alpha_t, sigma_t = float(schedule.alpha(t)), float(schedule.sigma(t))
        return Empirical(alpha_t * self.data, math.hypot(alpha_t * self.bandwidth, sigma_t), self.chunk)

    def posterior(self, alpha_t: Any, sigma_t: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        centre, points, half = self._placed.like(rows)
        variance, square = self.bandwidth**2, positive_square(sigma_t, rows.dtype)
        total = np.square(alpha_t) * variance + square
        residual = rows - centre * per_sample(alpha_t, rows)
        # log r_i = [alpha (x - alpha c) . p_i - alpha^2 |p_i|^2 / 2] / (alpha^2 h^2 + sigma^2), p_i = data_i - c
        scaled, drop = residual * per_sample(alpha_t / total, rows), np.square(alpha_t) / total
        out = [
            softmax_average(self._terms(points, half, scaled[chosen], pick(drop, chosen)))
            for chosen in blocks(len(rows), self.chunk)
        ]
        mean = torch.cat(out)
        # D = (sigma^2 m + alpha h^2 x) / (alpha^2 h^2 + sigma^2), m = sum_i r_i data_i
        data = (centre + mean) * per_sample(square / total, rows) + rows * per_sample(alpha_t * variance / total, rows)
        # eps = sigma (x - alpha m) / (alpha^2 h^2 + sigma^2)
        noise = (residual - mean * per_sample(alpha_t, rows)) * per_sample(sigma_t / total, rows)
        return data, noise

    def _terms(
        self, points: Tensor, half: Tensor, scaled: Tensor, drop: Any
    ) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor]]]:
        for block in blocks(len(points), self.chunk):
            part = points[block]
            yield scaled @ part.T - half[block] * per_sample(drop, scaled), partial(torch.matmul, other=part)

    def _draw(self, n: int, seed: int) -> Tensor:
        choice, normals = np.random.default_rng(seed).spawn(2)
        picked = np.minimum((choice.random(n) * len(self.data)).astype(np.int64), len(self.data) - 1)
        points = self.data.reshape(len(self.data), -1)[picked]
        return points + self.bandwidth * torch.from_numpy(normals.standard_normal((n, prod(self.event_shape))))

    def _log_density(self, rows: Tensor) -> Tensor:
        if self.bandwidth == 0:
            raise ValueError("bandwidth 0 puts all mass on the data and has no density; give a bandwidth > 0")
        centre, points, _ = self._placed.like(rows)
        weights = rows.new_full((1,), -math.log(len(points)))
        return mixture_log_density(rows - centre, (weights, points, rows.new_full((1, 1), self.bandwidth**2)))
