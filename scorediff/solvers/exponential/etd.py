"""Exponential time differencing: the classical Runge-Kutta methods made exponential, and those for stiff problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from scorediff.linear_parts import NoisePart
from scorediff.solvers.exponential.runge_kutta import ExponentialRungeKutta
from scorediff.solvers.exponential.tableau import ExponentialTableau, Phi

__all__ = ["ETD3RK", "KROGSTAD43", "CoxMatthews", "ExpRK5s8", "HochbruckOstermann", "Krogstad", "StrehmelWeiner"]

_P = Phi.of


@dataclass(frozen=True)
class ETD3RK(ExponentialRungeKutta):
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
class CoxMatthews(ExponentialRungeKutta):
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
class Krogstad(ExponentialRungeKutta):
    """Krogstad's ETDRK4-B, order 4.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Krogstad 2005"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"krogstad": {}, "krogstad-noise": {"part": NoisePart()}}
    tableau = ExponentialTableau(4, (0.0, 0.5, 0.5, 1.0), _KROGSTAD, _FOURTH)


@dataclass(frozen=True)
class StrehmelWeiner(ExponentialRungeKutta):
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
class HochbruckOstermann(ExponentialRungeKutta):
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
class ExpRK5s8(ExponentialRungeKutta):
    """Luan and Ostermann's eight stages, order 5 also where the linear part is stiff.

    `part`: the linear part that is taken out, the data by default.
    """

    source: ClassVar[str] = "Luan and Ostermann 2014"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exprk5s8": {}}
    tableau = _eight_stages()
