"""What a study returns: its rows, and the same as text, CSV and picture."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scorediff._core.files import write_whole
from scorediff._core.tables import aligned

__all__ = ["LawRow", "Reference", "TrajectoryRow", "WorkPrecision"]


@dataclass(frozen=True)
class Reference:
    """Where the true trajectories end: `x` of shape (B, ...), float64, and how well that is known.

    `error` is the largest distance over samples, as a root mean square over entries, to a second computation by another
    route; None where `x` was given. `route` says which two.
    """

    x: Tensor
    error: float | None = None
    route: str = "given"


@dataclass(frozen=True)
class TrajectoryRow:
    """One run of an ODE solver: errors are root mean squares over entries; `median`, `rms` and `q95` are over samples.

    `steps` and `evaluations` are means over samples, as measured. `other` counts samples that ended nearer to another
    datum than their true trajectory did, for a data set's own law. Where samples `failed` the errors are NaN.
    """

    solver: str
    order: int | None
    steps: float
    evaluations: float
    median: float
    rms: float
    q95: float
    other: int | None = None
    failed: int = 0
    adaptive: bool = False


@dataclass(frozen=True)
class LawRow:
    """One run of an SDE solver: `distance` is sliced Wasserstein-2, to exact samples of the law at t_end."""

    solver: str
    weak_order: int | None
    steps: float
    evaluations: float
    distance: float
    failed: int = 0


@dataclass(frozen=True)
class WorkPrecision:
    """What `work_precision` measured; `floor` is the distance in law between two exact sets of `samples` samples."""

    trajectories: tuple[TrajectoryRow, ...]
    laws: tuple[LawRow, ...]
    reference: Reference | None
    floor: float | None
    samples: int
    t_end: float

    def table(self) -> str:
        """The measurements as text, at most 100 columns wide where names are short."""
        parts = []
        if self.trajectories and self.reference is not None:
            known = "" if self.reference.error is None else f", known to {self.reference.error:.0e} or better"
            heading = (
                f"Distance to the true trajectory at t = {self.t_end:g}{known}.\n"
                f"Root mean square over entries; median, rms and 95 % quantile over {self.samples} samples.\n"
                '"per x2": by how much one doubling of the evaluations divides the median.'
            )
            if any(row.other is not None for row in self.trajectories):
                heading += '\n"other": samples that ended nearer to another datum than their true trajectory.'
            parts.append(f"{heading}\n\n{_trajectory_text(self.trajectories)}")
        if self.laws and self.floor is not None:
            heading = (
                f"Stochastic solvers have no trajectory to compare: distance in law at t = {self.t_end:g}, sliced\n"
                f"Wasserstein-2, of {self.samples} samples to as many exact ones. Two exact sets of that size are\n"
                f"{self.floor:.3g} apart: nothing at or below that floor can be told from exact."
            )
            parts.append(f"{heading}\n\n{_law_text(self.laws)}")
        return "\n\n".join(parts)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per run, whole or not at all; `measure` tells errors of trajectories and of laws apart."""
        names = ["measure", "solver", "order", "steps", "evaluations"]
        names += ["median", "rms", "q95", "other", "distance", "floor", "failed", "samples"]
        lines: list[dict[str, Any]] = [{"measure": "trajectory", **dataclasses.asdict(r)} for r in self.trajectories]
        for law in self.laws:
            line = dataclasses.asdict(law)
            lines.append({"measure": "law", "order": line.pop("weak_order"), "floor": self.floor, **line})

        def write(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows({"samples": self.samples, **line} for line in lines)

        write_whole(path, write)

    def plot(self, path: str | Path, *, title: str = "") -> None:
        """Draw error against evaluations, doubly logarithmic, whole or not at all; the suffix of `path` is the
        format.
        """
        from scorediff.study.drawing import plot

        plot(path, self, title)


def _trajectory_text(rows: Sequence[TrajectoryRow]) -> str:
    counted = any(row.other is not None for row in rows)
    header = ["solver", "order", "steps", "evaluations", "median", "per x2", "rms", "95 %", *["other"] * counted]
    lines, before = [], None
    for row in rows:
        errors = [f"{row.median:.2e}", _gain(before, row), f"{row.rms:.2e}", f"{row.q95:.2e}"]
        if row.failed:
            errors = [f"{row.failed} failed", "", "", ""]
        lines.append([*_work(row, row.order), *errors, *[_or_dash(row.other)] * counted])
        before = row
    return aligned(header, lines)


def _law_text(rows: Sequence[LawRow]) -> str:
    lines = [
        [*_work(row, row.weak_order), f"{row.failed} failed" if row.failed else f"{row.distance:.3f}"] for row in rows
    ]
    return aligned(["solver", "weak order", "steps", "evaluations", "distance"], lines)


def _work(row: TrajectoryRow | LawRow, order: int | None) -> list[str]:
    return [row.solver, _or_dash(order), f"{row.steps:.4g}", f"{row.evaluations:.4g}"]


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _gain(before: TrajectoryRow | None, row: TrajectoryRow) -> str:
    """By what one doubling of the evaluations divided the median error since the row before, where that is one."""
    if before is None or before.solver != row.solver or not row.median > 0:
        return ""
    doublings = math.log2(row.evaluations / before.evaluations)
    return f"{(before.median / row.median) ** (1 / doublings):.2f}" if 0.7 < doublings < 1.5 else ""
