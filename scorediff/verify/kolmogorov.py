"""The distribution of a stochastic sampler's output on a mixture in one dimension, with no Monte Carlo.

A linear sampler's step makes the next state of the state, of the model outputs at the nodes before, of those of its own
evaluations and of its noises, with coefficients that probing shows. So the expectation of a function of the output
obeys a backward recursion, `v_n(x_n, x_n-1, ..) = E v_n+1(x_n+1, x_n, ..)`: over the noises by Gauss-Hermite
quadrature, between the points of a grid of states by local interpolation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from scorediff.predictions import DataPrediction
from scorediff.schedules import Schedule
from scorediff.solvers import Solver
from scorediff.solvers.probe import Unmeasurable
from scorediff.solvers.unrolled import Unrolled, unrolled
from scorediff.spacings import Grid
from scorediff.targets import GaussianMixture

__all__ = ["POINTS", "characteristic_error"]

POINTS = 160  # of the grid of states
_REACH = 8.0  # standard deviations on either side
_STENCIL = 8  # points of an interpolation
_HERMITE = 12  # points of the quadrature over one noise, and 4 more for every doubling of the other grid
_FREQUENCIES = (0.5, 1.0, 2.0, 3.0)  # in units of 1 / standard deviation
_LONGEST_MEMORY = 2
_MOST_EVALUATIONS, _MOST_STATES = 3e8, 2e6


def characteristic_error(
    solver: Solver,
    target: GaussianMixture,
    schedule: Schedule,
    grid: Grid,
    eta: float,
    *,
    points: int = POINTS,
) -> tuple[float, int]:
    """How far the characteristic function of the output is from the exact one, started from the exact marginal; and the
    number of evaluations.

    The root mean square over frequencies of 0.5, 1, 2 and 3 over the standard deviation of the exact distribution.
    More `points` of the grid of states resolve narrower modes. Raises ValueError for a target of more than one
    dimension, a sampler that is not linear, or one that remembers more than the model outputs at its last two nodes.
    """
    if target.event_shape != (1,):
        raise Unmeasurable(
            f"the distribution on a mixture is computed in one dimension: event shape (1,), not {target.event_shape}"
        )
    end = target.at(schedule, grid.end)
    frequencies = np.array(_FREQUENCIES) / _mean_and_std(end)[1]
    means, variances, weights = _parts(end)
    # E exp(i k x) = sum_j w_j exp(i k m_j - k^2 v_j / 2)
    exact = np.exp(1j * np.multiply.outer(frequencies, means) - np.multiply.outer(frequencies**2, variances) / 2)
    body = unrolled(solver, grid, schedule, eta, DataPrediction())
    got = _expectations(body, target, schedule, grid, frequencies, points)
    return float(np.sqrt(np.mean(np.abs(got - exact @ weights) ** 2))), len(body.coefficients.times)


def _expectations(
    body: Unrolled, target: GaussianMixture, schedule: Schedule, grid: Grid, frequencies: np.ndarray, points: int
) -> np.ndarray:
    """`E exp(i k x)` of the output, of shape (frequencies,)."""
    steps = _steps(body)
    memory, quadrature = max(step.memory for step in steps), _HERMITE + 4 * (points // POINTS - 1)
    points *= 1 if memory else 3  # what remembers nothing is cheap, and may be of high order
    _check_cost(steps, points, memory, quadrature)
    states = [_states(target.at(schedule, t), points) for t in grid.times.tolist()]
    # values of v at the states of a node, of the nodes before as far as they are remembered, and per frequency
    v = np.exp(1j * np.multiply.outer(states[-1], frequencies))
    v = v.reshape(points, *(1,) * memory, len(frequencies))
    for n in reversed(range(grid.steps)):
        v = steps[n].back(
            v, states[n + 1], states[max(n - memory, 0) : n + 1][::-1], (memory, quadrature), target, schedule
        )
    start = target.at(schedule, grid.start)
    density = torch.exp(start.log_prob(torch.from_numpy(states[0])[:, None])).numpy()
    # the trapezoidal rule: spectrally accurate for what goes to 0 at both ends
    return (states[0][1] - states[0][0]) * np.tensordot(density, v.reshape(points, -1), 1)


@dataclass(frozen=True)
class _Step:
    """One step: rows for the state of each of its evaluations, and of the next node.

    A row holds what multiplies the state and the denoised data at the `memory` nodes before, the last one first, the
    state at the step's start, the data of the step's evaluations (at `times`), and its noises. `remembered`: the times
    of the evaluations before that it uses.
    """

    rows: np.ndarray
    remembered: tuple[float, ...]
    times: tuple[float, ...]

    @property
    def memory(self) -> int:
        return len(self.remembered)

    @property
    def noises_seen(self) -> int:
        """How many noises its evaluations see."""
        return int(self._seen.sum())

    @property
    def _before(self) -> int:
        return 2 * self.memory + 1 + len(self.times)

    @property
    def _seen(self) -> np.ndarray:
        return np.asarray(np.any(self.rows[:-1, self._before :] != 0, axis=0))

    def back(
        self,
        v: np.ndarray,
        ahead: np.ndarray,
        states: Sequence[np.ndarray],
        sizes: tuple[int, int],
        target: GaussianMixture,
        schedule: Schedule,
    ) -> np.ndarray:
        """`E v(next state, state, ..)`, from `v` at the states `ahead`; `states` at this node and at those before.

        `sizes`: how many nodes v remembers, and the points of a quadrature.
        """
        memory, quadrature = sizes
        before = self._before
        noises, seen = self.rows[:, before:], self._seen
        # noises that no evaluation sees are one, and smooth v before anything is interpolated
        v = _smoothed(v, ahead, float(np.sqrt(np.sum(noises[-1, ~seen] ** 2))))
        z, chances = _hermite(self.noises_seen, quadrature)
        dims = memory + 2

        def along(axis: int, values: np.ndarray) -> np.ndarray:
            return values.reshape(*(-1 if i == axis else 1 for i in range(dims)))

        def denoised(t: float, x: np.ndarray) -> np.ndarray:
            rows = torch.from_numpy(np.array(x).reshape(-1, 1))
            return target.posterior(schedule.alpha(t), schedule.sigma(t), rows)[0].numpy().reshape(x.shape)

        terms: list[np.ndarray] = []
        for i, t in enumerate(self.remembered):
            terms += [along(1 + i, states[1 + i]), along(1 + i, denoised(t, states[1 + i]))]
        terms.append(along(0, states[0]))
        for k, row in enumerate(self.rows):
            noise = along(dims - 1, z @ row[before:][seen])
            state = sum((c * value for c, value in zip(row, terms, strict=False) if c), noise)
            if k < len(self.times):
                terms.append(denoised(self.times[k], state))
        lengths = [len(states[i]) if i < len(states) else 1 for i in range(1 + memory)]
        reached = np.broadcast_to(state, (*lengths, len(chances)))
        return _averaged(ahead, v, reached, chances)


def _check_cost(steps: Sequence["_Step"], points: int, memory: int, quadrature: int) -> None:
    """Raises ValueError where one run would take too many evaluations."""
    evaluations = sum(points ** (1 + memory) * quadrature**step.noises_seen * (len(step.times) + 1) for step in steps)
    if evaluations > _MOST_EVALUATIONS or points ** (1 + memory) > _MOST_STATES:
        raise Unmeasurable(
            f"its distribution on a mixture would take {evaluations:.0e} evaluations: what is remembered, and "
            "the noises that the evaluations of one step see, multiply them"
        )


def _steps(body: Unrolled) -> list[_Step]:
    """Every step in terms of what it starts from. Raises ValueError where it remembers too much."""
    steps = []
    for n in range(len(body.nodes) - 1):
        tried = (_step(body, n, memory) for memory in range(min(_LONGEST_MEMORY, n) + 1))
        step = next((step for step in tried if step is not None), None)
        if step is None:
            raise Unmeasurable(
                f"step {n} remembers more than the states and model outputs at its node and the last "
                f"{_LONGEST_MEMORY}: its distribution on a mixture cannot be computed"
            )
        steps.append(step)
    return steps


def _step(body: Unrolled, n: int, memory: int) -> _Step | None:
    """Step `n`, if the states and model outputs at the last `memory` nodes, and nothing more, are enough."""
    found = body.coefficients
    own = list(range(body.evaluations[n], body.evaluations[n + 1]))
    # an evaluation at a node is the first one after it; only its output is known from the states at the nodes
    before = [n - 1 - i for i in range(memory)]
    first = [int(body.evaluations[m]) for m in before]
    if any(np.abs(found.array[k] - body.nodes[m]).max() > 1e-12 for k, m in zip(first, before, strict=True)):
        return None
    noises = [1 + len(found.times) + j for j in range(body.noises[n], body.noises[n + 1])]
    known = [1 + k for k in (*first, *own)] + noises
    others = np.setdiff1d(np.arange(body.nodes.shape[1]), known)
    states = body.nodes[[*before, n]]
    rows = []
    for row in [*found.array[own], body.nodes[n + 1]]:
        weights = np.linalg.lstsq(states[:, others].T, row[others], rcond=None)[0]
        rest = row - weights @ states
        if np.abs(rest[others]).max() > 1e-9 * (1 + np.abs(row).max()):
            return None
        remembered = np.stack([weights[:-1], rest[[1 + k for k in first]]], axis=1).ravel()
        rows.append([*remembered, weights[-1], *rest[[1 + k for k in own]], *rest[noises]])
    return _Step(np.array(rows), tuple(found.times[first].tolist()), tuple(found.times[own].tolist()))


def _hermite(count: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of shape (Q, count) and weights of shape (Q,) for `count` independent N(0, 1)."""
    z, w = np.polynomial.hermite_e.hermegauss(points)
    w = w / w.sum()
    return np.array(list(product(z, repeat=count))), np.array([np.prod(part) for part in product(w, repeat=count)])


