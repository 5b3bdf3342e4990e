"""What a run leaves behind: its last step, its counts, and the states that were to be saved."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core.arrays import real
from scorediff.solvers.base import Status, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.solution import Solution
from scorediff.spacings import Grid

__all__ = ["Record"]


class Record:
    """Takes the steps of one run as they come, `(t, x)` or whole ones.

    Raises ValueError for a save time that is not a node of the grid.
    """

    def __init__(self, x: Tensor, grid: Grid, save: bool | Sequence[float]) -> None:
        self._start, self._grid, self._steps = x, grid, 0
        wanted = grid.times if save is True else real("save", [] if save is False else save).numpy()
        missing = wanted[~np.isin(wanted, grid.times)]
        if missing.size:
            raise ValueError(
                f"save time {float(missing[0])!r} is not a node of the grid: add it to grid=, or give save=True for "
                "every node"
            )
        self._times = wanted
        self._states: dict[float, Tensor | None] = dict.fromkeys(wanted.tolist())
        self._last: tuple[Any, ...] = (grid.start, x)
        self._orders: list[Any] = []
        self._keep(grid.start, x)

    @property
    def x(self) -> Tensor:
        """The last state, (B, ...). Raises ValueError where a solver made it another shape or dtype than the start."""
        x = self._last[1]
        if not isinstance(x, Tensor) or x.shape != self._start.shape or x.dtype != self._start.dtype:
            what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"the solver made a state of {self._start.dtype} of shape {tuple(self._start.shape)} into {what}"
            )
        return x

    def __call__(self, step: tuple[Any, ...]) -> None:
        self._steps += 1
        self._last = step
        if isinstance(step[0], float) and len(step) > 2 and step[2] is not None:
            self._orders.append(step[2])
        if self._states:
            self._keep(step[0], step[1])

    def _keep(self, t: Any, x: Tensor) -> None:
        if isinstance(t, float):
            if t in self._states:
                self._states[t] = x.clone()  # a user-defined body may go on in place
            return
        for wanted, kept in self._states.items():
            if np.any(t == wanted):
                here = torch.from_numpy(np.asarray(t == wanted)).to(x.device).reshape(-1, *(1,) * (x.ndim - 1))
                self._states[wanted] = torch.where(here, x, _unknown(x) if kept is None else kept)

    def solution(self, x: Tensor, counter: CountingDenoiser, settings: Mapping[str, Any]) -> Solution:
        """The solution of the run, `x` after the terminal map."""
        bad = counter.first_bad(x)
        step, batch = Step(*self._last), len(x)
        t = np.broadcast_to(np.asarray(step.t, dtype=np.float64), (batch,)).copy()
        if step.status is None:
            status = np.where(t == self._grid.end, Status.SUCCESS, Status.STOPPED_EARLY).astype(np.int64)
        else:
            status = np.where(np.asarray(step.status) == Status.RUNNING, Status.STOPPED_EARLY, step.status)
        # where no output tells why a step was not finite, the solver made it so
        status[status == Status.NON_FINITE] = Status.STATE_NON_FINITE
        for i, (kind, _) in bad.items():
            status[i] = kind
        count = {
            name: np.full(batch, default) if value is None else np.array(value)
            for name, value, default in (("accepted", step.accepted, self._steps), ("rejected", step.rejected, 0))
        }
        states = [_unknown(x) if v is None else v for v in (self._states[t] for t in self._times.tolist())]
        return Solution(
            x=x,
            t=t,
            status=status,
            evaluations=counter.evaluations,
            calls=counter.calls,
            rows=counter.rows,
            vjps=counter.vjps,
            error=step.error,
            orders_used=np.array(self._orders) if self._orders else None,
            times=self._times,
            states=torch.stack(states) if states else None,
            x_end=self.x,
            bad={i: where for i, (_, where) in bad.items()},
            settings=settings,
            **count,
        )


def _unknown(x: Tensor) -> Tensor:
    return torch.full_like(x, float("nan"))
