"""Exponential Runge-Kutta methods, a tableau each: single-step solvers for any linear part, with exact noise."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from scorediff.linear_parts import DataPart, IsotropicPart, Kernel, LinearPart, NoisePart
from scorediff.problems import ReverseSDE
from scorediff.solvers.base import Exact
from scorediff.solvers.exponential.engine import ExponentialIntegrator, check_kind, exact_on
from scorediff.solvers.exponential.plan import GridSteps, Stage, StepPlan
from scorediff.solvers.exponential.tableau import ExponentialTableau, Phi

__all__ = [
    "DPM2",
    "ERK3",
    "ETD3RK",
    "KROGSTAD43",
    "MIDPOINT",
    "RES",
    "CoxMatthews",
    "DPMSolverSinglestep",
    "ExpRK5s8",
    "HochbruckOstermann",
    "Krogstad",
    "StrehmelWeiner",
    "runge_kutta_plan",
    "weight_of",
]

_P = Phi.of


def weight_of(w: Phi, kernel: Kernel, h: np.ndarray) -> np.ndarray:
    """The combination `w` of phi-functions at `kappa h`, or of what stands for them with another kernel."""
    return np.asarray(sum((c * kernel.phi(k, node, h) for (k, node), c in w.terms.items()), np.zeros_like(h)))


def runge_kutta_plan(tableau: ExponentialTableau, part: IsotropicPart, steps: GridSteps) -> Iterator[StepPlan]:
    """The steps of a method, evaluations counted within each. Every stage sees the noise up to its own node."""
    c = tableau.c
    h, eta = steps.h, steps.eta
    levels = [steps.inside(ci) for ci in (*c, 1.0)]
    ends = sorted({*c, 1.0} - {0.0})
    marks = [steps.start, *(steps.inside(end) for end in ends)]
    stds = [part.noise_std(a, b, eta) for a, b in pairwise(marks)]
    columns = []
    for row, at, end in zip(tableau.rows, levels[1:], (*c[1:], 1.0), strict=True):
        # u = propagator x_0 + integral_weight h sum_j a_ij M_j, and the noise of the intervals up to here
        kernel, weight = part.kernel(at, eta), part.integral_weight(at, eta) * h
        noises = [
            np.where(eta > 0, part.propagator(mark, at, eta) * std, 0.0) if stop <= end else np.zeros_like(h)
            for mark, std, stop in zip(marks[1:], stds, ends, strict=True)
        ]
        columns.append(
            (
                part.propagator(steps.start, at, eta).tolist(),
                np.stack([weight * weight_of(w, kernel, h) for w in row], axis=1).tolist(),
                np.stack(noises, axis=1).tolist(),
            )
        )
    times = np.stack([level.t for level in levels], axis=1).tolist()
    log_snrs = np.stack([mark.log_snr for mark in marks], axis=1).tolist()
    outputs = [np.stack(part.on(level), axis=1).tolist() for level in levels]
    for n in range(len(steps)):
        noisy = bool(eta[n] > 0)
        stages = []
        for i, (propagator, weights, noises) in enumerate(columns):
            *before, last = weights[n]
            # the newest evaluation comes last; where the row does not reach it, it weighs nothing
            before, last = (weights[n], 0.0) if len(weights[n]) <= i else (before, last)
            numbered = [(j, w) for j, w in enumerate(before) if w]
            on_data, on_noise = outputs[i][n]
            fresh = noises[n] if noisy else ()
            stages.append(
                Stage(times[n][i], propagator[n], last * on_data, last * on_noise, numbered, fresh, (on_data, on_noise))
            )
        intervals = list(pairwise(log_snrs[n])) if noisy else []
        yield StepPlan(times[n][0], times[n][-1], stages, intervals, (), tableau.order)


@dataclass(frozen=True)
class _ExponentialRungeKutta(ExponentialIntegrator):
    """`u_i = propagator x_t + integral_weight h sum_j a_ij M_j`, and the same with b_i for x_s: subclasses state a
    tableau, and the linear `part` unless it is the data's.
    """

    part: LinearPart = field(default=DataPart(), kw_only=True)

    def __post_init__(self) -> None:
        check_kind(self, "part", LinearPart, "NoisePart()")

    @property
    @abstractmethod
    def tableau(self) -> ExponentialTableau:
        """The weights."""

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def nfe(self) -> int:
        return len(self.tableau.c)

    @property
    def exact_on(self) -> frozenset[Exact]:
        return exact_on(self.part, noisy=ReverseSDE in self.solves)

    def plan(self, steps: GridSteps, part: IsotropicPart) -> Iterator[StepPlan]:
        for n, step in enumerate(runge_kutta_plan(self.tableau, part, steps)):
            yield step.after(n * len(step.stages))


# u = first-order step to c; b = phi_1 - phi_1/(2c), phi_1/(2c): the difference quotient for the derivative
def _midpoint(c: float) -> ExponentialTableau:
    return ExponentialTableau(2, (0.0, c), ({},), {1: _P(1) / (2 * c)}, lower={})


# b_1 = phi_2 / c: the integral of the line through both outputs
_ERK2 = ExponentialTableau(2, (0.0, 0.5), ({},), {1: 2 * _P(2)}, lower={})
# Hochbruck and Ostermann's third order at c = 1/3, 2/3: a_21 = (4 / (9 c_1)) phi_2(2z/3), b_2 = 3/2 phi_2
ERK3 = ExponentialTableau(
    3, (0.0, 1 / 3, 2 / 3), ({}, {1: 4 / 3 * _P(2, 2 / 3)}), {2: 1.5 * _P(2)}, lower={1: 3 * _P(2)}
)


@dataclass(frozen=True)
class DPMSolverSinglestep(_ExponentialRungeKutta):
    """DPM-Solver-2S and -3S in noise form (arXiv:2206.00927), and DPM-Solver++ 2S and 3S in data form
    (arXiv:2211.01095). `k` is the number of stages, and the order.

    `part`: the linear part that is taken out, the data by default.
    """

    k: int = 2
    source: ClassVar[str] = "arXiv:2206.00927"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dpm-2s": {"k": 2, "part": NoisePart()},
        "dpm-3s": {"k": 3, "part": NoisePart()},
        "dpm++2s": {"k": 2, "part": DataPart()},
        "dpm++3s": {"k": 3, "part": DataPart()},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k not in (2, 3):
            raise ValueError(f"k = {self.k}: the singlestep DPM-Solvers have 2 or 3 stages")

    @property
    def tableau(self) -> ExponentialTableau:
        return MIDPOINT if self.k == 2 else ERK3


MIDPOINT = _midpoint(0.5)


@dataclass(frozen=True)
class RES(_ExponentialRungeKutta):
    """The refined exponential solvers RES-2 and RES-3 (arXiv:2308.02157), `k` stages: phi_2 where DPM-Solver-2S has
    phi_1/2.

    `part`: the linear part that is taken out, the data by default.
    """

    k: int = 2
    source: ClassVar[str] = "arXiv:2308.02157"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"res-2": {"k": 2}, "res-3": {"k": 3}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k not in (2, 3):
            raise ValueError(f"k = {self.k}: RES has 2 or 3 stages")

    @property
    def tableau(self) -> ExponentialTableau:
        return _ERK2 if self.k == 2 else ERK3


@dataclass(frozen=True)
class DPM2(_ExponentialRungeKutta):
    """k-diffusion's DPM2: the output at the middle of the log-SNR for the whole step, in noise form (arXiv:2206.00364,
    algorithm 2 with another midpoint).

    `part`: the linear part that is taken out, the noise by default.
    """

    part: LinearPart = field(default=NoisePart(), kw_only=True)
    source: ClassVar[str] = "arXiv:2206.00364"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"dpm2": {}}
    tableau = ExponentialTableau(2, (0.0, 0.5), ({},), {1: _P(1)})


@dataclass(frozen=True)
class ETD3RK(_ExponentialRungeKutta):
    """Cox and Matthews' third order: Kutta's method made exponential.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Cox and Matthews 2002"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"etd3rk": {}}
    tableau = ExponentialTableau(
        3,
        (0.0, 0.5, 1.0),
        ({}, {1: 2 * _P(1)}),
        {1: 4 * _P(2) - 8 * _P(3), 2: -_P(2) + 4 * _P(3)},
        lower={1: 2 * _P(2)},
    )


_FOURTH = {1: 2 * _P(2) - 4 * _P(3), 2: 2 * _P(2) - 4 * _P(3), 3: -_P(2) + 4 * _P(3)}


@dataclass(frozen=True)
class CoxMatthews(_ExponentialRungeKutta):
    """ETD4RK: the classical order 4, made exponential; its stiff order is 2.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Cox and Matthews 2002"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"etd4rk": {}}
    # a_30 = phi_1(z/2) (e^(z/2) - 1) / 2 = phi_1(z) - phi_1(z/2)
    tableau = ExponentialTableau(4, (0.0, 0.5, 0.5, 1.0), ({}, {1: _P(1, 0.5) / 2}, {2: _P(1, 0.5)}), _FOURTH)


_KROGSTAD: tuple[Mapping[int, Phi], ...] = ({}, {1: _P(2, 0.5)}, {2: 2 * _P(2)})
# the output at the result in place of that at the last stage, which lies there too, to order 3
KROGSTAD43 = ExponentialTableau(
    4,
    (0.0, 0.5, 0.5, 1.0, 1.0),
    (*_KROGSTAD, _FOURTH),
    _FOURTH,
    lower={1: _FOURTH[1], 2: _FOURTH[2], 4: _FOURTH[3]},
)


@dataclass(frozen=True)
class Krogstad(_ExponentialRungeKutta):
    """Krogstad's ETDRK4-B, order 4.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Krogstad 2005"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"krogstad": {}, "krogstad-noise": {"part": NoisePart()}}
    tableau = ExponentialTableau(4, (0.0, 0.5, 0.5, 1.0), _KROGSTAD, _FOURTH)