def _smoothed(v: np.ndarray, nodes: np.ndarray, std: float) -> np.ndarray:
    """`E v(x + std z, ..)` for z ~ N(0, 1), at the points of the grid."""
    if std == 0:
        return v
    z, chances = _hermite(1, 2 * _HERMITE)
    return np.tensordot(_node_weights(nodes, nodes[:, None] + std * z[:, 0], chances), v, 1)


def _node_weights(nodes: np.ndarray, x: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """The weight of the value at each node in the mean of interpolations at each row of `x` of shape (rows, Q)."""
    first, weights = _stencils(nodes, x)
    rows, found = np.arange(len(x))[:, None] * len(nodes) + first, np.zeros(len(x) * len(nodes))
    for j, w in enumerate(weights * chances):
        found += np.bincount((rows + j).ravel(), w.ravel(), found.size)
    return found.reshape(len(x), len(nodes))


def _averaged(nodes: np.ndarray, v: np.ndarray, x: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """`E v` of shape (points, points before.., frequencies) where the first argument is `x` of shape (points, before..,
    Q) with some chances; the others move up by one: the state at the node is the one before of the next.
    """
    if v.ndim == 2:
        return np.asarray(_node_weights(nodes, x, chances) @ v)
    first, weights = _stencils(nodes, x)
    # argument i + 1 of v is axis i of x, where v has that argument
    others = [
        np.arange(x.shape[i]).reshape(*(-1 if j == i else 1 for j in range(x.ndim))) if v.shape[1 + i] > 1 else 0
        for i in range(v.ndim - 2)
    ]
    return np.asarray(
        sum(np.einsum("...q,...qf->...f", w, v[(first + j, *others)]) for j, w in enumerate(weights * chances))
    )


def _stencils(nodes: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lagrange's polynomial through the nearest points: the first of them, and their weights, (stencil, *x.shape).

    Outside, where nothing ever is, the value at the edge.
    """
    place = np.clip((x - nodes[0]) / (nodes[1] - nodes[0]), 0.0, len(nodes) - 1.0)
    first = np.clip(place.astype(int) - _STENCIL // 2 + 1, 0, len(nodes) - _STENCIL)
    gaps = [place - first - k for k in range(_STENCIL)]
    below, above = [np.ones_like(place)], [np.ones_like(place)]
    for k in range(_STENCIL - 1):
        below.append(below[-1] * gaps[k])
        above.append(above[-1] * gaps[-1 - k])
    # prod_k<j (p - k) prod_k>j (p - k) / prod_k (j - k)
    scale = [math.prod(j - k for k in range(_STENCIL) if k != j) for j in range(_STENCIL)]
    return first, np.stack([below[j] * above[-1 - j] / scale[j] for j in range(_STENCIL)])


def _parts(target: GaussianMixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    means = target.means.reshape(-1).numpy()
    return means, target.spectrum.values.reshape(-1).expand(len(means)).numpy(), target.weights.numpy()


def _mean_and_std(target: GaussianMixture) -> tuple[float, float]:
    """Mean and standard deviation."""
    means, variances, weights = _parts(target)
    mean = float(weights @ means)
    return mean, float(np.sqrt(weights @ (variances + (means - mean) ** 2)))


def _states(target: GaussianMixture, points: int) -> np.ndarray:
    means, variances, _ = _parts(target)
    reach = _REACH * np.sqrt(variances)
    return np.linspace((means - reach).min(), (means + reach).max(), points)
