"""Noise that is new in every interval."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from scorediff.noise.base import Noise

__all__ = ["IndependentNoise", "start_noise"]


# Tags of a run's own draws, away from the small tags of solver bodies.
_START_TAG, _AREA_TAG = 2**64 - 1, 2**63


class IndependentNoise(Noise):
    """Increments that are independent for different intervals: what sampling needs, and cheap."""

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._as_state(self._draw((_bits(a), _bits(b), tag)))

    def area(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._as_state(self._draw((_bits(a), _bits(b), _AREA_TAG + tag)))


def start_noise(seed: int, x: Tensor, ids: Sequence[int] | None = None) -> Tensor:
    """The standard normals a run starts from, shape, dtype and device of `x`: the same whatever the solver and the
    grid.
    """
    noise = IndependentNoise(seed, x, ids)
    return noise._as_state(noise._draw((0, 0, _START_TAG)))


def _bits(value: float) -> int:
    return int(np.float64(value + 0.0).view(np.uint64))  # + 0.0 makes -0.0 and 0.0 one number
