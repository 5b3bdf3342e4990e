"""Denoisers made of denoisers, so that every solver, adaptive ones included, sees one consistent equation."""

from scorediff.guidance.base import Guidance, warn_of_kinks
from scorediff.guidance.classifier import ClassifierGuidance
from scorediff.guidance.clipping import Clipped, DynamicThreshold
from scorediff.guidance.contrast import Autoguidance, ClassifierFree, Rescaled
from scorediff.guidance.interval import GuidanceInterval
from scorediff.guidance.inverse import DPS, PiGDM
from scorediff.guidance.operators import AveragePooling, Mask, Matrix, Operator

__all__ = [
    "DPS",
    "Autoguidance",
    "AveragePooling",
    "ClassifierFree",
    "ClassifierGuidance",
    "Clipped",
    "DynamicThreshold",
    "Guidance",
    "GuidanceInterval",
    "Mask",
    "Matrix",
    "Operator",
    "PiGDM",
    "Rescaled",
    "warn_of_kinks",
]
