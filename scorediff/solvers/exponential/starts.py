"""How a method that remembers takes its first steps, while there is too little to remember."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.solvers.exponential.engine import Line, Lines, Nodes
from scorediff.solvers.exponential.forms import Form, held
from scorediff.solvers.exponential.runge_kutta import RES, ExpRK5s8, Krogstad, runge_kutta_steps
from scorediff.solvers.exponential.tableau import ExponentialTableau

__all__ = ["GradedStart", "LowerOrderStart", "PseudoRungeKuttaStart", "RungeKuttaStart", "StartingProcedure"]


@dataclass(frozen=True)
class StartingProcedure(ABC):
    """What is done while fewer than the wanted readings are there."""

    #: Does it give the same x / alpha on every schedule, on the same log-SNR nodes?
    invariant: ClassVar[bool] = True

    @abstractmethod
    def stages(self, order: int) -> int:
        """Evaluations of each of the first steps of a method of this order; 0 where it takes them itself."""

    @abstractmethod
    def steps(self, order: int, form: Form, nodes: Nodes) -> Iterator[Lines]:
        """The first steps, evaluations counted within each."""

    def cuts(self, steps: int, order: int, corrected: bool) -> np.ndarray:
        """Where the first of so many steps is cut, in parts of it, rising in (0, 1); shape (cuts,)."""
        return np.empty(0)

    def order(self, order: int, corrected: bool) -> int:
        """The order that is left of a method of this order, with a corrector or without."""
        return order


@dataclass(frozen=True)
class LowerOrderStart(StartingProcedure):
    """As the literature has it: as many readings as there are, 1, 2, 3, ...

    The first step is of order 1, so that the whole is of order 2 at the most; a corrector lifts that to 3.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lower-order": {}}

    def stages(self, order: int) -> int:
        return 0

    def steps(self, order: int, form: Form, nodes: Nodes) -> Iterator[Lines]:
        return iter(())

    def order(self, order: int, corrected: bool) -> int:
        return min(order, 3 if corrected else 2)


@dataclass(frozen=True)
class GradedStart(StartingProcedure):
    """A ramp inside the first step, over substeps that grow: so short at first that its error is of the order wanted.

    A ramp's first step has a local error O(h^q), q = 2, or 3 with a corrector; a method of order p wants O(h^(p+1)).
    So the first of N steps begins with a part `(8 / N)^((p + 1 - q)/q)` of itself, and the parts that follow grow by
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

    def steps(self, order: int, form: Form, nodes: Nodes) -> Iterator[Lines]:
        return iter(())


@dataclass(frozen=True)
class RungeKuttaStart(StartingProcedure):
    """By an exponential Runge-Kutta method of one order less, whose local error is the one wanted."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"runge-kutta": {}}

    def stages(self, order: int) -> int:
        tableau = self._tableau(order)
        return 0 if tableau is None else len(tableau.c)

    def steps(self, order: int, form: Form, nodes: Nodes) -> Iterator[Lines]:
        tableau = self._tableau(order)
        return iter(()) if tableau is None else runge_kutta_steps(tableau, form, nodes)

    def _tableau(self, order: int) -> ExponentialTableau | None:
        # a ramp does for order 2: its first step is one of order 1
        known = {3: RES(k=2), 4: RES(k=3), 5: Krogstad(), 6: ExpRK5s8()}
        return known[order].tableau if order > 2 else None


@dataclass(frozen=True)
class PseudoRungeKuttaStart(StartingProcedure):
    """PNDM's: four readings on each step, weighted as Kutta's are, with first-order steps to the middle of the time
    (arXiv:2202.09778).
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pseudo-runge-kutta": {}}

    invariant: ClassVar[bool] = False

    def order(self, order: int, corrected: bool) -> int:
        return min(order, 3)

    def stages(self, order: int) -> int:
        return 4

    def steps(self, order: int, form: Form, nodes: Nodes) -> Iterator[Lines]:
        middle = nodes.at((nodes.start.t + nodes.end.t) / 2)
        numbers = []
        for end in (middle, nodes.end):
            weight = form.pull(end, nodes.eta) * held(form.kappa(nodes.eta), end.log_snr - nodes.start.log_snr)
            numbers.append((form.decay(nodes.start, end, nodes.eta).tolist(), weight.tolist()))
        (to_middle, half), (to_end, whole) = numbers
        for n in range(len(nodes)):
            t, m, s = (float(point.t[n]) for point in (nodes.start, middle, nodes.end))
            weights = [(j, whole[n] * w / 6) for j, w in enumerate((1, 2, 2))]
            lines = (
                Line(t, to_middle[n], *form.on(half[n])),
                Line(m, to_middle[n], *form.on(half[n])),
                Line(m, to_end[n], *form.on(whole[n])),
                Line(s, to_end[n], *form.on(whole[n] / 6), before=weights),
            )
            yield Lines(s, lines, order=2)
