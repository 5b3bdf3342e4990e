"""A sampler unrolled: what multiplies its start, every output of the network, and every noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff._core.files import write_whole
from scorediff._core.states import per_sample
from scorediff.denoiser import DenoiserBase, PairOutput
from scorediff.predictions import Prediction
from scorediff.schedules import Schedule
from scorediff.solvers.base import Solver
from scorediff.solvers.probe import Interval, Unmeasurable, Weights, probe
from scorediff.spacings import Grid

__all__ = ["Coefficients", "Outputs", "Unrolled", "unrolled"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Coefficients:
    """`states = array @ (x_T, outputs, noises)`: every state at which the network is asked, then the result.

    `array`, of shape (K + 1, 1 + K + J), float64: row k < K is the state of evaluation k, the last row the result;
    the columns are the start, the K outputs of the network and the J noises, N(0, 1). `times`, of shape (K,): of the
    evaluations. `intervals`: where each noise comes from, `(from, to, tag, whether it is the area)`. `prediction`: what
    the outputs are of.
    """

    array: np.ndarray
    times: np.ndarray
    intervals: tuple[Interval, ...]
    prediction: Prediction

    @property
    def start(self) -> np.ndarray:
        """What multiplies the start, shape (K + 1,)."""
        return self.array[:, 0]

    @property
    def outputs(self) -> np.ndarray:
        """What multiplies the network's outputs, shape (K + 1, K)."""
        return self.array[:, 1 : 1 + self.times.size]

    @property
    def noises(self) -> np.ndarray:
        """What multiplies the noises, shape (K + 1, J)."""
        return self.array[:, 1 + self.times.size :]

    def distance(self, other: "Coefficients") -> float:
        """The largest difference of an entry, in units of the largest entry of its row; infinite where the two ask the
        network at other times, or for another number of noises.
        """
        if self.array.shape != other.array.shape or type(self.prediction) is not type(other.prediction):
            return float("inf")
        if not np.allclose(self.times, other.times, rtol=1e-9, atol=1e-12):
            return float("inf")
        size = np.maximum(np.abs(self.array).max(1), np.abs(other.array).max(1))
        return float((np.abs(self.array - other.array).max(1) / size).max())

    def save(self, path: str | Path) -> None:
        """Write times, array and intervals as an `.npz` file, whole or not at all."""

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez(file, array=self.array, times=self.times, intervals=np.array(self.intervals, dtype=np.float64))

        write_whole(path, write)

    def __str__(self) -> str:
        from scorediff._core.tables import aligned

        count = self.times.size
        names = ["x_T", *(f"m_{k}" for k in range(count)), *(f"z_{j}" for j in range(self.noises.shape[1]))]
        labels = [*(f"x_{k} (t = {t:.4g})" for k, t in enumerate(self.times)), "result"]
        # an evaluation can depend on what was before it alone: what lies after is left blank
        rows = [[label, *(f"{c:.6g}" if c else "" for c in row)] for label, row in zip(labels, self.array, strict=True)]
        return aligned(["state", *names], rows)


@final
class Outputs(DenoiserBase):
    """A stand-in denoiser whose k-th output is the k-th unit vector, and nothing else is known of it."""

    def __init__(self, schedule: Schedule, prediction: Prediction, weights: Weights, rows: int) -> None:
        self.schedule, self._prediction, self._weights, self._rows = schedule, prediction, weights, rows
        self.times: list[float] = []
        self.states: list[Tensor] = []

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> PairOutput:
        output = self._weights.column(2 + len(self.times), self._rows, x.shape[1])
        self.times.append(float(t))
        self.states.append(x.clone())
        pairs = self._prediction.solve(self.schedule, t)
        data, noise = (x * per_sample(p, x) + output * per_sample(q, x) for p, q in pairs)
        return PairOutput(x, data, noise)


@dataclass(frozen=True)
class Unrolled:
    """The `coefficients`, and the same for the state at every node of the grid: `nodes` of shape (steps + 1, columns).

    `evaluations` and `noises`, of shape (steps + 1,): how many there were before each node was reached.
    """

    coefficients: Coefficients
    nodes: np.ndarray
    evaluations: np.ndarray
    noises: np.ndarray


def unrolled(solver: Solver, grid: Grid, schedule: Schedule, eta: float, prediction: Prediction) -> Unrolled:
    """Probe `solver` with a stand-in for the network."""

    def stand_in(weights: Weights, rows: int) -> Outputs:
        return Outputs(schedule, prediction, weights, rows)

    # two entries, so that one that looks at the other shows
    probed = probe(solver, grid, eta, stand_in, entries=2, with_outputs=True)
    if float(probed.output[0].abs().max()) > _ROUNDING:
        raise Unmeasurable(
            f"{solver!r} adds {float(probed.output[0, 0]):.3g}, which is neither a start nor an output of the network "
            "nor a noise: it has no coefficients"
        )

    def columns(state: Tensor) -> np.ndarray:
        # rows of the batch are columns here; the first is of zeros, the last the combination
        return state[1:-1, 0].numpy()

    states = [columns(state) for state in probed.denoiser.states]
    found = Coefficients(
        np.stack([*states, columns(probed.steps[-1].x)]), np.array(probed.denoiser.times), probed.intervals, prediction
    )
    before = [(probed.start, 0, 0), *((step.x, step.calls, step.noises) for step in probed.steps)]
    xs, calls, noises = zip(*before, strict=True)
    return Unrolled(found, np.stack([columns(x) for x in xs]), np.array(calls), np.array(noises))
