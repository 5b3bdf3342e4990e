"""What a run returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scorediff.solvers.base import Status

__all__ = ["FirstBad", "Solution", "SolverError", "merged"]

_WAYS_OUT = {
    Status.BUDGET_EXHAUSTED: "raise max_evaluations or loosen the tolerance",
    Status.STEP_UNDERFLOW: "loosen the tolerance, or use float64",
    Status.NON_FINITE: "look at the network there",
    Status.STOPPED_EARLY: "the solver's run must yield until the end of its grid",
    Status.STATE_NON_FINITE: "every output of the network was finite, what the solver made of them was not: take more "
    "steps or a tighter tolerance, or a dtype of more range",
}


class FirstBad(NamedTuple):
    """Where a sample ceased to be finite: at time `t`, in `evaluation` and in `step` of the grid, both counted from 1
    (None for the step of an adaptive solver).

    That is the first evaluation whose output was not finite; with `Status.STATE_NON_FINITE` the last one before the
    state was so, number 0 where there was none.
    """

    t: float
    evaluation: int
    step: int | None


class SolverError(RuntimeError):
    """Raised by `Solution.check()`: the message names sample, time and evaluation.

    >>> flow = ProbabilityFlow(Gaussian().denoiser(VPLinear()))
    >>> sample(flow, (2, 2), "rk45", max_evaluations=20).check()
    Traceback (most recent call last):
        ...
    scorediff.solvers.solution.SolverError: sample 0 (and 1 more of 2): budget exhausted at t = ...
    """


@dataclass(frozen=True, repr=False)
class Solution:
    """The result of a run; every array is per sample, of shape (B,), unless said otherwise.

    `x`: the samples, (B, ...). `t`: the time each one reached. `status`: a `Status` value each. `evaluations`: of the
    denoiser, counted where it is called; `calls`: batched ones, `rows`: the rows in them through all networks, `vjps`:
    batches led back through one, for a gradient. `accepted`, `rejected`: steps. `error`: an estimate of the distance to
    the true `x_end`, root mean square over entries, where the solver makes one (`settings["error"]` says how;
    calibrated so that at most one sample in twenty is farther from the truth), else None.

    `orders_used` (steps,): the order of each step of a fixed grid, where the solver reports it, else None. `times` (S,)
    and `states` (S, B, ...): what was saved. `x_end`: the state before the terminal map, `x` itself without one.
    `bad`: by sample, where it ceased to be finite, a `FirstBad`. `settings`: every setting that took effect, as plain
    data.

    >>> sample(ProbabilityFlow(Gaussian().denoiser(VPLinear())), (4, 2), "rk45")
    Solution by rk45: 4 samples of shape (2,), torch.float32, all arrived
      evaluations: ... each; ... calls
      error, estimated: ...
    """

    x: Tensor
    t: np.ndarray
    status: np.ndarray
    evaluations: np.ndarray
    calls: int
    rows: int
    vjps: int
    accepted: np.ndarray
    rejected: np.ndarray
    error: np.ndarray | None
    orders_used: np.ndarray | None
    times: np.ndarray
    states: Tensor | None
    x_end: Tensor
    bad: Mapping[int, FirstBad]
    settings: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every sample arrived."""
        return bool(np.all(self.status == Status.SUCCESS))

    def check(self) -> "Solution":
        """This solution, or SolverError naming the first sample that failed, where, at which evaluation, and the way
        out.
        """
        failed = np.flatnonzero(self.status != Status.SUCCESS)
        if not failed.size:
            return self
        i = int(failed[0])
        status = Status(self.status[i])
        others = f" (and {failed.size - 1} more of {self.status.size})" if failed.size > 1 else ""
        where = f"at t = {self.t[i]:.6g} after {self.evaluations[i]} evaluations"
        if i in self.bad:
            t, number, step = self.bad[i]
            when = "after" if status == Status.STATE_NON_FINITE else "first at"
            where = f"{when} t = {t:.6g}, evaluation {number}" + ("" if step is None else f", step {step}")
            if number == 0:
                where = f"before its first evaluation, at t = {t:.6g}"
        raise SolverError(f"sample {i}{others}: {_words(status)} {where}: {_WAYS_OUT[status]}")

    def __repr__(self) -> str:
        seen = self._overview()
        return (
            f"Solution by {seen['solver']}: {seen['samples']}, {seen['status']}\n"
            f"  evaluations: {seen['evaluations']}\n"
            f"  error, estimated: {seen['error']}"
        )

    def _repr_html_(self) -> str:
        """The same as a small table, for notebooks."""
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self._overview().items())
        return f"<table>{rows}</table>"

    def _overview(self) -> dict[str, str]:
        """What is to be known at a glance."""
        batch, *shape = self.x.shape
        statuses = [Status(value) for value in np.unique(self.status)]
        counts = {_words(status): int(np.sum(self.status == status)) for status in statuses}
        return {
            "solver": self.settings["solver_name"],
            "samples": f"{batch} sample{'s' * (batch != 1)} of shape {tuple(shape)}, {self.x.dtype}",
            "status": "all arrived" if self.ok else ", ".join(f"{count} {words}" for words, count in counts.items()),
            "evaluations": f"{_range(self.evaluations, 6)}; {self.calls} call{'s' * (self.calls != 1)}",
            "error": "none" if self.error is None else _range(self.error, 2),
        }


def _words(status: Status) -> str:
    return status.name.lower().replace("_", " ")


def _range(values: np.ndarray, digits: int) -> str:
    """The least, the largest and the median of an array, `3 to 7, median 4`; or what they all are."""
    if not values.size:
        return "none"
    least, median, most = (f"{float(f(values)):.{digits}g}" for f in (np.min, np.median, np.max))
    return f"{least} each" if least == most else f"{least} to {most}, median {median}"


def merged(parts: Sequence[Solution]) -> Solution:
    """One solution of the batches of a run, in order."""
    if len(parts) == 1:
        return parts[0]
    bad, offset = {}, 0
    for part in parts:
        bad.update({i + offset: where for i, where in part.bad.items()})
        offset += part.status.size
    arrays = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("t", "status", "evaluations", "accepted", "rejected")
    }
    errors = [p.error for p in parts if p.error is not None]
    states = [p.states for p in parts if p.states is not None]
    return Solution(
        x=torch.cat([p.x for p in parts]),
        calls=sum(p.calls for p in parts),
        rows=sum(p.rows for p in parts),
        vjps=sum(p.vjps for p in parts),
        error=np.concatenate(errors) if errors else None,
        orders_used=parts[0].orders_used,
        times=parts[0].times,
        states=torch.cat(states, dim=1) if states else None,
        x_end=torch.cat([p.x_end for p in parts]),
        bad=bad,
        settings={
            **parts[0].settings,
            "ids": [i for p in parts for i in p.settings["ids"]],
            "shape": [offset, *parts[0].settings["shape"][1:]],
        },
        **arrays,
    )
