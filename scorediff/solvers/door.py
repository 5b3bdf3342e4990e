"""Where a run calls its denoiser: times kept inside, evaluations counted, non-finite readings found."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff.denoiser import DenoiserLike, Reading
from scorediff.grids import Grid
from scorediff.problems import Problem
from scorediff.schedules import Schedule

__all__ = ["Door", "is_per_sample"]


class Door:
    """The denoiser of one run: conditioned, never asked outside `[t_end, t_start]`, counted and watched.

    `rows` tells which samples of the batch a partial state holds; conditioning tensors of leading dimension B follow
    it. A sum per sample of every reading stays on the device, and is read once, by `first_bad`.

    Raises ValueError for a time outside the run by more than two units in the last place of the state's dtype.
    """

    def __init__(self, denoiser: DenoiserLike, x: Tensor, grid: Grid, cond: Mapping[str, Any]) -> None:
        self._denoiser, self._cond, self._batch = denoiser, dict(cond), x.shape[0]
        self._lo, self._hi = sorted((grid.start, grid.end))
        self._slack = 2 * torch.finfo(x.dtype).eps * max(abs(self._lo), abs(self._hi))
        self._inner = tuple(range(1, x.ndim))
        self._wide = torch.promote_types(x.dtype, torch.float32)
        self._watched: list[tuple[Any, Any, Tensor]] = []
        self._whole = 0
        self._partial = np.zeros(self._batch, dtype=np.int64)
        self.calls = self.rows = 0

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
            cond = {k: v[rows] if is_per_sample(v, self._batch) else v for k, v in cond.items()}
        self.calls += 1
        self.rows += x.shape[0]
        reading = self._denoiser(t, x, **cond)
        if isinstance(reading, Reading):  # made by a Denoiser, which has looked at its shape
            self._watched.append((t, rows, self._row_sums(reading.output)))
            return reading
        for part in reading:
            if part.shape != x.shape:
                raise ValueError(
                    f"the denoiser returned shape {tuple(part.shape)} for a state of shape {tuple(x.shape)}"
                )
            self._watched.append((t, rows, self._row_sums(part)))
        return reading

    def first_bad(self, x: Tensor) -> dict[int, tuple[float, int] | None]:
        """Per sample that is not finite in `x` or in a reading: the time and number of its first bad evaluation, if one
        was.
        """
        sums = torch.cat([self._row_sums(x), *(s for _, _, s in self._watched)])
        finite = torch.isfinite(sums).cpu().numpy()
        if finite.all():
            return {}
        bad: dict[int, tuple[float, int] | None] = {int(i): None for i in np.flatnonzero(~finite[: self._batch])}
        parts_per_call = len(self._watched) // self.calls if self.calls else 1
        start, count = self._batch, np.zeros(self._batch, dtype=np.int64)
        for k, (t, rows, s) in enumerate(self._watched):
            rows = np.arange(self._batch) if rows is None else rows
            count[rows] += k % parts_per_call == 0
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
        lo, hi, slack = self._lo, self._hi, self._slack
        if isinstance(t, float):
            outside = not lo - slack <= t <= hi + slack
        else:
            outside = not np.all((t >= lo - slack) & (t <= hi + slack))
        if outside:
            raise ValueError(f"the solver asked for the network at t = {t}, outside the run's [{lo!r}, {hi!r}]")
        return min(max(t, lo), hi) if isinstance(t, float) else np.clip(t, lo, hi)


def is_per_sample(value: Any, batch: int) -> bool:
    """Is this condition one row per sample? A tensor of leading dimension B is."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch
