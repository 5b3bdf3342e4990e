"""What a study returns: its rows, and the same as text, CSV and picture."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorediff._core.files import write_whole
from scorediff._core.tables import aligned
from scorediff.study import drawing
from scorediff.study.rows import DistributionRow, Reference, TrajectoryRow

__all__ = ["WorkPrecision"]


@dataclass(frozen=True)
class WorkPrecision:
    """What `work_precision` measured.

    `trajectories`: a row for each run of an ODE solver. `distributions`: one for each run of an SDE solver.
    `reference`: the true trajectories, None without ODE solvers. `floor`: the distance between two exact sets of
    samples, None without SDE solvers. `samples`: how many were run. `t_end`: the time at which they are compared.
    """

    trajectories: tuple[TrajectoryRow, ...]
    distributions: tuple[DistributionRow, ...]
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
        if self.distributions and self.floor is not None:
            heading = (
                f"Stochastic solvers have no trajectory to compare: distance in distribution at t = {self.t_end:g},\n"
                f"sliced Wasserstein-2, of {self.samples} samples to as many exact ones. Two exact sets of that size\n"
                f"are {self.floor:.3g} apart: nothing at or below that floor can be distinguished from exact."
            )
            parts.append(f"{heading}\n\n{_distribution_text(self.distributions)}")
        return "\n\n".join(parts)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per run, whole or not at all; its `measure` is the trajectory or the distribution."""
        names = ["measure", "solver", "order", "steps", "evaluations"]
        names += ["median", "rms", "q95", "other", "distance", "floor", "failed", "samples"]
        lines: list[dict[str, Any]] = [{"measure": "trajectory", **dataclasses.asdict(r)} for r in self.trajectories]
        for row in self.distributions:
            line = dataclasses.asdict(row)
            lines.append({"measure": "distribution", "order": line.pop("weak_order"), "floor": self.floor, **line})

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
        drawing.plot(path, self.trajectories, self.distributions, samples=self.samples, floor=self.floor, title=title)


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


def _distribution_text(rows: Sequence[DistributionRow]) -> str:
    lines = [
        [*_work(row, row.weak_order), f"{row.failed} failed" if row.failed else f"{row.distance:.3f}"] for row in rows
    ]
    return aligned(["solver", "weak order", "steps", "evaluations", "distance"], lines)


def _work(row: TrajectoryRow | DistributionRow, order: int | None) -> list[str]:
    return [row.solver, _or_dash(order), f"{row.steps:.4g}", f"{row.evaluations:.4g}"]


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _gain(before: TrajectoryRow | None, row: TrajectoryRow) -> str:
    """By what one doubling of the evaluations divided the median error since the row before, where that is one."""
    if before is None or before.solver != row.solver or not row.median > 0:
        return ""
    doublings = math.log2(row.evaluations / before.evaluations)
    return f"{(before.median / row.median) ** (1 / doublings):.2f}" if 0.7 < doublings < 1.5 else ""
