"""Which solvers stand for all: found by what they execute.

Many classes share few engines, and of what an engine does one solver proves as much as another that takes the same
branches through it. So every solver is run once under a tracer, `STEPS` steps long; and of any list of solvers the
fewest are taken that together take every branch of the functions that two classes or more share, and of every `run`.
What one class has for itself, its weights and its claims, is asked of every variant: of its coefficients, of one step,
and of the recorded orders.
"""

import hashlib
import pickle
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from orders import solvers as of_the_package
from shared import keep, shared

import scorediff as sd

ROOT = Path(sd.__file__).parent
KEPT = Path(__file__).parents[1] / ".pytest_cache" / "branches"
WHERE = (str(ROOT / "solvers"), str(ROOT / "backends"), str(ROOT / "linear_parts"), str(ROOT / "coordinates.py"))
TARGET = sd.targets.GaussianMixture((0.3, 0.7), ((1.0, -0.5), (-0.6, 0.8)), (0.1, 0.3))
STEPS = 12  # a start that cuts the first step does so from 9 on


class Branch(NamedTuple):
    """Two lines of a function, run one after the other."""

    file: str
    function: str
    before: int
    line: int


def stand_ins(solvers: Iterable[sd.Solver]) -> list[sd.Solver]:
    """Of `solvers` the fewest, so far as a greedy choice finds them, that take every branch that all of them take."""
    solvers = list(solvers)
    runs, kinds = taken(), defaultdict(set)
    for solver in solvers:
        for branch in runs[solver.name]:
            kinds[branch.file, branch.function].add(type(solver))
    wanted = {
        solver.name: {
            branch
            for branch in runs[solver.name]
            if len(kinds[branch.file, branch.function]) > 1 or branch.function.endswith(".run")
        }
        for solver in solvers
    }
    chosen, left = [], set().union(*wanted.values())
    while left:
        best = min(solvers, key=lambda s: (-len(wanted[s.name] & left), len(runs[s.name]), s.name))
        chosen.append(best)
        left -= wanted[best.name]
    return [solver for solver in solvers if solver in chosen]


@shared
def taken() -> dict[str, frozenset[Branch]]:
    """The branches of every solver of the package, by name; kept until a source changes, since it takes seconds."""
    texts = b"".join(path.read_bytes() for path in (*sorted(ROOT.rglob("*.py")), Path(__file__)))
    kept = KEPT / f"{hashlib.sha256(texts).hexdigest()}.pickle"
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    found = {name: branches(solver) for name, solver in of_the_package().items()}
    for old in KEPT.glob("*.pickle"):
        old.unlink(missing_ok=True)
    keep(kept, found)
    return found


def branches(solver: sd.Solver) -> frozenset[Branch]:
    """Every branch of the solvers' code that a run of `solver` takes, on both problems where it solves both."""
    seen: set[Branch] = set()

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        code, before = frame.f_code, 0
        if not code.co_filename.startswith(WHERE):
            return None

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before
            if event == "line":
                seen.add(Branch(code.co_filename, code.co_qualname, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    denoiser = TARGET.denoiser(sd.VPLinear())
    x = sd.prior(sd.VPLinear(), (3, 2), dtype=torch.float64) * torch.tensor([[1.0], [0.1], [4.0]])
    outer = sys.gettrace()
    for problem in (sd.ProbabilityFlow(denoiser), sd.ReverseSDE(denoiser)):
        if type(problem) in solver.solves:
            with warnings.catch_warnings(action="ignore"):  # torchdiffeq's implicit Adams wants finer grids
                sys.settrace(enter)
                try:
                    sd.sample(
                        problem, solver=solver, x=x, progress=False, **({} if solver.adaptive else {"steps": STEPS})
                    )
                finally:
                    sys.settrace(outer)
    return frozenset(seen)
