"""Work against precision: how far each solver is from the truth, per evaluation of the denoiser."""

from scorediff.study.measure import reference, sliced_wasserstein, work_precision
from scorediff.study.result import WorkPrecision
from scorediff.study.rows import DistributionRow, Reference, TrajectoryRow

__all__ = [
    "DistributionRow",
    "Reference",
    "TrajectoryRow",
    "WorkPrecision",
    "reference",
    "sliced_wasserstein",
    "work_precision",
]
