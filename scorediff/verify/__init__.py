"""Proofs about solvers: the measured order, the exact law, the unrolled coefficients, the equality of two laws."""

from scorediff.verify.audit import Audit, audit
from scorediff.verify.coefficients import Coefficients, coefficients
from scorediff.verify.exactness import exactness
from scorediff.verify.measured import Measurement, OrderReport
from scorediff.verify.moments import Moments, moments
from scorediff.verify.order import order
from scorediff.verify.runs import GAUSSIAN, LINE, MIXTURE
from scorediff.verify.slope import Point, Slope, Use
from scorediff.verify.strong import strong_order

__all__ = [
    "GAUSSIAN",
    "LINE",
    "MIXTURE",
    "Audit",
    "Coefficients",
    "Measurement",
    "Moments",
    "OrderReport",
    "Point",
    "Slope",
    "Use",
    "audit",
    "coefficients",
    "exactness",
    "moments",
    "order",
    "strong_order",
]
