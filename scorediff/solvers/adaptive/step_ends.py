"""Where the steps of an adaptive run may end."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

__all__ = ["Anywhere", "OnLattice", "StepEnds"]

_CELLS = 4  # of the lattice in a step, at least
_NEAR = 1e-6  # so near to the next point of the lattice, in cells, a step ends there: rounding may have kept it back


class StepEnds(ABC):
    """Where steps may end, in the integration variable."""

    @property
    @abstractmethod
    def shortest(self) -> float:
        """The shortest step that may be wanted."""

    @abstractmethod
    def shortened(self, s: np.ndarray, h: np.ndarray) -> np.ndarray:
        """The steps that are taken from `s` where steps `h` are wanted, in the same direction and no longer."""


@dataclass(frozen=True)
class Anywhere(StepEnds):
    """Steps are taken as they are wanted."""

    @property
    def shortest(self) -> float:
        return 0.0

    def shortened(self, s: np.ndarray, h: np.ndarray) -> np.ndarray:
        return h


@dataclass(frozen=True)
class OnLattice(StepEnds):
    """Steps end at multiples of a power of two between a quarter and an eighth of what is wanted, rounded towards their
    start: they always move, by three quarters of it at least.

    A path of noise over two intervals that differ by d differs by the root of d. Where the length of a step depends on
    an error, which rounding changes in its last digits, nearly every step so ends where it would have ended.

    `cell`: the shortest interval over which the noise is what it should be; no lattice is finer.
    """

    cell: float = 0.0

    @property
    def shortest(self) -> float:
        return 2 * _CELLS * self.cell

    def shortened(self, s: np.ndarray, h: np.ndarray) -> np.ndarray:
        # |h| lies between 2^(k - 1) and 2^k
        _, k = np.frexp(h)
        unit = np.copysign(np.maximum(np.ldexp(0.5 / _CELLS, k), self.cell), h)
        return np.asarray(np.floor((s + h) / unit + _NEAR) * unit - s)