@dataclass(frozen=True)
class StrehmelWeiner(_ExponentialRungeKutta):
    """Strehmel and Weiner's method, order 4.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Strehmel and Weiner 1992"
    tableau = ExponentialTableau(
        4,
        (0.0, 0.5, 0.5, 1.0),
        ({}, {1: _P(2, 0.5) / 2}, {1: -2 * _P(2), 2: 4 * _P(2)}),
        {2: 4 * _P(2) - 8 * _P(3), 3: -_P(2) + 4 * _P(3)},
    )


_A52 = _P(2, 0.5) / 2 - _P(3) + _P(2) / 4 - _P(3, 0.5) / 2


@dataclass(frozen=True)
class HochbruckOstermann(_ExponentialRungeKutta):
    """Hochbruck and Ostermann's five stages, order 4 also where the linear part is stiff.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Hochbruck and Ostermann 2005"
    tableau = ExponentialTableau(
        4,
        (0.0, 0.5, 0.5, 1.0, 0.5),
        ({}, {1: _P(2, 0.5)}, {1: _P(2), 2: _P(2)}, {1: _A52, 2: _A52, 3: _P(2, 0.5) / 4 - _A52}),
        {3: -_P(2) + 4 * _P(3), 4: 4 * _P(2) - 8 * _P(3)},
    )


def _through(k: int, c: float, nodes: tuple[float, float]) -> tuple[Phi, Phi]:
    """The two weights with `sum a c = c^2 phi_2(c z)` and `sum a c^2 = 2 c^3 phi_3(c z)`."""
    first, second = c**2 * _P(2, c), 2 * c**3 * _P(3, c)
    (p, q), gap = nodes, nodes[1] - nodes[0]
    return (q * first - second) / (p * gap), (second - p * first) / (q * gap)


def _eight_stages() -> ExponentialTableau:
    c = (0.0, 0.5, 0.5, 0.25, 0.5, 0.2, 2 / 3, 1.0)
    p2 = {i + 1: _P(2, c[i]) for i in range(1, 8)}
    p3 = {i + 1: _P(3, c[i]) for i in range(1, 8)}
    p4 = {i + 1: _P(4, c[i]) for i in range(1, 8)}
    # stages are counted from 1 here, as in the paper
    a53, a54 = _through(5, c[4], (c[2], c[3]))
    a64, a65 = _through(6, c[5], (c[3], c[4]))
    a74 = -125 / 162 * a64
    a75 = 125 / 1944 * a64 - 16 / 27 * p2[7] + 320 / 81 * p3[7]
    a76 = 3125 / 3888 * a64 + 100 / 27 * p2[7] - 800 / 81 * p3[7]
    shared = (
        5 / 32 * a64
        - 1 / 28 * p2[6]
        + 36 / 175 * p2[7]
        - 48 / 25 * p3[7]
        + 6 / 175 * p4[6]
        + 192 / 35 * p4[7]
        + 6 * p4[8]
    )
    a85 = 208 / 3 * p3[8] - 16 / 3 * p2[8] - 40 * shared
    a86 = -250 / 3 * p3[8] + 250 / 21 * p2[8] + 250 / 7 * shared
    a87 = -27 * p3[8] + 27 / 14 * p2[8] + 135 / 7 * shared
    return ExponentialTableau(
        5,
        c,
        (
            {},
            {1: c[2] ** 2 / c[1] * p2[3]},
            {2: c[3] ** 2 / c[2] * p2[4]},
            {2: a53, 3: a54},
            {3: a64, 4: a65},
            {3: a74, 4: a75, 5: a76},
            {4: a85, 5: a86, 6: a87},
        ),
        {
            5: 125 / 14 * _P(2) - 625 / 14 * _P(3) + 1125 / 14 * _P(4),
            6: -27 / 14 * _P(2) + 162 / 7 * _P(3) - 405 / 7 * _P(4),
            7: 0.5 * _P(2) - 13 / 2 * _P(3) + 45 / 2 * _P(4),
        },
    )


@dataclass(frozen=True)
class ExpRK5s8(_ExponentialRungeKutta):
    """Luan and Ostermann's eight stages, order 5 also where the linear part is stiff.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Luan and Ostermann 2014"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exprk5s8": {}}
    tableau = _eight_stages()
