"""Starting procedures: how a multistep method takes its first steps, while its history is too short."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.linear_parts import IsotropicPart
from scorediff.solvers.exponential.engine import GridSteps, Stage, StepPlan
from scorediff.solvers.exponential.etd import ExpRK5s8, Krogstad
from scorediff.solvers.exponential.runge_kutta import runge_kutta_plan
from scorediff.solvers.exponential.singlestep import RES
from scorediff.solvers.exponential.tableau import ExponentialTableau

__all__ = ["GradedStart", "LowerOrderStart", "PseudoRungeKuttaStart", "RungeKuttaStart", "StartingProcedure"]


@dataclass(frozen=True)
class StartingProcedure(ABC):
    """What is done while there are fewer than the wanted evaluations."""

    @property
    def invariant(self) -> bool:
        """Whether it gives the same x / alpha on every schedule, on the same log-SNR nodes."""
        return True

    @abstractmethod
    def stages(self, order: int) -> int:
        """Evaluations of each of the first steps of a method of this order; 0 where it takes them itself."""

    @abstractmethod
    def steps(self, order: int, part: IsotropicPart, steps: GridSteps) -> Iterator[StepPlan]:
        """The first steps, evaluations counted within each."""

    def cuts(self, steps: int, order: int, corrected: bool) -> np.ndarray:
        """Where the first of so many steps is cut, in parts of it, rising in (0, 1); shape (cuts,)."""
        return np.empty(0)

    def order(self, order: int, corrected: bool) -> int:
        """The order that is left of a method of this order, with a corrector or without."""
        return order


@dataclass(frozen=True)
class LowerOrderStart(StartingProcedure):
    """As the literature has it: as many evaluations as there are, 1, 2, 3, ...

    The first step is of order 1, so that the whole is of order 2 at the most; a corrector lifts that to 3.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lower-order": {}}

    def stages(self, order: int) -> int:
        return 0

    def steps(self, order: int, part: IsotropicPart, steps: GridSteps) -> Iterator[StepPlan]:
        return iter(())

    def order(self, order: int, corrected: bool) -> int:
        return min(order, 3 if corrected else 2)


@dataclass(frozen=True)
class GradedStart(StartingProcedure):
    """A graded first step: orders rise within it, over parts that grow, so short at first that the error is of the
    order wanted.

    A first step of order 1 has a local error O(h^q), q = 2, or 3 with a corrector, where order p wants O(h^(p+1)). So
    the first of N steps begins with a part `(8 / N)^((p + 1 - q)/q)` of itself, and the parts that follow grow by
    2 at the most: no cut up to N = 8; at 64 steps 2 for order 4 and 4 for order 6, with a corrector.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"graded": {}}

    def cuts(self, steps: int, order: int, corrected: bool) -> np.ndarray:
        q = 3 if corrected else 2
        first = (8 / steps) ** ((order + 1 - q) / q)
        count = math.ceil(max(0.0, -math.log2(first)))
        return first ** (np.arange(count, 0, -1) / max(count, 1))

    def stages(self, order: int) -> int:
        return 0

    def steps(self, order: int, part: IsotropicPart, steps: GridSteps) -> Iterator[StepPlan]:
        return iter(())


@dataclass(frozen=True)
class RungeKuttaStart(StartingProcedure):
    """By an exponential Runge-Kutta method of one order less, whose local error is the one wanted."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"runge-kutta": {}}

    def stages(self, order: int) -> int:
        tableau = self._tableau(order)
        return 0 if tableau is None else len(tableau.c)

    def steps(self, order: int, part: IsotropicPart, steps: GridSteps) -> Iterator[StepPlan]:
        tableau = self._tableau(order)
        return iter(()) if tableau is None else runge_kutta_plan(tableau, part, steps)

    def _tableau(self, order: int) -> ExponentialTableau | None:
        # for order 2 a first step of order 1 will do
        known = {3: RES(k=2), 4: RES(k=3), 5: Krogstad(), 6: ExpRK5s8()}
        return known[order].tableau if order > 2 else None


@dataclass(frozen=True)
class PseudoRungeKuttaStart(StartingProcedure):
    """PNDM's: four evaluations on each step, weighted as Kutta's are, with first-order steps to the middle of the time
    (arXiv:2202.09778).
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pseudo-runge-kutta": {}}

    invariant = False

    def order(self, order: int, corrected: bool) -> int:
        return min(order, 3)

    def stages(self, order: int) -> int:
        return 4

    def steps(self, order: int, part: IsotropicPart, steps: GridSteps) -> Iterator[StepPlan]:
        middle = steps.at((steps.start.t + steps.end.t) / 2)
        numbers = []
        for end in (middle, steps.end):
            h = end.log_snr - steps.start.log_snr
            weight = part.integral_weight(end, steps.eta) * part.kernel(end, steps.eta).h_phi_1(h)
            numbers.append((part.propagator(steps.start, end, steps.eta).tolist(), weight.tolist()))
        (to_middle, half), (to_end, whole) = numbers
        levels = (steps.start, middle, steps.end)
        outputs = [[w.tolist() for w in part.on(level)] for level in levels]
        for n in range(len(steps)):
            t, m, s = (float(level.t[n]) for level in levels)
            at_t, at_m, at_s = ((on_data[n], on_noise[n]) for on_data, on_noise in outputs)
            weights = [(j, whole[n] * w / 6) for j, w in enumerate((1, 2, 2))]
            last = whole[n] / 6
            stages = (
                Stage(t, to_middle[n], half[n] * at_t[0], half[n] * at_t[1], remembered=at_t),
                Stage(m, to_middle[n], half[n] * at_m[0], half[n] * at_m[1], remembered=at_m),
                Stage(m, to_end[n], whole[n] * at_m[0], whole[n] * at_m[1], remembered=at_m),
                Stage(s, to_end[n], last * at_s[0], last * at_s[1], weights, remembered=at_s),
            )
            yield StepPlan(t, s, stages, order=2)
