"""Multistep exponential integrators: the readings at the last nodes, weighted for every step; and a corrector."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from scorediff.solvers.exponential.engine import Exponential, Line, Lines, Nodes
from scorediff.solvers.exponential.forms import Form, check_kind, held
from scorediff.solvers.exponential.starts import GradedStart, StartingProcedure

__all__ = ["Multistep", "Past", "integral", "lagrange_weights"]

_GAUSS = np.polynomial.legendre.leggauss(48)


class Past(NamedTuple):
    """Some steps and what they look back on.

    `h` and `kappa` of shape (n,). `back` of shape (n, k): where the last k nodes lie, in log-SNR from the start of the
    step, the first 0 and the others behind; `t` of shape (n, k): their times.
    """

    nodes: Nodes
    kappa: np.ndarray
    back: np.ndarray
    t: np.ndarray

    @property
    def h(self) -> np.ndarray:
        return self.nodes.h

    def some(self, which: Any) -> "Past":
        """Some of the steps."""
        return Past(self.nodes.some(which), self.kappa[which], self.back[which], self.t[which])


def integral(kappa: np.ndarray, h: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`INT_0^h e^(kappa (h-u)) fn(u) du`, with `fn` of u of shape (n, points), for every step, to rounding.

    By Gauss and Legendre: a sum of the integrand, in which nothing cancels as it does in powers of small steps.
    """
    x, w = _GAUSS
    u = h[:, None] * (1 + x) / 2
    return np.asarray(np.sum(np.exp(kappa[:, None] * (h[:, None] - u)) * fn(u) * w, axis=1) * h / 2)


def lagrange_weights(kappa: np.ndarray, h: np.ndarray, nodes: np.ndarray, at: Any = None) -> np.ndarray:
    """`INT_0^h e^(kappa (h-u)) l_j(u) du`, l_j Lagrange's polynomials through `nodes` of shape (n, k); shape (n, k).

    The polynomials are in the variable `at(u)` in which the nodes are given, u itself by default.
    """
    weights = np.empty(nodes.shape)
    for j in range(nodes.shape[1]):
        others = [i for i in range(nodes.shape[1]) if i != j]

        def polynomial(u: np.ndarray, j: int = j, others: list[int] = others) -> np.ndarray:
            v = u if at is None else at(u)
            factors = ((v - nodes[:, i, None]) / (nodes[:, j, None] - nodes[:, i, None]) for i in others)
            return np.asarray(math.prod(factors))

        weights[:, j] = integral(kappa, h, polynomial) if others else held(kappa, h)
    return weights


