"""Work against precision: how far each solver is from the truth, per evaluation of the denoiser."""

from scorediff.study.measure import reference, sliced_wasserstein, work_precision
from scorediff.study.result import LawRow, Reference, TrajectoryRow, WorkPrecision

__all__ = ["LawRow", "Reference", "TrajectoryRow", "WorkPrecision", "reference", "sliced_wasserstein", "work_precision"]
