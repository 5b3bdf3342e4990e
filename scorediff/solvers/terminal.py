"""From the end of a run to sigma = 0: one more evaluation, named and recorded."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from scorediff._core.states import per_sample
from scorediff._core.typed import TypedFields
from scorediff.problems import Problem

__all__ = ["Denoise", "HalfStep", "Terminal"]


@dataclass(frozen=True)
class Terminal(TypedFields, ABC):
    """A map from the state at `t_end` to a sample of the data: one evaluation, counted and recorded."""

    @abstractmethod
    def __call__(self, problem: Problem, t: float, x: Any) -> Any:
        """The sample, of the shape (B, ...) of `x`, the state at time `t`."""


@dataclass(frozen=True)
class Denoise(Terminal):
    """`x = D`: leaves an error O(sigma^2), none where the data has no variance."""

    def __call__(self, problem: Problem, t: float, x: Any) -> Any:
        return problem.denoiser(t, x)[0]


@dataclass(frozen=True)
class HalfStep(Terminal):
    """`(y + D) / 2` with `y = x / alpha`: leaves O(sigma^4) where the data varies by more than sigma, sigma / 2 where
    it does not.
    """

    def __call__(self, problem: Problem, t: float, x: Any) -> Any:
        data = problem.denoiser(t, x)[0]
        return x * per_sample(0.5 / problem.schedule.alpha(t), x) + data * 0.5
