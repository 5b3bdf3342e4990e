"""Multistep exponential integrators: the model outputs at the last nodes, weighted for every step; and a corrector."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from scorediff.coordinates import IntegrationVariable, LogSNR
from scorediff.linear_parts import DataPart, IsotropicPart, Kernel, LinearPart
from scorediff.problems import ReverseSDE
from scorediff.solvers.base import Exact
from scorediff.solvers.exponential.engine import ExponentialIntegrator, GridSteps, Stage, StepPlan, check_kind, exact_on
from scorediff.solvers.exponential.starts import GradedStart, StartingProcedure

__all__ = ["History", "Multistep", "lagrange_weights"]


#: A step's absolute weights add up to at most so many times those of the same method on even steps.
_BEARABLE = 10.0


class History(NamedTuple):
    """Some steps, and the nodes whose model outputs they use.

    `steps`: n of them; `kernel`: what their integrals are against. `size` of shape (n,): how long they are in the
    solver's integration variable; `back` of shape (n, k): where the last k nodes lie in it from the start of the step,
    the first at 0 and the others behind.
    """

    steps: GridSteps
    kernel: Kernel
    size: np.ndarray
    back: np.ndarray

    @property
    def h(self) -> np.ndarray:
        """The steps in log-SNR."""
        return self.steps.h

    def some(self, which: Any) -> "History":
        """Those of some of the steps."""
        return History(self.steps.some(which), self.kernel.some(which), self.size[which], self.back[which])

    def scaled(self, back: np.ndarray) -> "History":
        """The same steps with nodes behind them at `back`, in units of the steps."""
        return self._replace(back=back * self.size[:, None])


def lagrange_weights(kernel: Kernel, h: np.ndarray, nodes: np.ndarray, at: Any = None) -> np.ndarray:
    """`INT_0^h k(h-u) l_j(u) du`, l_j Lagrange's polynomials through `nodes` of shape (n, k); shape (n, k).

    The polynomials are in the variable `at(u)` in which the nodes are given, u itself by default.
    """
    weights = np.empty(nodes.shape)
    for j in range(nodes.shape[1]):
        others = [i for i in range(nodes.shape[1]) if i != j]

        def polynomial(u: np.ndarray, j: int = j, others: list[int] = others) -> np.ndarray:
            v = u if at is None else at(u)
            factors = ((v - nodes[:, i, None]) / (nodes[:, j, None] - nodes[:, i, None]) for i in others)
            return np.asarray(math.prod(factors))

        weights[:, j] = kernel.integral(h, polynomial) if others else kernel.h_phi_1(h)
    return weights


@dataclass(frozen=True)
class Multistep(ExponentialIntegrator):
    """`x_1 = propagator x_0 + integral_weight sum_j w_j M_j + noise_std z`, M_j the outputs at the last k nodes, newest
    first: subclasses give the w_j.

    Where nodes lie so close together, or steps grow so fast, that a step's `sum_j |w_j|` is more than ten times what it
    is on even steps, the network's errors would be multiplied likewise: the step uses fewer evaluations, and
    `Solution.orders_used` says so.

    `k`: how many evaluations a step uses. `start`: what is done while there are fewer, which matters from order 3 on; a
    graded first step keeps the order at hardly any cost. `lower_order_final`: whether the last steps use as few
    evaluations as steps are left, as some libraries have it: the whole is then of order 2 at the most, as it is from
    alpha = 0, where the first step is of order 1. `part`: the linear part that is taken out, each family's own by
    default.
    """

    k: int = 2
    start: StartingProcedure = GradedStart()
    lower_order_final: bool = False
    part: LinearPart = field(default=DataPart(), kw_only=True)
    largest_k: ClassVar[int] = 6

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k <= self.largest_k:
            raise ValueError(f"k = {self.k!r}: {type(self).__name__} takes 1 to {self.largest_k} evaluations a step")
        check_kind(self, "start", StartingProcedure, "LowerOrderStart()")
        check_kind(self, "part", LinearPart, "NoisePart()")
        check_kind(self, "lower_order_final", bool, "True")

    @abstractmethod
    def predictor(self, history: History) -> np.ndarray:
        """The weights w_j of the last outputs in the integral, newest first, of shape (n, k) or fewer."""

    def corrector(self, history: History) -> np.ndarray:
        """Those of the output at the new node, then of the last ones, (n, k + 1); none where nothing is corrected."""
        return np.empty((len(history.h), 0))

    @property
    def variable(self) -> IntegrationVariable:
        """What its polynomials are in."""
        return LogSNR()

    @property
    def corrects(self) -> bool:
        """Whether there is a corrector."""
        return False

    @property
    def pece(self) -> bool:
        """Whether the corrected state is evaluated again (PECE)."""
        return False

    @property
    def full_order(self) -> int:
        """The order with enough good outputs: k, and k + 1 with a corrector."""
        return self.k + self.corrects

    @property
    def history_length(self) -> int:
        """How many outputs there must be."""
        return self.k

    @property
    def order(self) -> int:
        order = self.start.order(self.full_order, self.corrects)
        return min(order, 2) if self.lower_order_final else order

    @property
    def exact_on(self) -> frozenset[Exact]:
        return exact_on(self.part, noisy=ReverseSDE in self.solves)

    @property
    def nfe(self) -> int:
        return 2 if self.pece else 1

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
        # with noise the order ends at 2, for which lower orders suffice at the start
        return 0 if noisy or not self.start.stages(self.full_order) else min(self.history_length - 1, steps)

    @property
    def invariant(self) -> bool:
        return self.start.invariant

    @property
    def one_step(self) -> bool:
        return self.history_length == 1 and not self.corrects

    @property
    def materialises(self) -> bool:
        return self.history_length > 2 or self.corrects

    def plan(self, steps: GridSteps, part: IsotropicPart) -> Iterator[StepPlan]:
        # from alpha = 0 nothing but a step of order 1 leads away
        from_pure_noise = 0 if np.isfinite(steps.start.log_snr[0]) else 1
        places = np.empty(0) if from_pure_noise else self._cuts(len(steps), noisy=bool(steps.eta.any()))
        cuts, even = places.size, np.concatenate([[0.0], places, np.arange(1.0, len(steps) + 1)])
        if cuts:
            steps = steps.with_first_split(places)
        count, evaluations = len(steps), 0
        used = [self._used(n, count, from_pure_noise) for n in range(count)]
        coefficients = _Coefficients(self, steps, part, used, even)
        by_start = self._by_start(count, noisy=bool(steps.eta.any()))
        first = range(from_pure_noise, min(from_pure_noise + by_start, count))
        start = self.start.steps(self.full_order, part, steps.some(slice(first.start, first.stop)))
        number: dict[int, int] = {}  # of the evaluation at each node
        for n in range(count):
            if n in first:
                number[n] = evaluations
                step = next(start).after(evaluations)
                evaluations += len(step.stages)
                yield step._replace(keeps=self._wanted(number, n))
            else:
                evaluations += (n not in number) + (coefficients.corrector[n] is not None)
                yield self._step(n, coefficients, number, evaluations, n < cuts)

    def _step(
        self, n: int, coefficients: "_Coefficients", number: dict[int, int], evaluations: int, inside: bool
    ) -> StepPlan:
        """Step `n`; the evaluations it makes at nodes are entered in `number`, `evaluations` being there after it."""
        c = coefficients
        predictor, corrector, propagator, std = c.predictor[n], c.corrector[n], c.propagator[n], c.noise_std[n]
        t, s, here, there = c.t[n], c.s[n], c.on_start[n], c.on_end[n]
        fresh = (std,) if std else ()
        if n in number:
            known = [(number[n - j], w) for j, w in enumerate(predictor)]
            stages = [Stage(None, propagator, 0.0, 0.0, known, fresh)]
        else:
            known = [(number[n - j], predictor[j]) for j in range(1, len(predictor))]
            stages = [Stage(t, propagator, predictor[0] * here[0], predictor[0] * here[1], known, fresh, here)]
            number[n] = evaluations - 1 - (corrector is not None)
        if corrector is not None:
            new, known = corrector[0], [(number[n - j], w) for j, w in enumerate(corrector[1:])]
            stages.append(Stage(s, propagator, new * there[0], new * there[1], known, fresh, there))
            if not self.pece:
                number[n + 1] = evaluations - 1
        intervals = (c.intervals[n],) if std else ()
        order = self._step_order(c.used[n], corrector is not None)
        return StepPlan(t, s, stages, intervals, self._wanted(number, n), order, inside)

    def _step_order(self, used: int, corrected: bool) -> int:
        """The order of a step that uses so many evaluations."""
        return used + corrected

    def _wanted(self, number: dict[int, int], n: int) -> list[int]:
        """The evaluations that the step after `n` uses."""
        first = n + 2 - self.history_length
        return [number[m] for m in range(first if first > 0 else 0, n + 2) if m in number]

    def _used(self, n: int, count: int, from_pure_noise: int) -> int:
        """How many evaluations step `n` uses."""
        there = n + 1 - (n > 0) * from_pure_noise
        left = count - n if self.lower_order_final else there
        return min(self.history_length, there, left)


class _Coefficients:
    """Those of all steps, computed for all those at once that use equally many evaluations, which are `used` at most.

    `even`: the nodes of the same run on even steps, what its weights are held against.
    """

    def __init__(
        self, solver: Multistep, steps: GridSteps, part: IsotropicPart, used: list[int], even: np.ndarray
    ) -> None:
        eta, log_snr = steps.eta, steps.start.log_snr
        self.t, self.s, self.used = steps.start.t.tolist(), steps.end.t.tolist(), used
        self.intervals = list(zip(log_snr.tolist(), steps.end.log_snr.tolist(), strict=True))
        self.on_start, self.on_end = (_pairs(part.on(level)) for level in (steps.start, steps.end))
        self.propagator = part.propagator(steps.start, steps.end, eta).tolist()
        self.noise_std = np.where(eta > 0, part.noise_std(steps.start, steps.end, eta), 0.0).tolist()
        self.predictor: list[list[float]] = [[]] * len(steps)
        self.corrector: list[list[float] | None] = [None] * len(steps)
        weight, kernel = part.integral_weight(steps.end, eta)[:, None], part.kernel(steps.end, eta)
        start, end = (solver.variable.value(steps.schedule, level.t) for level in (steps.start, steps.end))
        # nobody evaluates the last state: correcting it would cost an evaluation more
        corrected = np.isfinite(steps.h) & ((np.arange(len(steps)) < len(steps) - 1) | solver.pece) & solver.corrects
        for k in range(max(used), 0, -1):
            which = np.flatnonzero(np.array(used) == k)
            behind = which[:, None] - np.arange(k)
            back = start[behind] - start[which][:, None] if k > 1 else np.zeros((len(which), 1))
            history = History(steps.some(which), kernel.some(which), (end - start)[which], back)
            usual = history.scaled((even[behind] - even[which][:, None]) / np.diff(even)[which][:, None])
            predictor, sound = _weighed(solver.predictor, history, usual)
            corrector, right = _weighed(solver.corrector, history, usual)
            for row, n in enumerate(which):
                if k > 1 and not (sound[row] and (right[row] or not corrected[n])):
                    used[n] = k - 1
                    continue
                self.predictor[n] = (weight[n] * predictor[row]).tolist()
                if corrected[n] and right[row]:
                    self.corrector[n] = (weight[n] * corrector[row]).tolist()


def _weighed(rule: Callable[[History], np.ndarray], history: History, usual: History) -> tuple[np.ndarray, np.ndarray]:
    """The weights that a rule gives every step, and whether they can be borne: none can that are not finite."""
    with np.errstate(all="ignore"):
        weights, even = rule(history), rule(usual)
        return weights, np.abs(weights).sum(1) <= _BEARABLE * np.abs(even).sum(1)


def _pairs(weights: tuple[np.ndarray, np.ndarray]) -> list[tuple[float, float]]:
    return list(zip(*(w.tolist() for w in weights), strict=True))
