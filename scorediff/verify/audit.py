"""The table of all solvers: every declared order beside the measured one."""

import csv
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scorediff._core.files import write_whole
from scorediff.problems import ProbabilityFlow, ReverseSDE
from scorediff.solvers import Solver
from scorediff.solvers.solve import resolve
from scorediff.verify.measured import OrderReport
from scorediff.verify.order import order
from scorediff.verify.runs import stochastic
from scorediff.verify.strong import strong_order

__all__ = ["HEADER", "Audit", "Row", "audit", "between_marks"]

_ETAS = (1.0, 0.5)
_MARKS = "<!-- orders -->", "<!-- /orders -->"
HEADER = ("solver", "kind", "declared", "measured", "95 % interval", "evals/step", "verdict")


@dataclass(frozen=True)
class Row:
    """One claim of one solver.

    `solver`: its name. `kind`: of order, as in `OrderReport`. `report`: what was measured, None where nothing was.
    `skipped`: why not.
    """

    solver: str
    kind: str
    report: OrderReport | None
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether the claim holds, or none is made."""
        return self.report is None or self.report.ok

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        r = self.report
        if r is None:
            return (self.solver, self.kind, "-", "-", "-", "-", f"skipped: {self.skipped}")
        measured = "-" if r.order is None else f"{r.order:.2f}"
        interval = "-" if r.interval is None else f"{r.interval[0]:.2f} to {r.interval[1]:.2f}"
        per_step = "varies" if r.per_step is None else f"{r.per_step:.3g}"
        return (
            self.solver,
            self.kind,
            f"{r.declared:g}" if r.declared else "-",
            measured,
            interval,
            per_step,
            r.verdict,
        )


@dataclass(frozen=True)
class Audit:
    """The table of orders, as text, markdown and CSV; `rows`: one for each claim of each solver."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every measured order is the declared one."""
        return all(row.ok for row in self.rows)

    def table(self) -> str:
        """The table as aligned text, and its summary."""
        from scorediff._core.tables import aligned

        return aligned(HEADER, [row.cells for row in self.rows], flush_left=(0, 1, 6)) + f"\n\n{self.summary()}"

    def summary(self) -> str:
        """How many claims hold."""
        bad = [f"{row.solver} ({row.kind})" for row in self.rows if not row.ok]
        measured = sum(row.report is not None for row in self.rows)
        words = f"{measured - len(bad)} of {measured} declared orders are the measured ones"
        skipped = len(self.rows) - measured
        words += f", {skipped} skipped" if skipped else ""
        return f"{words}; mismatches: {', '.join(bad)}" if bad else words

    def markdown(self) -> str:
        """The table in markdown."""
        lines = [HEADER, ("---",) * len(HEADER), *(row.cells for row in self.rows)]
        return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)

    def to_markdown(self, path: str | Path) -> None:
        """Write the table, whole or not at all: between the marks of a file that is there, see `between_marks`."""
        before, after = between_marks(path)
        write_whole(path, lambda part: part.write_text(f"{before}{self.markdown()}\n{after}", encoding="utf-8"))

    def to_csv(self, path: str | Path) -> None:
        """Write a line per problem and claim, whole or not at all."""

        def write(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(
                    ["solver", "kind", "problem", "declared", "measured", "low", "high", "floor", "evals_per_step"]
                )
                writer.writerows(_lines(self.rows))

        write_whole(path, write)


def between_marks(path: str | Path) -> tuple[str, str]:
    """What stands before and after the table in a markdown file: up to the line `<!-- orders -->`, and from the line
    `<!-- /orders -->`; nothing, where there is no such file yet. Raises ValueError for a file without both.
    """
    file = Path(path)
    if not file.exists():
        return "", ""
    before, first, rest = file.read_text(encoding="utf-8").partition(_MARKS[0])
    _, second, after = rest.partition(_MARKS[1])
    if not (first and second):
        marks = " and ".join(_MARKS)
        raise ValueError(f"{path} has no lines {marks} to put the table between: add them, or name a new file")
    return f"{before}{first}\n", f"{second}{after}"


def _lines(rows: Sequence[Row]) -> Iterator[list[object]]:
    for row in rows:
        if row.report is None:
            yield [row.solver, row.kind, row.skipped, *[""] * 6]
            continue
        for m in row.report.measurements:
            low, high = (m.slope.interval if m.slope else None) or ("", "")
            numbers = [m.order, low, high, m.slope.floor if m.slope else None, m.per_step]
            yield [row.solver, row.kind, m.problem, row.report.declared, *("" if n is None else n for n in numbers)]


def audit(solver: Solver | str) -> tuple[Row, ...]:
    """Every claim of `solver`, measured: its order, its weak order at eta of 1 and 0.5, its strong order at eta of 1.

    >>> [row.report.ok for row in audit("euler")]
    [True]
    """
    name = solver if isinstance(solver, str) else solver.name
    solver = resolve(solver)
    claims: list[tuple[str, float | None, Callable[[], OrderReport]]] = []
    if ProbabilityFlow in solver.solves and stochastic(solver):
        claims.append(("weak order", solver.weak_order, lambda: order(solver, eta=0.0)))
    elif ProbabilityFlow in solver.solves:
        claims.append(("order", solver.order, lambda: order(solver, eta=0.0)))
    if ReverseSDE in solver.solves:
        claims.append(("weak order", solver.weak_order, lambda: _joined([order(solver, eta=eta) for eta in _ETAS])))
        claims.append(("strong order", solver.strong_order, lambda: strong_order(solver)))
    return tuple(
        Row(name, kind, None, "it declares none") if declared is None else Row(name, kind, measure())
        for kind, declared, measure in claims
    )


def _joined(reports: Sequence[OrderReport]) -> OrderReport:
    """One report of several, on all their problems."""
    return dataclasses.replace(reports[0], measurements=tuple(m for r in reports for m in r.measurements))
