"""Where a run calls its denoiser: times kept inside, evaluations counted, non-finite outputs found."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.denoiser import DenoiserBase, ModelOutput
from scorediff.problems import Problem
from scorediff.schedules import Schedule
from scorediff.solvers.base import Status
from scorediff.solvers.solution import FirstBad
from scorediff.spacings import Grid

__all__ = ["CountingDenoiser", "lowest_time"]

_Cause = tuple[Status, FirstBad]


class _Watched(NamedTuple):
    """One evaluation: when, of which samples (None for all), and sums per sample, on the device, of the state that it
    was given and of the outputs.
    """

    t: Any
    rows: np.ndarray | None
    step: int | None
    sums: tuple[Tensor, ...]


@final
class CountingDenoiser(DenoiserBase):
    """The denoiser of one run: conditioned, never evaluated outside it, counted and watched.

    `denoiser` is that of the problem, which is given the conditions `cond` of the run of a state `x` of shape (B, ...)
    on `grid`. `calls` counts its evaluations of a batch, `rows` the rows that they sent through networks, `vjps` how
    often a batch was led back through one; all begin at 0. `step` is the step under way, counted from 1 and kept by
    who runs them, None with an adaptive solver. A sum per sample of every state given and every output stays on the
    device, and is looked at once, by `first_bad`.

    A run lies between its ends; one that ends above the end of the schedule may look ahead that far. Raises ValueError
    for a time outside by more than two units in the last place of the state's dtype.
    """

    def __init__(self, denoiser: DenoiserBase, x: Tensor, grid: Grid, cond: Mapping[str, Any]) -> None:
        self.denoiser, self.schedule, self.prediction = denoiser, denoiser.schedule, denoiser.prediction
        self._cond, self._batch = Conditions.of(cond, x.shape[0]), x.shape[0]
        denoiser.check(grid.start, grid.end)
        self._start, self._ends = grid.start, sorted((grid.start, grid.end))
        self._lowest = lowest_time(denoiser.schedule, grid)
        self._lo, self._hi = _beside_jumps(self._ends, denoiser.discontinuities)
        self._ulps = 2 * torch.finfo(x.dtype).eps
        self._inner = tuple(range(1, x.ndim))
        self._wide = torch.promote_types(x.dtype, torch.float32)
        self._watched: list[_Watched] = []
        self._whole = 0
        self._partial = np.zeros(self._batch, dtype=np.int64)
        self.calls = self.rows = self.vjps = 0
        self.step: int | None = 1

    def __repr__(self) -> str:
        return f"CountingDenoiser({self.denoiser!r}, calls={self.calls})"

    @classmethod
    def before(cls, problem: Problem, x: Tensor, grid: Grid, cond: Mapping[str, Any] | None = None) -> Problem:
        """`problem` with its denoiser behind a call counter, or as it is where that has been done."""
        if isinstance(problem.denoiser, cls):
            return problem
        return dataclasses.replace(problem, denoiser=cls(problem.denoiser, x, grid, cond or {}))

    @property
    def made_of(self) -> tuple[DenoiserBase, ...]:
        return (self.denoiser,)

    @property
    def evaluations(self) -> np.ndarray:
        """Evaluations per sample so far, shape (B,)."""
        return self._partial + self._whole

    def __call__(self, t: Any, x: Tensor, rows: np.ndarray | None = None, **cond: Any) -> ModelOutput:
        """One evaluation, of those samples of the batch that `rows` numbers, all by default.

        Raises TypeError for conditions: they are those of the run.
        """
        if cond:
            raise TypeError(f"{', '.join(cond)}: a run has its conditions from its start, give them in cond=")
        if not (isinstance(t, float) and self._lo <= t <= self._hi):
            t = self._inside(t)
        given = self._cond
        if rows is None:
            self._whole += 1
        else:
            self._partial[rows] += 1
            given = given.of_rows(rows)
        self.calls += 1
        output = self.denoiser.evaluate(t, x, given).in_own_memory()
        self.rows += output.rows
        self.vjps += output.vjps
        sums = tuple(self._row_sums(tensor) for tensor in (x, *output.computed))
        self._watched.append(_Watched(t, rows, self.step, sums))
        return output

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> ModelOutput:
        return self(t, x, **cond)

    def first_bad(self, x: Tensor) -> dict[int, _Cause]:
        """Per sample that is not finite in `x` or in an output: whether the network made it so or a step, and where."""
        sums = torch.cat([self._row_sums(x), *(s for one in self._watched for s in one.sums)])
        finite = torch.isfinite(sums).cpu().numpy()
        if finite.all():
            return {}
        failed, start, seen = ~finite[: self._batch], self._batch, []
        for one in self._watched:
            rows = np.arange(self._batch) if one.rows is None else one.rows
            end = start + len(rows) * len(one.sums)
            given, *outputs = finite[start:end].reshape(len(one.sums), -1)
            made, start = np.all(outputs, axis=0), end
            failed[rows[~made]] = True
            seen.append((one, rows, given, made))
        return {int(i): self._cause(int(i), seen) for i in np.flatnonzero(failed)}

    def _cause(self, i: int, seen: Sequence[tuple[_Watched, np.ndarray, np.ndarray, np.ndarray]]) -> _Cause:
        """What made sample `i` not finite, given of every evaluation its rows, and which of them were given a finite
        state and made finite outputs of it: the first output that is not, or what came after the last one that is.
        """
        last = FirstBad(self._start, 0, 0)
        for one, rows, given, made in seen:
            for j in np.flatnonzero(rows == i):
                t = float(one.t if isinstance(one.t, float) else one.t[j])
                here = FirstBad(t, last.evaluation + 1, one.step)
                if not given[j]:
                    return Status.STATE_NON_FINITE, last
                if not made[j]:
                    return Status.NON_FINITE, here
                last = here
        return Status.STATE_NON_FINITE, last

    def _row_sums(self, x: Tensor) -> Tensor:
        # one reduction, nothing brought to the host; wider than half precision, in which a finite row may overflow
        return (x.detach() if torch.is_grad_enabled() else x).sum(self._inner, dtype=self._wide)

    def _inside(self, t: Any) -> Any:
        (end, hi), lo = self._ends, self._lowest
        times = np.asarray(t.cpu() if isinstance(t, Tensor) else t, dtype=np.float64)
        if not np.all((times >= lo - self._ulps * abs(lo)) & (times <= hi + self._ulps * abs(hi))):
            raise ValueError(f"the solver asked for the network at t = {t}, outside the run's [{lo!r}, {hi!r}]")
        ahead = times < end - self._ulps * abs(end)
        times = np.where(ahead, np.maximum(times, lo), np.clip(times, self._lo, self._hi))
        return times if times.ndim else float(times)


def lowest_time(schedule: Schedule, grid: Grid) -> float:
    """The lowest time at which a run on this grid may evaluate: that of the schedule's end, or its own where that is
    lower or the run leads up. So a run that ends at a node on the way sees what the whole run sees there.
    """
    return min(grid.end, schedule.t_end) if grid.end < grid.start else grid.start


def _beside_jumps(ends: Sequence[float], jumps: Sequence[float]) -> tuple[float, float]:
    """The ends of a run, moved inside where the denoiser jumps there: the run lies on one side of the jump."""
    lo, hi = ends
    near = 1e-12 * (hi - lo)
    lowest = [np.nextafter(max(t, lo), hi) for t in jumps if abs(t - lo) <= near]
    highest = [np.nextafter(min(t, hi), lo) for t in jumps if abs(t - hi) <= near]
    return float(max(lowest, default=lo)), float(min(highest, default=hi))
