"""Times to step through: `Grid` is the array, a `Spacing` the rule that makes one."""

from scorediff.spacings.base import Spacing
from scorediff.spacings.beta import Beta
from scorediff.spacings.exponential import Exponential
from scorediff.spacings.grid import Grid
from scorediff.spacings.karras import Karras
from scorediff.spacings.log_shift import UniformLogShift
from scorediff.spacings.quadratic import Quadratic
from scorediff.spacings.subsequence import Subsequence
from scorediff.spacings.times import Times
from scorediff.spacings.uniform import FlowTime, UniformAngle, UniformIn, UniformLogSNR, UniformTime

__all__ = [
    "Beta",
    "Exponential",
    "FlowTime",
    "Grid",
    "Karras",
    "Quadratic",
    "Spacing",
    "Subsequence",
    "Times",
    "UniformAngle",
    "UniformIn",
    "UniformLogSNR",
    "UniformLogShift",
    "UniformTime",
]
