"""Exponential Runge-Kutta methods, a tableau each: one engine for any linear part, with exact noise."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from scorediff.linear_parts import DataPart, IsotropicPart, Kernel, LinearPart
from scorediff.problems import ReverseSDE
from scorediff.solvers.base import Exact
from scorediff.solvers.exponential.engine import ExponentialIntegrator, GridSteps, Stage, StepPlan, check_kind, exact_on
from scorediff.solvers.exponential.tableau import ExponentialTableau, Phi

__all__ = ["ExponentialRungeKutta", "runge_kutta_plan", "weight_of"]


def weight_of(w: Phi, kernel: Kernel, h: np.ndarray) -> np.ndarray:
    """The combination `w` of phi-functions at `kappa h`, or of what stands for them with another kernel."""
    return np.asarray(sum((c * kernel.phi(k, node, h) for (k, node), c in w.terms.items()), np.zeros_like(h)))


def runge_kutta_plan(tableau: ExponentialTableau, part: IsotropicPart, steps: GridSteps) -> Iterator[StepPlan]:
    """The steps of a method, evaluations counted within each. Every stage sees the noise up to its own node."""
    c = tableau.c
    h, eta = steps.h, steps.eta
    levels = [steps.inside(ci) for ci in (*c, 1.0)]
    ends = sorted({*c, 1.0} - {0.0})
    marks = [steps.start, *(steps.inside(end) for end in ends)]
    stds = [part.noise_std(a, b, eta) for a, b in pairwise(marks)]
    columns = []
    for row, at, end in zip(tableau.rows, levels[1:], (*c[1:], 1.0), strict=True):
        # u = propagator x_0 + integral_weight h sum_j a_ij M_j, and the noise of the intervals up to here
        kernel, weight = part.kernel(at, eta), part.integral_weight(at, eta) * h
        noises = [
            np.where(eta > 0, part.propagator(mark, at, eta) * std, 0.0) if stop <= end else np.zeros_like(h)
            for mark, std, stop in zip(marks[1:], stds, ends, strict=True)
        ]
        columns.append(
            (
                part.propagator(steps.start, at, eta).tolist(),
                np.stack([weight * weight_of(w, kernel, h) for w in row], axis=1).tolist(),
                np.stack(noises, axis=1).tolist(),
            )
        )
    times = np.stack([level.t for level in levels], axis=1).tolist()
    log_snrs = np.stack([mark.log_snr for mark in marks], axis=1).tolist()
    outputs = [np.stack(part.on(level), axis=1).tolist() for level in levels]
    for n in range(len(steps)):
        noisy = bool(eta[n] > 0)
        stages = []
        for i, (propagator, weights, noises) in enumerate(columns):
            *before, last = weights[n]
            # the newest evaluation comes last; where the row does not reach it, it weighs nothing
            before, last = (weights[n], 0.0) if len(weights[n]) <= i else (before, last)
            numbered = [(j, w) for j, w in enumerate(before) if w]
            on_data, on_noise = outputs[i][n]
            fresh = noises[n] if noisy else ()
            stages.append(
                Stage(times[n][i], propagator[n], last * on_data, last * on_noise, numbered, fresh, (on_data, on_noise))
            )
        intervals = list(pairwise(log_snrs[n])) if noisy else []
        yield StepPlan(times[n][0], times[n][-1], stages, intervals, (), tableau.order)


@dataclass(frozen=True)
class ExponentialRungeKutta(ExponentialIntegrator):
    """`u_i = propagator x_t + integral_weight h sum_j a_ij M_j`, and the same with b_i for x_s: subclasses state a
    tableau, and the linear `part` unless it is the data's.
    """

    part: LinearPart = field(default=DataPart(), kw_only=True)

    def __post_init__(self) -> None:
        check_kind(self, "part", LinearPart, "NoisePart()")

    @property
    @abstractmethod
    def tableau(self) -> ExponentialTableau:
        """The weights."""

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def nfe(self) -> int:
        return len(self.tableau.c)

    @property
    def exact_on(self) -> frozenset[Exact]:
        return exact_on(self.part, noisy=ReverseSDE in self.solves)

    def plan(self, steps: GridSteps, part: IsotropicPart) -> Iterator[StepPlan]:
        for n, step in enumerate(runge_kutta_plan(self.tableau, part, steps)):
            yield step.after(n * len(step.stages))