@dataclass(frozen=True)
class Multistep(Exponential):
    """`k` readings a step; `start` while there are fewer, which matters from order 3 on.

    With `lower_order_final` the last steps look back on as many readings as steps are left, as some libraries have it:
    the whole is then of order 2 at the most; it is so too from alpha = 0, where the first step is of order 1.
    Subclasses give the form and the weights.
    """

    k: int = 2
    start: StartingProcedure = GradedStart()
    lower_order_final: bool = False
    largest_k: ClassVar[int] = 6
    #: The linear part that is exact.
    form: ClassVar[Form]
    #: Is there a corrector?
    corrects: ClassVar[bool] = False
    #: Is the corrected state read again (PECE)?
    reads_again: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k <= self.largest_k:
            raise ValueError(f"k = {self.k!r}: {type(self).__name__} takes 1 to {self.largest_k} readings a step")
        check_kind(self, "start", StartingProcedure, "LowerOrderStart()")
        check_kind(self, "form", Form, "NoiseForm()")
        check_kind(self, "lower_order_final", bool, "True")

    @abstractmethod
    def predictor(self, past: Past) -> np.ndarray:
        """The weights of the last readings in the integral, newest first, of shape (n, k) or fewer."""

    def corrector(self, past: Past) -> np.ndarray | None:
        """Those of the reading at the new node, then of the last ones, (n, k + 1); None where nothing is corrected."""
        return None

    @property
    def full_order(self) -> int:
        """The order with enough good readings: k, and k + 1 with a corrector."""
        return self.k + self.corrects

    @property
    def looks_back(self) -> int:
        """How many readings there must be."""
        return self.k

    @property
    def order(self) -> int:
        order = self.start.order(self.full_order, self.corrects)
        return min(order, 2) if self.lower_order_final else order

    @property
    def nfe(self) -> int:
        return 2 if self.reads_again else 1

    def evaluations(self, steps: int, eta: float = 0.0) -> int:
        first = self._by_start(steps, noisy=eta > 0)
        more = self._cuts(steps, noisy=eta > 0).size
        return self.nfe * (steps + more - first) + self.start.stages(self.full_order) * first

    def _cuts(self, steps: int, noisy: bool) -> np.ndarray:
        """Where the first step is cut."""
        if noisy or self.full_order < 3:
            return np.empty(0)
        return self.start.cuts(steps, self.full_order, self.corrects)

    def _by_start(self, steps: int, noisy: bool) -> int:
        """How many steps the start takes."""
        # with noise the order ends at 2, for which a ramp does
        return 0 if noisy or not self.start.stages(self.full_order) else min(self.looks_back - 1, steps)

    @property
    def invariant(self) -> bool:  # type: ignore[override]
        return self.start.invariant

    @property
    def one_step(self) -> bool:  # type: ignore[override]
        return self.looks_back == 1 and not self.corrects

    @property
    def remembers(self) -> int:  # type: ignore[override]
        return self.form.part

    @property
    def materialises(self) -> bool:  # type: ignore[override]
        return self.looks_back > 2 or self.corrects

    def steps(self, nodes: Nodes) -> Iterator[Lines]:
        # from alpha = 0 nothing but a step of order 1 leads away
        blind = 0 if np.isfinite(nodes.start.log_snr[0]) else 1
        places = np.empty(0) if blind else self._cuts(len(nodes), noisy=bool(nodes.eta.any()))
        cuts = places.size
        if cuts:
            nodes = nodes.with_first_split(places)
        count, asked = len(nodes), 0
        readings = [self._readings(n, count, blind) for n in range(count)]
        numbers = _Numbers(self, nodes, readings)
        first = range(blind, min(blind + self._by_start(count, noisy=bool(nodes.eta.any())), count))
        start = self.start.steps(self.full_order, self.form, nodes.some(slice(first.start, first.stop)))
        number: dict[int, int] = {}  # of the evaluation at each node
        for n in range(count):
            if n in first:
                number[n] = asked
                step = next(start).after(asked)
                asked += len(step.lines)
                yield step._replace(keeps=self._wanted(number, n))
            else:
                asked += (n not in number) + (numbers.corrector[n] is not None)
                yield self._step(n, numbers, number, asked, n < cuts)

    def _step(self, n: int, numbers: "_Numbers", number: dict[int, int], asked: int, inside: bool) -> Lines:
        """Step `n`; the evaluations it makes at nodes are entered in `number`, `asked` of them being there after it."""
        predictor, corrector = numbers.predictor[n], numbers.corrector[n]
        decay, spread, t, s = numbers.decay[n], numbers.spread[n], numbers.t[n], numbers.s[n]
        fresh = (spread,) if spread else ()
        if n in number:
            known = [(number[n - j], w) for j, w in enumerate(predictor)]
            lines = [Line(None, decay, 0.0, 0.0, known, fresh)]
        else:
            known = [(number[n - j], predictor[j]) for j in range(1, len(predictor))]
            lines = [Line(t, decay, *self.form.on(predictor[0]), known, fresh)]
            number[n] = asked - 1 - (corrector is not None)
        if corrector is not None:
            known = [(number[n - j], w) for j, w in enumerate(corrector[1:])]
            lines.append(Line(s, decay, *self.form.on(corrector[0]), known, fresh))
            if not self.reads_again:
                number[n + 1] = asked - 1
        intervals = (numbers.intervals[n],) if spread else ()
        order = self._step_order(numbers.readings[n], corrector is not None)
        return Lines(s, lines, intervals, self._wanted(number, n), order, inside)

    def _step_order(self, readings: int, corrected: bool) -> int:
        """The order of a step that looks back on so many readings."""
        return readings + corrected

    def _wanted(self, number: dict[int, int], n: int) -> list[int]:
        """The evaluations that the step after `n` looks back on."""
        first = n + 2 - self.looks_back
        return [number[m] for m in range(first if first > 0 else 0, n + 2) if m in number]

    def _readings(self, n: int, count: int, blind: int) -> int:
        """How many readings step `n` looks back on."""
        there = n + 1 - (n > 0) * blind
        left = count - n if self.lower_order_final else there
        return min(self.looks_back, there, left)


class _Numbers:
    """The coefficients of all steps: computed for all those at once that look back on equally many readings."""

    def __init__(self, solver: Multistep, nodes: Nodes, readings: list[int]) -> None:
        form, eta, h, clock = solver.form, nodes.eta, nodes.h, nodes.start.log_snr
        self.t, self.s, self.readings = nodes.start.t.tolist(), nodes.end.t.tolist(), readings
        self.intervals = list(zip(clock.tolist(), nodes.end.log_snr.tolist(), strict=True))
        self.decay = form.decay(nodes.start, nodes.end, eta).tolist()
        self.spread = np.where(eta > 0, form.spread(nodes.start, nodes.end, eta), 0.0).tolist()
        self.predictor: list[list[float]] = [[]] * len(nodes)
        self.corrector: list[list[float] | None] = [None] * len(nodes)
        pull, kappa = form.pull(nodes.end, eta)[:, None], form.kappa(eta)
        for k in sorted(set(readings)):
            which = np.flatnonzero(np.array(readings) == k)
            behind = which[:, None] - np.arange(k)
            back = clock[behind] - clock[which][:, None] if k > 1 else np.zeros((len(which), 1))
            past = Past(nodes.some(which), kappa[which], back, nodes.start.t[behind])
            for n, row in zip(which, (pull[which] * solver.predictor(past)).tolist(), strict=True):
                self.predictor[n] = row
            # the last state is read by nobody: correcting it would cost an evaluation more
            some = np.isfinite(h[which]) & ((which < len(nodes) - 1) | solver.reads_again)
            found = solver.corrector(past.some(some)) if solver.corrects and some.any() else None
            if found is not None:
                for n, row in zip(which[some], (pull[which][some] * found).tolist(), strict=True):
                    self.corrector[n] = row
