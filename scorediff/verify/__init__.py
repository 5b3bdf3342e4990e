"""Proofs about solvers: the measured order, the exact law, the unrolled coefficients, the equality of two laws."""

from scorediff.verify.coefficients import Coefficients, coefficients
from scorediff.verify.measured import Measurement, OrderReport
from scorediff.verify.moments import Moments, moments
from scorediff.verify.order import order
from scorediff.verify.slope import Point, Slope, Use

__all__ = [
    "Coefficients",
    "Measurement",
    "Moments",
    "OrderReport",
    "Point",
    "Slope",
    "Use",
    "coefficients",
    "moments",
    "order",
]
