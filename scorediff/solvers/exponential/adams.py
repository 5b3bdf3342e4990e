"""Exponential Adams methods: Lagrange's interpolant of the outputs, integrated against the exact kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from scorediff.coordinates import DDIMCoordinates, IntegrationVariable, LogSNR, RatioVariable, Time
from scorediff.linear_parts import LinearPart, NoisePart
from scorediff.problems import ProbabilityFlow, ReverseSDE
from scorediff.solvers.exponential.engine import check_kind
from scorediff.solvers.exponential.multistep import History, Multistep, lagrange_weights
from scorediff.spacings import Spacing, UniformLogShift

__all__ = [
    "DEIS",
    "LMS",
    "ExponentialAdamsBashforth",
    "ExponentialAdamsMoulton",
    "ExponentialAdamsPECE",
    "SASolver",
]


@dataclass(frozen=True)
class _Adams(Multistep):
    """The outputs' polynomial in the integration `variable`: the log-SNR where a family does not say otherwise."""

    variable: IntegrationVariable = field(default=LogSNR(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self, "variable", IntegrationVariable, "LogSNR()")

    @property
    def invariant(self) -> bool:
        return self.start.invariant and isinstance(self.variable, RatioVariable)

    def predictor(self, history: History) -> np.ndarray:
        return self._weights(history, history.back)

    def _weights(self, history: History, nodes: np.ndarray) -> np.ndarray:
        """The integrals of Lagrange's polynomials through `nodes`, of shape (n, k), in the variable from the start."""
        if isinstance(self.variable, LogSNR):
            return lagrange_weights(history.kernel, history.h, nodes)
        steps, size = history.steps, history.size[:, None]
        schedule, first = steps.schedule, steps.start.log_snr[:, None]
        lo, hi = schedule.domain
        # the variable's own numbers range over many decades: taken in units of its step
        start = self.variable.value(schedule, steps.start.t[:, None])

        def at(u: np.ndarray) -> np.ndarray:
            t = np.clip(schedule.time_at(first + u), lo, hi)
            return np.asarray((self.variable.value(schedule, t) - start) / size)

        return lagrange_weights(history.kernel, history.h, nodes / size, at)


@dataclass(frozen=True)
class ExponentialAdamsBashforth(_Adams):
    """Exponential Adams-Bashforth of order k on any grid, with any linear part.

        x_s = propagator x_t + integral_weight sum_j w_j M_j,   w_j = INT_0^h k(h - u) l_j(u) du

    l_j are Lagrange's polynomials in the integration `variable` through the last k nodes, k the part's kernel.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method.
    """

    source: ClassVar[str] = "Hochbruck and Ostermann 2011"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"exp-ab{k}": {"k": k} for k in (2, 3, 4, 5, 6)},
        **{f"exp-ab{k}-noise": {"k": k, "part": NoisePart()} for k in (2, 4)},
    }


@dataclass(frozen=True)
class _AdamsMoulton(_Adams):
    """The corrector of order k + 1 through the predicted node and the last k."""

    largest_k: ClassVar[int] = 5
    source: ClassVar[str] = "Hochbruck and Ostermann 2011"

    @property
    def corrects(self) -> bool:
        return True

    def corrector(self, history: History) -> np.ndarray:
        return self._weights(history, np.column_stack([history.size, history.back]))


