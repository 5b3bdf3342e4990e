"""Where a run calls its denoiser: times kept inside, evaluations counted, non-finite readings found."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff.denoiser import DenoiserBase, ModelOutput, checked_pair, told
from scorediff.problems import Problem
from scorediff.schedules import Schedule
from scorediff.spacings import Grid

__all__ = ["CountingDenoiser"]


class CountingDenoiser:
    """The denoiser of one run: conditioned, never asked outside `[t_end, t_start]`, counted and watched.

    `rows` tells which samples of the batch a partial state holds; conditioning tensors of leading dimension B follow
    it. A sum per sample of every reading stays on the device, and is read once, by `first_bad`.

    Raises ValueError for a time outside the run by more than two units in the last place of the state's dtype.
    """

    def __init__(self, denoiser: DenoiserBase, x: Tensor, grid: Grid, cond: Mapping[str, Any]) -> None:
        self._denoiser, self._cond, self._batch = denoiser, Conditions.of(cond, x.shape[0]), x.shape[0]
        if hasattr(denoiser, "check"):
            denoiser.check(grid.start, grid.end)
        self._ends = sorted((grid.start, grid.end))
        self._lo, self._hi = _beyond_breaks(self._ends, self.breaks)
        self._ulps = 2 * torch.finfo(x.dtype).eps
        self._inner = tuple(range(1, x.ndim))
        self._wide = torch.promote_types(x.dtype, torch.float32)
        self._watched: list[tuple[int, Any, Any, Tensor]] = []
        self._whole = 0
        self._partial = np.zeros(self._batch, dtype=np.int64)
        self.calls = self.rows = self.vjps = 0

    @classmethod
    def before(cls, problem: Problem, x: Tensor, grid: Grid, cond: Mapping[str, Any] | None = None) -> Problem:
        """`problem` with its denoiser behind a door, or as it is where that has been done."""
        if isinstance(problem.denoiser, cls):
            return problem
        return dataclasses.replace(problem, denoiser=cls(problem.denoiser, x, grid, cond or {}))  # type: ignore[arg-type]

    @property
    def schedule(self) -> Schedule:
        return self._denoiser.schedule

    @property
    def breaks(self) -> Sequence[float]:
        """Times at which the denoiser jumps."""
        return getattr(self._denoiser, "breaks", ())

    @property
    def evaluations(self) -> np.ndarray:
        """Evaluations per sample so far, shape (B,)."""
        return self._partial + self._whole

    def __call__(self, t: Any, x: Tensor, rows: np.ndarray | None = None) -> Sequence[Tensor]:
        if not (isinstance(t, float) and self._lo <= t <= self._hi):
            t = self._inside(t)
        cond = self._cond
        if rows is None:
            self._whole += 1
        else:
            self._partial[rows] += 1
            cond = self._cond.of_rows(rows)
        self.calls += 1
        reading = told(self._denoiser, t, x, cond)
        if isinstance(reading, ModelOutput):  # made by a Denoiser, which has looked at its shape
            self.rows += reading.rows
            self.vjps += reading.vjps
            self._watched.append((self.calls, t, rows, self._row_sums(reading.output)))
            return reading
        self.rows += x.shape[0]
        data, noise = checked_pair(reading, x)
        for part in (data, noise):
            self._watched.append((self.calls, t, rows, self._row_sums(part)))
        return data, noise

    def first_bad(self, x: Tensor) -> dict[int, tuple[float, int] | None]:
        """Per sample that is not finite in `x` or in a reading: the time and number of its first bad evaluation, if one
        was.
        """
        sums = torch.cat([self._row_sums(x), *(s for *_, s in self._watched)])
        finite = torch.isfinite(sums).cpu().numpy()
        if finite.all():
            return {}
        bad: dict[int, tuple[float, int] | None] = {int(i): None for i in np.flatnonzero(~finite[: self._batch])}
        start, count, counted = self._batch, np.zeros(self._batch, dtype=np.int64), 0
        for call, t, rows, s in self._watched:
            rows = np.arange(self._batch) if rows is None else rows
            count[rows] += call > counted  # data and noise of one call are one evaluation
            counted = call
            for j in np.flatnonzero(~finite[start : start + len(s)]):
                i = int(rows[j])
                if bad.get(i) is None:
                    bad[i] = (float(t if isinstance(t, float) else t[j]), int(count[i]))
            start += len(s)
        return bad

    def _row_sums(self, x: Tensor) -> Tensor:
        # one reduction, no host read; wider than half precision, in which a finite row may overflow
        return (x.detach() if torch.is_grad_enabled() else x).sum(self._inner, dtype=self._wide)

    def _inside(self, t: Any) -> Any:
        lo, hi = self._ends
        times = np.asarray(t.cpu() if isinstance(t, Tensor) else t, dtype=np.float64)
        if not np.all((times >= lo - self._ulps * abs(lo)) & (times <= hi + self._ulps * abs(hi))):
            raise ValueError(f"the solver asked for the network at t = {t}, outside the run's [{lo!r}, {hi!r}]")
        times = np.clip(times, self._lo, self._hi)
        return times if times.ndim else float(times)


def _beyond_breaks(ends: Sequence[float], breaks: Sequence[float]) -> tuple[float, float]:
    """The ends of a run, moved inside where the denoiser jumps there: the run lies on one side of the jump."""
    lo, hi = ends
    near = 1e-12 * (hi - lo)
    lowest = [np.nextafter(max(t, lo), hi) for t in breaks if abs(t - lo) <= near]
    highest = [np.nextafter(min(t, hi), lo) for t in breaks if abs(t - hi) <= near]
    return float(max(lowest, default=lo)), float(min(highest, default=hi))
