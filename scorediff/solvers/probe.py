"""Seeing through a fixed-grid sampler: what its output is made of, by running it once on unit vectors.

A linear sampler maps its start, the outputs of its denoiser and its noises linearly to its output. So a batch whose
rows are unit vectors, one row for each of these, comes out as the coefficients. One row more is a random combination of
all the others: where it does not come out as the same combination, the sampler is not linear, and is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scorediff.denoiser import DenoiserBase
from scorediff.noise import Noise
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import Solver, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.solve import solve
from scorediff.spacings import Grid

__all__ = ["Interval", "Unmeasurable", "Weights", "eta_for", "pose", "probe"]

#: A noise that a sampler asked for: where from, where to (in its integration variable), its tag, and whether it is the
#: area.
Interval = tuple[float, float, int, bool]

_TOLERANCE = 1e-7  # by how much the combination may differ, in units of the largest term it is made of


class Unmeasurable(ValueError):
    """There is no way to what was asked of this solver; nothing speaks against the solver itself."""


class Weights:
    """The random combination: the weights of start, outputs and noises in it, of shape (count, entries).

    The same in every run; other for every entry, so that one that looks at another shows; large enough that a clipping
    does.
    """

    def __init__(self, count: int, entries: int) -> None:
        self.values = 10.0 * torch.from_numpy(np.random.default_rng(0).standard_normal((count, entries)))

    def column(self, row: int, rows: int, entries: int) -> Tensor:
        """A state of shape (rows, entries): 1 in `row`, its weight in the last row, 0 elsewhere."""
        state = torch.zeros(rows, entries, dtype=torch.float64)
        if row < rows - 1:
            state[row] = 1.0
            state[-1] = self.values[row]
        return state


class _UnitNoise(Noise):
    """Noise k is the unit vector of row `first + k`; an interval asked for again gives the same one."""

    def __init__(self, x: Tensor, first: int, weights: Weights) -> None:
        super().__init__(0, x)
        self.intervals: dict[Interval, int] = {}
        self._first, self._weights = first, weights

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._unit((a, b, tag, False))

    def area(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._unit((a, b, tag, True))

    def _unit(self, interval: Interval) -> Tensor:
        row = self._first + self.intervals.setdefault(interval, len(self.intervals))
        return self._weights.column(row, *self._like.shape)


class Reached(NamedTuple):
    """A state at a node, and how many evaluations and noises it took to get there."""

    x: Tensor
    calls: int
    noises: int


@dataclass(frozen=True)
class Probed:
    """What came out: states of shape (rows, entries), whose rows are zeros, start, outputs, noises, combination."""

    start: Tensor
    steps: tuple[Reached, ...]
    intervals: tuple[Interval, ...]
    denoiser: Any

    @property
    def output(self) -> Tensor:
        return self.steps[-1].x

    @property
    def calls(self) -> int:
        return self.steps[-1].calls


def eta_for(solver: Solver, eta: float | None) -> float:
    """`eta`, or what the solver is for: 0 where it solves the flow, 1 otherwise."""
    if eta is not None and (isinstance(eta, bool) or not isinstance(eta, (int, float))):
        raise TypeError(f"eta = {eta!r}: give a number from 0 on, or None for the solver's default")
    if eta is not None and not 0 <= eta < np.inf:
        raise ValueError(f"eta = {eta}: give a number from 0 on, or None for the solver's default")
    if eta is None:
        return 0.0 if ProbabilityFlow in solver.solves else 1.0
    return float(eta)


def pose(denoiser: DenoiserBase, eta: float) -> Problem:
    """The flow for eta = 0, the reverse SDE otherwise."""
    return ReverseSDE(denoiser, eta) if eta else ProbabilityFlow(denoiser)


def probe(
    solver: Solver,
    grid: Grid,
    eta: float,
    denoiser_of: Callable[[Weights, int], DenoiserBase],
    *,
    entries: int = 1,
    with_outputs: bool = False,
) -> Probed:
    """Run `solver` on unit vectors.

    `denoiser_of(weights, rows)` makes the denoiser for states of shape (rows, entries); `with_outputs` makes a row for
    each of its calls, which it fills.

    Raises ValueError where the solver is adaptive, not linear, or asks for noises of overlapping intervals.
    """
    if solver.adaptive:
        raise Unmeasurable(f"{solver!r} chooses its steps from values: only a solver on a fixed grid has coefficients")
    first = _run(solver, grid, eta, denoiser_of, (2, 3, entries))
    known = 2 + first.calls * with_outputs
    rows = known + len(first.intervals) + 1
    seen = _run(solver, grid, eta, denoiser_of, (known, rows, entries))
    if seen.calls != first.calls:
        raise Unmeasurable(f"{solver!r} calls its network {first.calls} times or {seen.calls}, as the values are")
    _check_disjoint(solver, seen.intervals)
    output = seen.output
    terms = Weights(rows, entries).values[1 : rows - 1] * (output[1:-1] - output[0])
    size = 1 + terms.abs().amax() + output[0].abs().amax()
    off = float((output[-1] - output[0] - terms.sum(0)).abs().max() / size)
    if not off < _TOLERANCE:
        raise Unmeasurable(
            f"{solver!r} is not linear entry by entry: a combination of inputs comes out {off:.1e} of its size away "
            "from the combination of outputs (a clipping, an iteration, a look at other entries, noise that it draws?)"
        )
    return seen


def _run(
    solver: Solver,
    grid: Grid,
    eta: float,
    denoiser_of: Callable[[Weights, int], DenoiserBase],
    shape: tuple[int, int, int],
) -> Probed:
    known, rows, entries = shape
    weights = Weights(rows, entries)
    denoiser = denoiser_of(weights, rows)
    start = weights.column(1, rows, entries)
    noise = _UnitNoise(start, known, weights)

    reached: list[Reached] = []

    def made(seed: int, x: Tensor, ids: Any) -> Noise:
        return noise

    def note(step: Step) -> None:
        reached.append(Reached(step.x.clone(), counter.calls, len(noise.intervals)))

    problem = CountingDenoiser.before(pose(denoiser, eta), start, grid)
    counter: Any = problem.denoiser
    solve(problem, start, solver, grid=grid, noise=made, callback=note, progress=False).check()  # type: ignore[arg-type]
    return Probed(start, tuple(reached), tuple(noise.intervals), denoiser)


def _check_disjoint(solver: Solver, intervals: Sequence[Interval]) -> None:
    """Noises of one tag are independent only where their intervals do not overlap."""
    for which in {interval[2:] for interval in intervals}:
        spans = sorted((min(a, b), max(a, b)) for a, b, *rest in intervals if tuple(rest) == which)
        for (lo, hi), (next_lo, next_hi) in pairwise(spans):
            if next_lo < hi - 1e-9 * (1 + abs(hi)):
                raise ValueError(
                    f"{solver!r} asks for noises over [{lo:.6g}, {hi:.6g}] and [{next_lo:.6g}, {next_hi:.6g}], which "
                    "overlap and would not be independent: split them at their ends, or give each its own tag"
                )
