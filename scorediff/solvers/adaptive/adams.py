"""Exponential Adams methods whose step and order follow the error, for every sample apart."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import row_mean_on_host
from scorediff.coordinates import Angle, LogShift, RatioVariable
from scorediff.linear_parts import DataPart, GaussianPart, LinearPart, NoisePart, Preconditioned
from scorediff.linear_parts.base import check_data_std
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.adaptive.controller import Controller, IController
from scorediff.solvers.adaptive.newton import Differences, Integrals, column, columns
from scorediff.solvers.adaptive.rows import put, restore, take
from scorediff.solvers.adaptive.run import AdaptiveRun, Trial, check_controller
from scorediff.solvers.adaptive.segments import SUM_OF_STEPS, Segments, error_weight
from scorediff.solvers.adaptive.stepping import Proposal, Stepping
from scorediff.solvers.base import AdaptiveSolver, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.solvers.exponential.engine import check_kind
from scorediff.spacings import Grid

__all__ = ["ExponentialAdams"]

_FIRST = 0.01  # the first step, in a variable that runs over about 1
_BEYOND = 2.0  # by how much the variable's scales lie beyond those of the data
#: What the sum of a run's local errors is multiplied with, so that it is not below the truth for 95 % of samples.
_CALIBRATION: Mapping[type[LinearPart], float] = {
    DataPart: 14.0, NoisePart: 5.0, Preconditioned: 6.0, GaussianPart: 1.5,
}  # fmt: skip


@dataclass(frozen=True)
class ExponentialAdams(AdaptiveSolver):
    """Variable-step, variable-order exponential Adams, predictor and corrector, one evaluation a step.

        x' / R' = x / R_0 + INT (d(x/R)/ds) p_k ds,   x_1 = x' + R_1 G_k (P(x') - p_k(tau_1)),   s = sigma / alpha

    p_k is the polynomial in the integration variable tau through the last k values of P, what the linear part leaves;
    with the new one it corrects (PEC). The error of a step is the difference of two correctors, as it will be in the
    data: its root mean square per sample is held to `atol + rtol data_std`. Order and step are chosen as Shampine and
    Gordon do: the neighbouring order that allows the longer step.

    Every sample has its own steps and order, and those that arrive leave the network's batch. Save times are met by the
    polynomial of the step over them, which costs nothing; discontinuities of the denoiser are landed on, and begin
    anew. It runs from alpha = 0, but with `NoisePart`.

    `part`: the linear part, a Gaussian of the data's variance by default. `variable`: tau; by default
    `Angle(data_std / 2)`, where the distribution of the data comes apart into its modes, and `LogShift` over the scales
    of a part of several variances. `data_std`: the data's standard deviation per entry, that of the part where it knows
    it, else 1. `largest_k`: 8, beyond which nothing is gained. `controller`: what chooses the steps.

    `rtol`, `atol`, `max_evaluations`: the tolerance and the budget, as of every `AdaptiveSolver`.
    """

    rtol: float = 1e-3
    atol: float = 0.0
    part: LinearPart = Preconditioned()
    largest_k: int = 8
    variable: RatioVariable | None = field(default=None, kw_only=True)
    data_std: float | None = field(default=None, kw_only=True)
    controller: Controller = field(default=IController(safety=0.6, shrink=0.3, grow=2.5), kw_only=True)
    estimates = SUM_OF_STEPS
    one_step = False
    source: ClassVar[str] = "Shampine and Gordon 1975"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exponential-adams": {}}

    def __post_init__(self) -> None:
        check_kind(self, "part", LinearPart, "Preconditioned(data_std=0.5)")
        check_controller(self)
        if self.variable is not None:
            check_kind(self, "variable", RatioVariable, "Angle(0.5)")
        if self.data_std is not None:
            check_data_std(self)
        if isinstance(self.largest_k, bool) or not isinstance(self.largest_k, int) or not 1 <= self.largest_k <= 12:
            raise ValueError(f"largest_k = {self.largest_k!r}: 1 to 12 evaluations a step")

    @property
    def least_evaluations(self) -> int:
        return 2

    @property
    def starts_at_pure_noise(self) -> bool:
        with np.errstate(divide="ignore"):
            return self.part.regular_at_pure_noise and bool(np.isfinite(self.polynomials_in.of(0.0, np.ones(()))))

    @property
    def scale(self) -> float:
        """The standard deviation of the data, to which errors are relative."""
        return self.data_std or self.part.data_std or 1.0

    @property
    def polynomials_in(self) -> RatioVariable:
        """The integration variable that is used."""
        if self.variable is not None:
            return self.variable
        stds = np.sqrt(np.concatenate(self.part.spectrum))
        if stds.size == 1:
            return Angle(self.scale / 2)
        stds = stds[stds > 0] / 2
        return LogShift(float(stds.min()) / _BEYOND, float(stds.max()) * _BEYOND)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        yield from _Run(self, CountingDenoiser.before(problem, x, grid), x, grid).steps()


class _Run(AdaptiveRun):
    """One run. `rows` are the samples under way; `state`, `past` and `k` have a row for each of them."""

    cost = 1
    halve = 0.55  # so that no step leaves a tiny last one

    def __init__(self, solver: ExponentialAdams, problem: Problem, x: Tensor, grid: Grid) -> None:
        self.problem, self.part, self.x, self.largest_k = problem, solver.part, x, solver.largest_k
        self.variable, self.scale = solver.polynomials_in, solver.scale
        self.allowed = solver.atol + solver.rtol * self.scale
        self.wide, batch = torch.promote_types(x.dtype, torch.float32), x.shape[0]
        segments = Segments.of(problem.denoiser, grid, stops=False)
        self.saves = [t for t in grid.times[1:-1] if t not in segments.ends]
        value, time = (partial(fn, problem.schedule) for fn in (self.variable.value, self.variable.time))
        stepping = Stepping.at_start(segments, value, time, solver.controller, batch)
        # errors weigh as they do in the data
        weight = float(error_weight(problem.schedule, grid.end, self.scale))
        super().__init__(solver, stepping, _CALIBRATION.get(type(self.part), 14.0) / weight)
        self.end = self._at(np.array([grid.end]))
        self.rows, self.k = np.arange(batch), np.ones(batch, dtype=np.int64)
        self.here = self._at(stepping.t)  # alpha and sigma of the rows
        self.state = self._split(x, self.here[0])
        self.past = Differences(len(self.state), batch, solver.largest_k + 2)
        if batch:
            self.restart(self.rows)

    def running(self) -> np.ndarray:
        """The samples that go on; what is known of those that have come to their end is forgotten."""
        rows = super().running()
        if len(rows) < len(self.rows):
            which = np.flatnonzero(np.isin(self.rows, rows))
            self.past.keep(which)
            self.state = [take(x, which) for x in self.state]
            self.rows, self.k, self.here = rows, self.k[which], (self.here[0][which], self.here[1][which])
        return rows

    def attempt(self, step: Proposal) -> Trial:
        k, past, s_0 = self.k, self.past, self.stepping.s[self.rows]
        integrals = self._integrals(s_0, step.s)
        before, (alpha, sigma) = self.part.radius(*self.here), self._at(step.t)
        after = self.part.radius(alpha, sigma)
        predicted = past.moved(self.state, integrals, k, before, after)
        outputs = self._evaluated(step.evaluate, self._join(predicted, alpha), self.rows, (alpha, sigma))
        new = past.extended(outputs, integrals.products)
        weights = self.part.error_weights(alpha, sigma, self.end, self.scale)
        error, factor, better = self._choice(self._errors(new, integrals, weights))
        tried = _Tried(s_0, integrals, before, after, (alpha, sigma), predicted, new, better)
        return Trial(error, error * self.allowed, factor, tried)

    def move(self, step: Proposal, good: np.ndarray, trial: Trial) -> Iterator[Step]:
        tried: _Tried = trial.state
        k, old, (alpha, sigma) = self.k, self.state, tried.there
        self.past.take(good, step.s, k, tried.integrals.products, tried.new)
        if good.any():
            state = self._corrected(tried.predicted, tried.integrals, tried.after, tried.new)
            restore(state, self.state, good)
            self.state = state
            self.x = put(self.x, self.rows[good], take(self._join(state, alpha), np.flatnonzero(good)))
            column_of = good[:, None]
            self.here = np.where(column_of, alpha, self.here[0]), np.where(column_of, sigma, self.here[1])
            yield from self._saved(step, good, tried.s_0, old, tried.before)
        self.k = np.where(good, tried.better, np.minimum(tried.better, k))
        self.stepping.order[self.rows] = k + 1

    def restart(self, rows: np.ndarray) -> None:
        which, stepping = np.flatnonzero(np.isin(self.rows, rows)), self.stepping
        t = stepping.here(rows)
        outputs = self._evaluated(t, take(self.x, rows), rows, self._at(t))
        self.past.begin(which, stepping.s[rows], outputs)
        stepping.h[rows] = np.sign(stepping.goal(rows) - stepping.s[rows]) * _FIRST
        stepping.evaluations[rows] += 1
        stepping.since[rows] = 0
        self.k[which] = 1

    def _integrals(self, start: np.ndarray, stop: np.ndarray) -> Integrals:
        nodes = self.past.nodes[:, : int(self.k.max()) + 1]
        return Integrals.over(self.part, self.variable, self.scale, start, stop, nodes)

    def _errors(self, new: list[list[Tensor]], integrals: Integrals, error_weights: list[np.ndarray]) -> np.ndarray:
        """Root mean squares of the difference of the correctors through i and i - 1 old outputs, in units of the
        tolerance, of shape (A, highest k + 1), for i from 1; NaN where no sample wants to know.
        """
        lowest, highest = max(int(self.k.min()) - 1, 1), len(new[0]) - 1
        total: Any = 0.0
        for part, (terms, weight) in enumerate(zip(new, error_weights, strict=True)):
            # (G_i - G_(i-1)) d_i, with what an error weighs
            weights = integrals.corrects[part]
            weights = ((weights[:, 1:] - weights[:, :-1]) * weight[:, None, :])[:, lowest - 1 : highest]
            alone = weight.shape[1] == 1
            wanted = terms[lowest : highest + 1]
            if not alone:
                wanted = [term * w for term, w in zip(wanted, columns(weights, terms[0]), strict=True)]
            # all in one sum, and one read
            squared = terms[0].new_empty((len(wanted), *terms[0].shape))
            for term, place in zip(wanted, squared, strict=True):
                torch.mul(term, term, out=place)
            squares = row_mean_on_host(squared.flatten(0, 1)).reshape(len(wanted), -1).T * terms[0][0].numel()
            total = total + (squares * weights[..., 0] ** 2 if alone else squares)
        found = np.full((len(self.k), highest), np.nan)
        found[:, lowest - 1 :] = np.sqrt(total / self.x[0].numel()) / self.allowed
        return found

    def _choice(self, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The error of each sample's own k, the factor of its next step, and the k that allows it: one less or one more
        where that allows a longer one.
        """
        rows, k = np.arange(len(self.k)), self.k

        def step_factor(i: np.ndarray) -> np.ndarray:
            return self.stepping.step_factor(self.rows, errors[rows, i - 1], i + 1)

        error, factor, better = errors[rows, k - 1], step_factor(k), k
        may_rise = (error <= 1) & (k < self.largest_k) & (self.past.count > k)
        for other, may in ((k + 1, may_rise), (k - 1, k > 1)):
            found = np.where(may, step_factor(np.where(may, other, k)), 0.0)
            better = np.where(found > factor, other, better)
            factor = np.maximum(factor, found)
        return error, factor, better

    def _corrected(
        self, state: list[Tensor], integrals: Integrals, after: list[np.ndarray], new: list[list[Tensor]]
    ) -> list[Tensor]:
        """Corrected states from predicted ones, which the network may still hold: `x_1 + R_1 G_k d_k`."""
        made = []
        for part, (x, r_1, terms) in enumerate(zip(state, after, new, strict=True)):
            weights = r_1[:, None, :] * integrals.corrects[part]
            for i in np.unique(self.k):
                weight = column(np.where((self.k == i)[:, None], weights[:, i], 0.0), x)
                x = torch.addcmul(x, terms[i], weight, out=self.past.work.buffer(x))
            made.append(x)
        return made

    def _saved(
        self, step: Proposal, good: np.ndarray, s_0: np.ndarray, old: list[Tensor], before: list[np.ndarray]
    ) -> Iterator[Step]:
        """The states at save times within the steps that passed, by the polynomial of each."""
        for t in self.saves:
            s = float(self.variable.value(self.problem.schedule, t))
            over = good & ((s_0 - s) * (step.s - s) <= 0) & (step.s != s_0)
            if not over.any():
                continue
            alpha, sigma = self._at(np.full(len(self.rows), t))
            past = self.past
            stop = np.where(over, s, step.s)
            # the step uses the new output too
            integrals = self._integrals(s_0, stop)
            state = past.moved(old, integrals, self.k + 1, before, self.part.radius(alpha, sigma))
            passed = take(self._join(state, alpha), np.flatnonzero(over))
            here = self.stepping.step(put(self.x, self.rows[over], passed), self.calibration)
            here.t[self.rows[over]] = t
            yield here

    def _at(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and sigma, of shape (A, 1)."""
        schedule = self.problem.schedule
        return np.asarray(schedule.alpha(t))[:, None], np.asarray(schedule.sigma(t))[:, None]

    # states and their parts

    def _split(self, x: Tensor, alpha: np.ndarray) -> list[Tensor]:
        return list(self.part.split(x.to(self.wide), alpha[:, 0]))

    def _join(self, state: list[Tensor], alpha: np.ndarray) -> Tensor:
        return self.part.join(state, alpha[:, 0], self.x).to(self.x.dtype)

    def _evaluated(self, t: np.ndarray, x: Tensor, rows: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> list[Tensor]:
        """P of every part at the states `x` of some samples, with alpha and sigma there; one evaluation of each."""
        output = self.problem.denoiser(t, x, rows=None if len(rows) == len(self.x) else rows)
        weights = self.part.weights(*at)
        if len(weights) == 1:
            # a network's output goes in as the state and the output it is made of
            ((on_data, on_noise),) = weights
            terms = output.terms(on_data[:, 0], on_noise[:, 0])
            first, second = columns(np.stack([c for c, _ in terms], axis=1)[..., None], x.to(self.wide))
            out = torch.mul(terms[0][1].to(self.wide), first, out=self.past.work.buffer(x.to(self.wide)))
            return [out.addcmul_(terms[1][1].to(self.wide), second)]
        one = np.ones((len(rows), 1))
        pairs = zip(self._split(output[0], one), self._split(output[1], 0 * one), weights, strict=True)
        # P = (sigma D - alpha v E) / R
        return [d * column(on_d, d) + e * column(on_e, e) for d, e, (on_d, on_e) in pairs]


@dataclass(frozen=True)
class _Tried:
    """What is known of a step that was tried, a row for each sample under way."""

    s_0: np.ndarray
    integrals: Integrals
    before: list[np.ndarray]
    after: list[np.ndarray]
    there: tuple[np.ndarray, np.ndarray]
    predicted: list[Tensor]
    new: list[list[Tensor]]
    better: np.ndarray
