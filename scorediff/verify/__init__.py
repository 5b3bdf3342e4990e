"""Proofs about solvers: the measured order, the exact distribution of the output, the unrolled coefficients, whether
two outputs have one distribution.
"""

from scorediff.verify.audit import Audit, Row, audit
from scorediff.verify.coefficients import Coefficients, coefficients
from scorediff.verify.exactness import exactness
from scorediff.verify.marginals import Marginals, Refinement, Sampler, marginals
from scorediff.verify.measured import Measurement, OrderReport
from scorediff.verify.moments import Moments, moments
from scorediff.verify.order import order
from scorediff.verify.rooted_trees import classical_order, exponential_order, stiff_order
from scorediff.verify.runs import GAUSSIAN, LINE, MIXTURE, uneven
from scorediff.verify.slope import ConvergencePoint, Slope, Use
from scorediff.verify.step import StepOrder, step_order
from scorediff.verify.strong import strong_order
from scorediff.verify.two_sample import Alternative, TwoSample, scaled, shifted, two_sample

__all__ = [
    "GAUSSIAN",
    "LINE",
    "MIXTURE",
    "Alternative",
    "Audit",
    "Coefficients",
    "ConvergencePoint",
    "Marginals",
    "Measurement",
    "Moments",
    "OrderReport",
    "Refinement",
    "Row",
    "Sampler",
    "Slope",
    "StepOrder",
    "TwoSample",
    "Use",
    "audit",
    "classical_order",
    "coefficients",
    "exactness",
    "exponential_order",
    "marginals",
    "moments",
    "order",
    "scaled",
    "shifted",
    "step_order",
    "stiff_order",
    "strong_order",
    "two_sample",
    "uneven",
]
