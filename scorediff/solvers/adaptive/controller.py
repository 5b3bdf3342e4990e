"""How long the next step may be, from the errors of the last ones."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff._core.typed import TypedFields

#: An error below this, in units of the tolerance, is as good as this.
TINY = 1e-10

__all__ = ["TINY", "Controller", "IController", "PIController", "PIDController"]


@dataclass(frozen=True)
class Controller(TypedFields, ABC):
    """Errors e_0 (of the step just tried), e_1, e_2 (of those accepted before) are in units of the tolerance, q is the
    order of the local error.

    `safety`: what every step is shortened by, lest it fail by a hair. `shrink`, `grow`: no step is shorter or longer
    than so many times the last one (0.2 and 5 are Hairer's); the one after a rejection is not longer. While a run has
    made fewer than `first_steps` steps, of which the first was a guess, `grow_first` bounds it instead.

    Raises ValueError for limits that leave no room.
    """

    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 5.0
    first_steps: int = 2
    grow_first: float = 10.0

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("safety", 0, 1),
            ("shrink", 0, 1),
            ("grow", 1, np.inf),
            ("grow_first", 1, np.inf),
        ):
            self._check_within(name, lowest, highest)
        if not isinstance(self.first_steps, int):
            raise ValueError(f"first_steps = {self.first_steps!r} of the controller: a number of steps")

    def _check_within(self, name: str, lowest: float, highest: float) -> None:
        value = getattr(self, name)
        if not (isinstance(value, (int, float)) and lowest < value <= highest):
            raise ValueError(f"{name} = {value!r} of the controller: it lies in ({lowest}, {highest}]")

    @abstractmethod
    def rule(self, e_0: np.ndarray, e_1: np.ndarray, e_2: np.ndarray, q: Any) -> np.ndarray:
        """The factor by which the step may change, limits and safety apart."""

    def step_factor(self, error: np.ndarray, order: Any, before: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The factor by which the step may change where the local error is of `order`, limits apart."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.safety * self.rule(np.maximum(error, TINY), *before, order))

    def within(self, factor: np.ndarray, passed: np.ndarray, after: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """That factor within the limits, for steps that `passed`, came `after` a rejection, or are among the first."""
        most = np.where(steps < self.first_steps, max(self.grow, self.grow_first), self.grow)
        most = np.where(passed & ~after, most, np.where(passed, 1.0, self.safety))
        return np.asarray(np.clip(np.nan_to_num(factor, nan=self.shrink), self.shrink, most))


@dataclass(frozen=True)
class IController(Controller):
    """`e_0^(-1/q)`: the plain rule, by which the next error would be the tolerance if the step alone decided it.

    `safety`, `shrink`, `grow`, `first_steps` and `grow_first` are those of every `Controller`.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"i": {}}

    def rule(self, e_0: np.ndarray, e_1: np.ndarray, e_2: np.ndarray, q: Any) -> np.ndarray:
        return e_0 ** (-1.0 / q)


@dataclass(frozen=True)
class PIController(Controller):
    """`e_0^(-integral/q) (e_1/e_0)^(proportional/q)`: smoother where the stiffness limits the step (Gustafsson 1991).

    `integral`, `proportional`: 0.3 and 0.4, his.

    `safety`, `shrink`, `grow`, `first_steps` and `grow_first` are those of every `Controller`.
    """

    integral: float = 0.3
    proportional: float = 0.4
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pi": {}}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_within("integral", 0, 10)
        self._check_within("proportional", 0, 10)

    def rule(self, e_0: np.ndarray, e_1: np.ndarray, e_2: np.ndarray, q: Any) -> np.ndarray:
        return e_0 ** (-self.integral / q) * (e_1 / e_0) ** (self.proportional / q)


@dataclass(frozen=True)
class PIDController(Controller):
    """`e_0^(-integral/q) (e_1/e_0)^(proportional/q) (e_1^2/(e_0 e_2))^(derivative/q)` (Soderlind 2003).

    `integral`, `proportional`: those of `PIController`; `derivative`: a little, which damps what still swings.

    `safety`, `shrink`, `grow`, `first_steps` and `grow_first` are those of every `Controller`.
    """

    integral: float = 0.3
    proportional: float = 0.4
    derivative: float = 0.05
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pid": {}}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("integral", "proportional", "derivative"):
            self._check_within(name, 0, 10)

    def rule(self, e_0: np.ndarray, e_1: np.ndarray, e_2: np.ndarray, q: Any) -> np.ndarray:
        found = e_0 ** (-self.integral / q) * (e_1 / e_0) ** (self.proportional / q)
        return found * (e_1**2 / (e_0 * e_2)) ** (self.derivative / q)