@dataclass(frozen=True)
class ExponentialAdamsMoulton(_AdamsMoulton):
    """Exponential Adams-Bashforth and -Moulton as predictor and corrector, PEC: order k + 1, one evaluation a step.

    The output at the predicted state is the one that is remembered. The last step is not corrected: its one predicted
    step has the local error that the order wants.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method. `variable`: the integration
    variable of the polynomials, the log-SNR by default.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"exp-pec{k}": {"k": k} for k in (1, 2, 3, 4, 5)},
        **{f"exp-pec{k}-noise": {"k": k, "part": NoisePart()} for k in (3, 4, 5)},
    }


@dataclass(frozen=True)
class ExponentialAdamsPECE(_AdamsMoulton):
    """The same, and the corrected state is evaluated again, PECE: order k + 1, two evaluations a step.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method. `variable`: the integration
    variable of the polynomials, the log-SNR by default.
    """

    pece = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"exp-pece{k}": {"k": k} for k in (2, 3)}


@dataclass(frozen=True)
class DEIS(_Adams):
    """DEIS tAB: the noise as a polynomial in time through k nodes, order k (arXiv:2204.13902). The paper counts k - 1.

        x_s / alpha_s = x_t / alpha_t + sum_j C_j E_j,   C_j = INT l_j d(sigma / alpha), l_j in time

    Its weights are integrated to rounding. Polynomials in time amplify errors on even steps in the log-SNR, which lie
    close together in time at both ends of a run: hence the default spacing.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method. `variable`: the integration
    variable, time.
    """

    part: LinearPart = field(default=NoisePart(), kw_only=True)
    variable: IntegrationVariable = field(default=Time(), kw_only=True)
    largest_k: ClassVar[int] = 4
    source: ClassVar[str] = "arXiv:2204.13902"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"deis-tab{k - 1}": {"k": k} for k in (1, 2, 3, 4)}

    @property
    def spacing(self) -> Spacing:
        return UniformLogShift()


@dataclass(frozen=True)
class LMS(_Adams):
    """The linear multistep method of Karras' sigma: the noise as a polynomial in sigma/alpha through k nodes, order k.

        x_s / alpha_s = x_t / alpha_t + sum_j C_j E_j,   C_j = INT l_j d(sigma / alpha), l_j in sigma / alpha

    DEIS calls it rho-AB.

    `k`, `start`, `lower_order_final` and `part` are those of every `Multistep` method. `variable`: the integration
    variable, sigma / alpha.
    """

    part: LinearPart = field(default=NoisePart(), kw_only=True)
    variable: IntegrationVariable = field(default=DDIMCoordinates(), kw_only=True)
    largest_k: ClassVar[int] = 4
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"lms-{k}": {"k": k} for k in (2, 3, 4)}


@dataclass(frozen=True)
class SASolver(_AdamsMoulton):
    """SA-Solver (arXiv:2309.05019): stochastic Adams in data form; tau is the problem's eta, a function of time too.

        x_s = (sigma_s / sigma_t) e^(-tau^2 h) x_t + alpha_s (1 + tau^2) sum_j w_j D_j
              + sigma_s sqrt(1 - e^(-2 tau^2 h)) z

    w_j the integrals of Lagrange's polynomials against e^(-(1 + tau^2)(h - u)).

    The predictor uses `k` evaluations, the corrector `corrector_k` of them and the new one, and the same noise; with 0
    the predictor stands alone. Weak order 2; on the flow the order of the deterministic method.

    `start`, `lower_order_final` and `part` are those of every `Multistep` method. `variable`: the integration
    variable of the polynomials, the log-SNR by default.
    """

    k: int = 3
    corrector_k: int = 3
    solves: ClassVar[tuple[type, ...]] = (ProbabilityFlow, ReverseSDE)
    strong_order = 1
    largest_k: ClassVar[int] = 4
    source: ClassVar[str] = "arXiv:2309.05019"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sa-solver": {"k": 3, "corrector_k": 3},
        "sa-predictor2": {"k": 2, "corrector_k": 0},
        "sa-predictor3": {"k": 3, "corrector_k": 0},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self, "corrector_k", int, "3")
        if not 0 <= self.corrector_k <= 4:
            raise ValueError(
                f"corrector_k = {self.corrector_k}: the corrector takes 1 to 4 old evaluations, 0 for none"
            )

    @property
    def starts_at_pure_noise(self) -> bool:
        return self.part.regular_at_pure_noise and isinstance(self.variable, LogSNR)

    @property
    def corrects(self) -> bool:
        return self.corrector_k > 0

    @property
    def history_length(self) -> int:
        return max(self.k, self.corrector_k)

    @property
    def full_order(self) -> int:
        return min(self.k, self.corrector_k) + 1 if self.corrects else self.k

    @property
    def weak_order(self) -> int:
        return min(self.full_order, 2)

    def _step_order(self, used: int, corrected: bool) -> int:
        predicted = min(self.k, used)
        return min(predicted, self.corrector_k) + 1 if corrected else predicted

    def predictor(self, history: History) -> np.ndarray:
        return super().predictor(history._replace(back=history.back[:, : self.k]))

    def corrector(self, history: History) -> np.ndarray:
        back = history.back[:, : self.corrector_k]
        return super().corrector(history._replace(back=back)) if self.corrects else np.empty((len(back), 0))
