"""Denoisers made of denoisers, so that every solver, adaptive ones included, sees one consistent equation."""

from scorediff.guidance.base import Guidance, kinks, warn_of_kinks
from scorediff.guidance.classifier import ClassifierGuidance
from scorediff.guidance.clipping import Clipped, DynamicThreshold
from scorediff.guidance.contrast import Autoguidance, ClassifierFree, Rescaled
from scorediff.guidance.inverse import DPS, PseudoInverse
from scorediff.guidance.limited import Limited
from scorediff.guidance.operators import Averages, Mask, Matrix, Operator

__all__ = [
    "DPS",
    "Autoguidance",
    "Averages",
    "ClassifierFree",
    "ClassifierGuidance",
    "Clipped",
    "DynamicThreshold",
    "Guidance",
    "Limited",
    "Mask",
    "Matrix",
    "Operator",
    "PseudoInverse",
    "Rescaled",
    "kinks",
    "warn_of_kinks",
]
