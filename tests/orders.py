"""The recorded table of orders, docs/orders.md: all that solvers claim, measured, and a hash of what it depends on.

`python tests/orders.py` measures the solvers whose hash is not the recorded one, and those that have no line; `--every`
measures all. The page is written anew. Exit code 1 where a claim does not hold, or an order is not the recorded one.
"""

import argparse
import re
import sys
from pathlib import Path

from sources import sources
from tqdm import tqdm

import scorediff as sd
from scorediff._core import registry
from scorediff._core.files import write_whole
from scorediff.cli.order import measured
from scorediff.verify.audit import HEADER

PAGE = Path(__file__).parents[1] / "docs" / "orders.md"
APART = 0.1  # the last digits of adaptive solvers differ from machine to machine
#: Of every solver, the rows of its claims: cells as in HEADER, and the hash last.
Record = dict[str, list[tuple[str, ...]]]


def solvers() -> dict[str, sd.Solver]:
    """All variants of the package, by name."""
    own = registry.names(sd.Solver)
    return {name: own[name] for name in sorted(own) if type(own[name]).__module__.startswith("scorediff.")}


def recorded() -> Record:
    """What the page says, read back."""
    record: Record = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else ():
        cells = tuple(cell.strip() for cell in line.strip("|").split(" | "))
        if len(cells) == len(HEADER) + 1 and re.fullmatch("[0-9a-f]{12}", cells[-1]):
            record.setdefault(cells[0], []).append(cells)
    return record


def stale(record: Record) -> list[str]:
    """The solvers without a line, or whose numbers depend on something that has changed since."""
    return [name for name, solver in solvers().items() if name not in record or record[name][0][-1] != sources(solver)]


def moved(before: Record, after: Record) -> list[str]:
    """What was recorded and is now more than `APART` away, or not there at all, in words."""
    words = []
    for name in before.keys() & after.keys():
        now = {row[1]: row[3] for row in after[name]}
        for _, kind, _, order, *_ in before[name]:
            there = now.get(kind, "nothing")
            if order != there and not (_number(order) and _number(there) and abs(float(order) - float(there)) <= APART):
                words.append(f"{name} ({kind}): {order} recorded, {there} measured")
    return sorted(words)


def _number(text: str) -> bool:
    return re.fullmatch(r"\d+\.\d+", text) is not None


def page(record: Record) -> str:
    rows = [row for name in sorted(record) for row in record[name]]
    lines = [(*HEADER, "sources"), ("---",) * (len(HEADER) + 1), *rows]
    return TEXT.format(table="\n".join(f"| {' | '.join(line)} |" for line in lines))


TEXT = """# Orders: declared and measured

Every claim of every solver, beside what is measured (`make orders`). An order holds if it is nowhere more than 0.15
below the declared one nor more than 0.35 above everywhere; from order 5 on an interval that reaches the declared one
will do. The measured one is the lowest over a Gaussian of eight eigenvalues and a mixture, on VP and on rectified flow,
at eta = 1 and 0.5, and on steps of 1 : 6 : 2 : 8 by turns (1 : 2 from order 6 on); evaluations per step are counted;
adaptive solvers are measured in the mean number of their steps.

`sources` is a hash of all code that the numbers of the row are computed with. Where it is no longer that of the code,
the row is measured again; where it is, the row holds.

{table}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what has changed, and write docs/orders.md.")
    parser.add_argument("--every", action="store_true", help="measure all, changed or not")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    chosen = parser.parse_args()
    before, names = recorded(), solvers()
    wanted = list(names) if chosen.every else stale(before)
    found = tqdm(measured(wanted, chosen.jobs), total=len(wanted), disable=None, leave=False)
    fresh: Record = {}
    faults = []
    for name, rows in zip(wanted, found, strict=True):
        cells = [[cell.replace("|", "/") for cell in row.cells] for row in rows]
        fresh[name] = [(*row, sources(names[name])) for row in cells]
        faults += [f"{name} ({row.kind}): {row.report.verdict}" for row in rows if not row.ok]
    after = {name: fresh.get(name) or before[name] for name in names}
    write_whole(PAGE, lambda part: part.write_text(page(after), encoding="utf-8"))
    faults += moved(before, after)
    print(
        f"{len(wanted)} of {len(names)} solvers measured, {sum(map(len, after.values()))} claims recorded",
        *faults,
        sep="\n",
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
