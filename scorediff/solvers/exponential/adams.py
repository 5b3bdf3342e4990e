"""Exponential Adams methods: Lagrange's interpolant of the readings, integrated against the exact kernel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scorediff.coordinates import Coordinates, DDIMCoordinates, LogSNR, Time
from scorediff.problems import ProbabilityFlow, ReverseSDE
from scorediff.solvers.base import Exact
from scorediff.solvers.exponential.forms import DataForm, Form, NoiseForm, check_kind
from scorediff.solvers.exponential.multistep import Multistep, Past, lagrange_weights

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
    """The polynomial is one in the clock of `variable`."""

    variable: ClassVar[Coordinates] = LogSNR()

    @property
    def exact_on(self) -> frozenset[Exact]:
        return frozenset({Exact.MEAN, Exact.POINT_MASS})

    def predictor(self, past: Past) -> np.ndarray:
        if isinstance(self.variable, LogSNR):
            return lagrange_weights(past.kappa, past.h, past.back)
        schedule, first = past.nodes.schedule, past.nodes.start.log_snr[:, None]
        lo, hi = schedule.domain
        # the clock's own numbers are spread over many decades: taken in units of its step
        start = self.variable.clock(schedule, past.t[:, :1])
        size = self.variable.clock(schedule, past.nodes.end.t[:, None]) - start

        def at(u: np.ndarray) -> np.ndarray:
            t = np.clip(schedule.time_at(first + u), lo, hi)
            return np.asarray((self.variable.clock(schedule, t) - start) / size)

        return lagrange_weights(past.kappa, past.h, (self.variable.clock(schedule, past.t) - start) / size, at)


@dataclass(frozen=True)
class ExponentialAdamsBashforth(_Adams):
    """Exponential Adams-Bashforth of order k on any grid, in data form or in noise form."""

    form: Form = DataForm()  # type: ignore[misc]
    source: ClassVar[str] = "Hochbruck and Ostermann 2011"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"exp-ab{k}": {"k": k} for k in (2, 3, 4, 5, 6)},
        **{f"exp-ab{k}-noise": {"k": k, "form": NoiseForm()} for k in (2, 4)},
    }


@dataclass(frozen=True)
class _AdamsMoulton(_Adams):
    """The corrector of order k + 1 through the predicted node and the last k."""

    form: Form = DataForm()  # type: ignore[misc]
    corrects: ClassVar[bool] = True
    largest_k: ClassVar[int] = 5
    source: ClassVar[str] = "Hochbruck and Ostermann 2011"

    def corrector(self, past: Past) -> np.ndarray | None:
        return lagrange_weights(past.kappa, past.h, np.column_stack([past.h, past.back]))


@dataclass(frozen=True)
class ExponentialAdamsMoulton(_AdamsMoulton):
    """Exponential Adams-Bashforth and -Moulton as predictor and corrector, PEC: order k + 1, one evaluation a step.

    The reading at the predicted state is the one that is remembered. The last step is not corrected: its one predicted
    step has the local error that the order wants.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"exp-pec{k}": {"k": k} for k in (1, 2, 3, 4, 5)},
        **{f"exp-pec{k}-noise": {"k": k, "form": NoiseForm()} for k in (3, 4, 5)},
    }


@dataclass(frozen=True)
class ExponentialAdamsPECE(_AdamsMoulton):
    """The same, and the corrected state is read again, PECE: order k + 1, two evaluations a step."""

    reads_again: ClassVar[bool] = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"exp-pece{k}": {"k": k} for k in (2, 3)}


@dataclass(frozen=True)
class DEIS(_Adams):
    """DEIS tAB: the noise as a polynomial in time through k nodes, order k (arXiv:2204.13902). The paper counts k - 1.

    Its weights are integrated to rounding.
    """

    form: ClassVar[Form] = NoiseForm()
    variable: ClassVar[Coordinates] = Time()
    invariant: ClassVar[bool] = False
    largest_k: ClassVar[int] = 4
    source: ClassVar[str] = "arXiv:2204.13902"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"deis-tab{k - 1}": {"k": k} for k in (1, 2, 3, 4)}


@dataclass(frozen=True)
class LMS(_Adams):
    """The linear multistep method of Karras' sigma: the noise as a polynomial in sigma/alpha through k nodes, order k.

    DEIS calls it rho-AB.
    """

    form: ClassVar[Form] = NoiseForm()
    variable: ClassVar[Coordinates] = DDIMCoordinates()
    largest_k: ClassVar[int] = 4
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"lms-{k}": {"k": k} for k in (2, 3, 4)}


@dataclass(frozen=True)
class SASolver(_AdamsMoulton):
    """SA-Solver (arXiv:2309.05019): stochastic Adams in data form; tau is the problem's eta, a function of time too.

    The predictor has `k` readings, the corrector `corrector` of them and the new one, and the same noise; without
    a corrector (0) the predictor stands alone. Weak order 2; on the flow the order of the deterministic method.
    """

    k: int = 3
    corrector_k: int = 3
    solves: ClassVar[tuple[type, ...]] = (ProbabilityFlow, ReverseSDE)
    starts_at_pure_noise: ClassVar[bool] = True
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
            raise ValueError(f"corrector_k = {self.corrector_k}: the corrector takes 1 to 4 old readings, 0 for none")

    @property
    def corrects(self) -> bool:  # type: ignore[override]
        return self.corrector_k > 0

    @property
    def looks_back(self) -> int:
        return max(self.k, self.corrector_k)

    @property
    def full_order(self) -> int:
        return min(self.k, self.corrector_k) + 1 if self.corrects else self.k

    @property
    def weak_order(self) -> int:
        return min(self.full_order, 2)

    def _step_order(self, readings: int, corrected: bool) -> int:
        predicted = min(self.k, readings)
        return min(predicted, self.corrector_k) + 1 if corrected else predicted

    def predictor(self, past: Past) -> np.ndarray:
        return super().predictor(past._replace(back=past.back[:, : self.k], t=past.t[:, : self.k]))

    def corrector(self, past: Past) -> np.ndarray | None:
        if not self.corrects:
            return None
        return super().corrector(past._replace(back=past.back[:, : self.corrector_k]))
