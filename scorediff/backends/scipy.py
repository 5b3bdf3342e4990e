"""SciPy's solvers as a back end: the probability flow in any coordinates, each sample on its own."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff.backends._third_party import BudgetExhausted, RunTimes, check_method
from scorediff.coordinates import Angle, Coordinates, Field
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.base import AdaptiveSolver, Status, Step
from scorediff.spacings import Grid

__all__ = ["SciPy"]

_ORDERS = {"RK45": 5, "RK23": 3, "DOP853": 8, "Radau": 5, "BDF": None, "LSODA": None}
_STAGES = {"RK45": 6, "RK23": 3, "DOP853": 12}  # evaluations of a step that is tried, where they are fixed
_LEAST_RTOL = 100 * float(np.finfo(np.float64).eps)  # SciPy takes no less


@dataclass(frozen=True)
class SciPy(AdaptiveSolver):
    """`scipy.integrate`'s adaptive methods, a sample at a time: its own steps, evaluations, status.

    `method`: RK45, RK23, DOP853, Radau, BDF or LSODA; DOP853 by default, the cheapest at tight tolerances. `rtol` and
    `atol`: the error of a step is held to `atol + rtol |y|`, root mean square over the entries of the sample; 1e-5, so
    that pictures show none of it. `coordinates`: what is integrated in; the angle, which is regular at both ends.
    `max_evaluations`: of the denoiser, per sample; far more than a smooth problem takes.

    The state is carried in float64 on the host, and given to the network in the dtype of the start, which the samples
    have too. Save times are interpolated by the method. Radau, BDF and LSODA difference the drift, which wants a
    float64 network and few entries. On an exhausted budget or a step that underflows the state is that after the last
    whole step. Rejected steps are counted for RK45, RK23 and DOP853; the others do not report them (0).
    """

    method: str = "DOP853"
    rtol: float = field(default=1e-5, kw_only=True)
    atol: float = field(default=1e-5, kw_only=True)
    coordinates: Coordinates = field(default_factory=Angle)

    source: ClassVar[str] = "doi:10.1038/s41592-019-0686-2"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"scipy-{method.lower()}": {"method": method} for method in _ORDERS
    }

    def __post_init__(self) -> None:
        check_method(self, self.method, _ORDERS)

    @property
    def order(self) -> int | None:
        """None for BDF and LSODA, which vary it."""
        return _ORDERS[self.method]

    def check_ends(self, problem: Problem, grid: Grid) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        batch = x.shape[0]
        t, status = np.full(batch, grid.start), np.full(batch, int(Status.RUNNING))
        order = None if self.order is None else np.full(batch, self.order)
        accepted, rejected = np.zeros(batch, dtype=np.int64), np.zeros(batch, dtype=np.int64)
        for i in range(batch):
            sample = _Sample(self, problem, x[i : i + 1], grid, i)
            for reached, state in sample.run():
                x = x.clone()
                x[i], t[i] = state, reached
                status[i], accepted[i], rejected[i] = sample.status, sample.accepted, sample.rejected
                yield Step(t.copy(), x, order, None, status.copy(), accepted.copy(), rejected.copy())


class _NonFinite(Exception):
    """The drift is not finite at the time given: SciPy would fail in its linear algebra, or shorten its steps to 0."""


class _Sample:
    """One sample of a run: `x` of shape (1, ...), row `i` of the batch."""

    def __init__(self, solver: SciPy, problem: Any, x: Tensor, grid: Grid, i: int) -> None:
        self._solver, self._like, self._times, self._rows = solver, x, grid.times.tolist(), np.array([i])
        self._moved = Field(problem, solver.coordinates)
        self._run_times = RunTimes(self._moved, self._times, torch.float64)
        self._evaluations = self.accepted = self.rejected = 0
        self.status = Status.RUNNING

    def run(self) -> Iterator[tuple[float, Tensor]]:
        """Time and state `x` at each save time, and where the sample stops."""
        import scipy.integrate

        values, t = self._run_times.values, self._times[0]
        y = self._moved.enter(t, self._like.double().cpu()).reshape(-1).numpy()
        method, rtol = getattr(scipy.integrate, self._solver.method), max(self._solver.rtol, _LEAST_RTOL)
        saves = list(zip(values[1:-1], self._times[1:-1], strict=True))
        try:
            integrator = method(self._drift, values[0], y, values[-1], rtol=rtol, atol=self._solver.atol)
            while integrator.status == "running":
                self._advance(integrator)
                t, y = self._run_times.at(integrator.t), integrator.y
                while saves and integrator.direction * (integrator.t - saves[0][0]) >= 0:
                    value, wanted = saves.pop(0)
                    yield wanted, self._leave(wanted, y if value == integrator.t else integrator.dense_output()(value))
            self.status = Status.SUCCESS if integrator.status == "finished" else Status.STEP_UNDERFLOW
        except BudgetExhausted:
            self.status = Status.BUDGET_EXHAUSTED
        except _NonFinite as bad:
            self.status, t, y = Status.NON_FINITE, bad.args[0], y * np.nan
        yield t, self._leave(t, y)

    def _advance(self, integrator: Any) -> None:
        before = self._evaluations
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.filterwarnings("ignore", "lsoda")  # says in words what the status says
            integrator.step()
        if integrator.status == "failed":
            return
        self.accepted += 1
        if self._solver.method in _STAGES:
            self.rejected += (self._evaluations - before) // _STAGES[self._solver.method] - 1

    def _drift(self, s: float, y: np.ndarray) -> np.ndarray:
        if self._evaluations == self._solver.max_evaluations:
            raise BudgetExhausted
        self._evaluations += 1
        t, like = self._run_times.at(float(s)), self._like
        state = torch.tensor(y, dtype=like.dtype, device=like.device).reshape(like.shape)
        slope = self._moved.drift_at(t, state, rows=self._rows).double().cpu().numpy().reshape(-1)
        if not np.all(np.isfinite(slope)):
            raise _NonFinite(t)
        return slope

    def _leave(self, t: float, y: np.ndarray) -> Tensor:
        x = self._moved.leave(t, torch.from_numpy(y).reshape(self._like.shape))
        return x[0].to(dtype=self._like.dtype, device=self._like.device)
