"""Exponential Adams methods whose step and order follow the error, for every sample apart."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff._core.states import row_mean_on_host
from scorediff.denoiser import NetworkOutput
from scorediff.linear_parts import LinearPart, Preconditioned
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.adaptive.controller import Controller, check_budget, check_tolerance
from scorediff.solvers.adaptive.newton import Differences, Integrals, column, columns
from scorediff.solvers.adaptive.stepping import SUM_OF_STEPS, Legs, Proposal, Walk, put, restore, take, worth
from scorediff.solvers.base import Solver, Step
from scorediff.solvers.counting import CountingDenoiser
from scorediff.spacings import Grid

__all__ = ["ExponentialAdams"]

_FIRST = 0.01  # the first step, on the clock, which runs from pi/2 to 0
_HALVE = 0.55  # a step that would leave a crumb of its leg takes half of what is left


@dataclass(frozen=True)
class ExponentialAdams(Solver):
    """Variable-step, variable-order exponential Adams, predictor and corrector, one evaluation a step.

    On the flow without its linear `part`, polynomials in the part's clock through the last k nodes
    predict, and with the new reading correct (PEC); k goes up to `largest_k`. The error of a step is the difference of
    two correctors, as it will be in the data: its root mean square per sample is held to `atol + rtol data_std`. Order
    and step are chosen as Shampine and Gordon do: the neighbouring order that promises the longer step.

    Every sample has its own steps and order, and those that arrive leave the network's batch. Save times are met by the
    polynomial of the step over them, which costs nothing; times where the denoiser jumps (its `discontinuities`) are
    landed on, and begin anew. It runs from alpha = 0, but with `NoisePart`.
    """

    rtol: float = 1e-3
    atol: float = 0.0
    part: LinearPart = Preconditioned()
    largest_k: int = 8
    max_evaluations: int = 10_000
    controller: Controller = Controller(safety=0.6, shrink=0.3, grow=2.5)
    adaptive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    estimates: ClassVar[str] = SUM_OF_STEPS
    one_step: ClassVar[bool] = False
    source: ClassVar[str] = "Shampine and Gordon 1975"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exponential-adams": {}}

    def __post_init__(self) -> None:
        if not isinstance(self.part, LinearPart):
            raise TypeError(f"part = {self.part!r}: give a LinearPart, such as Preconditioned(data_std=0.5)")
        if isinstance(self.largest_k, bool) or not isinstance(self.largest_k, int) or not 1 <= self.largest_k <= 12:
            raise ValueError(f"largest_k = {self.largest_k!r}: 1 to 12 readings a step")

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        check_tolerance(self, dtype)
        check_budget(self, first=2)

    @property
    def starts_at_pure_noise(self) -> bool:  # type: ignore[override]
        return self.part.from_pure_noise

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        run = _Run(self, CountingDenoiser.before(problem, x, grid), x, grid)  # a bare problem has no door yet
        yield run.step()
        while run.rows.size:
            yield from run.advance()
            yield run.step()


class _Run:
    """One run. `rows` are the samples under way; `state`, `past` and `k` have a row for each of them."""

    def __init__(self, solver: ExponentialAdams, problem: Problem, x: Tensor, grid: Grid) -> None:
        self.problem, self.part, self.x, self.largest_k = problem, solver.part, x, solver.largest_k
        self.max_evaluations, self.controller = solver.max_evaluations, solver.controller
        self.allowed = solver.atol + solver.rtol * self.part.scale
        self.wide, batch = torch.promote_types(x.dtype, torch.float32), x.shape[0]
        legs = Legs.of(problem.denoiser, grid, stops=False)
        self.saves = [t for t in grid.times[1:-1] if t not in legs.ends]
        self.walk = Walk.at_start(legs, self._clock, self._time, solver.controller, batch)
        # errors count as they do in the data
        self.end = self._at(np.array([grid.end]))
        self.factor = self.part.calibration / float(worth(problem.schedule, grid.end, self.part.scale))
        self.rows, self.k = np.arange(batch), np.ones(batch, dtype=np.int64)
        self.here = self._at(self.walk.t)  # alpha and sigma of the rows
        self.state = self._split(x, self.here[0])
        self.past = Differences(len(self.state), batch, solver.largest_k + 2)
        if batch:
            self._begin(self.rows)
        self._leave_behind()

    def step(self) -> Step:
        """Where all samples are."""
        return self.walk.step(self.x, self.factor)

    def advance(self) -> Iterator[Step]:
        """Try a step of every sample under way; yields the states at save times that were passed."""
        walk, k, past, old = self.walk, self.k, self.past, self.state
        step, s_0 = walk.propose(self.rows, _HALVE), walk.s[self.rows]
        numbers = Integrals.over(self.part, s_0, step.s, past.nodes[:, : int(k.max()) + 1])
        before, (alpha, sigma) = self.part.radius(*self.here), self._at(step.t)
        after = self.part.radius(alpha, sigma)
        new_state = past.moved(old, numbers, k, before, after)
        readings = self._read(step.ask, self._join(new_state, alpha), self.rows, (alpha, sigma))
        new = past.extended(readings, numbers.products)
        error, factor, better = self._choice(self._errors(new, numbers, self.part.carried(alpha, sigma, self.end)))
        good = walk.judge(step, error, factor, error * self.allowed, 1)
        past.take(good, step.s, k, numbers.products, new)
        if good.any():
            self._move(good, self._corrected(new_state, numbers, after, new), alpha)
            column_of = good[:, None]
            self.here = np.where(column_of, alpha, self.here[0]), np.where(column_of, sigma, self.here[1])
            yield from self._saved(step, good, s_0, old, before)
        self.k = np.where(good, better, np.minimum(better, k))
        walk.order[self.rows] = k + 1
        jumped = walk.jumped(self.rows[good], self.max_evaluations)
        if jumped.size:
            self._begin(np.flatnonzero(np.isin(self.rows, jumped)))
        self._leave_behind()

    def _errors(self, new: list[list[Tensor]], numbers: Integrals, counts: list[np.ndarray]) -> np.ndarray:
        """Root mean squares of the difference of the correctors through i and i - 1 old readings, in units of the
        tolerance, of shape (A, highest k + 1), for i from 1; NaN where no sample wants to know.
        """
        lowest, highest = max(int(self.k.min()) - 1, 1), len(new[0]) - 1
        total: Any = 0.0
        for part, (terms, count) in enumerate(zip(new, counts, strict=True)):
            # (G_i - G_(i-1)) d_i, with what an error counts
            weights = numbers.corrects[part]
            weights = ((weights[:, 1:] - weights[:, :-1]) * count[:, None, :])[:, lowest - 1 : highest]
            alone = count.shape[1] == 1
            wanted = terms[lowest : highest + 1]
            if not alone:
                wanted = [term * w for term, w in zip(wanted, columns(weights, terms[0]), strict=True)]
            # all in one sum, and one read
            held = terms[0].new_empty((len(wanted), *terms[0].shape))
            for term, place in zip(wanted, held, strict=True):
                torch.mul(term, term, out=place)
            squares = row_mean_on_host(held.flatten(0, 1)).reshape(len(wanted), -1).T * terms[0][0].numel()
            total = total + (squares * weights[..., 0] ** 2 if alone else squares)
        found = np.full((len(self.k), highest), np.nan)
        found[:, lowest - 1 :] = np.sqrt(total / self.x[0].numel()) / self.allowed
        return found

    def _choice(self, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The error of each sample's own k, the promise for its next step, and the k that makes it: one less or one
        more where that promises more.
        """
        rows, k, before = np.arange(len(self.k)), self.k, self.walk.before[self.rows]

        def promise(i: np.ndarray) -> np.ndarray:
            return self.controller.promise(errors[rows, i - 1], i + 1, before)

        error, factor, better = errors[rows, k - 1], promise(k), k
        may_rise = (error <= 1) & (k < self.largest_k) & (self.past.count > k)
        for other, may in ((k + 1, may_rise), (k - 1, k > 1)):
            promised = np.where(may, promise(np.where(may, other, k)), 0.0)
            better = np.where(promised > factor, other, better)
            factor = np.maximum(factor, promised)
        return error, factor, better

    def _corrected(
        self, state: list[Tensor], numbers: Integrals, after: list[np.ndarray], new: list[list[Tensor]]
    ) -> list[Tensor]:
        """Corrected states from predicted ones, which the network may still hold: `x_1 + R_1 G_k d_k`."""
        made = []
        for part, (x, r_1, terms) in enumerate(zip(state, after, new, strict=True)):
            weights = r_1[:, None, :] * numbers.corrects[part]
            for i in np.unique(self.k):
                weight = column(np.where((self.k == i)[:, None], weights[:, i], 0.0), x)
                x = torch.addcmul(x, terms[i], weight, out=self.past.work.buffer(x))
            made.append(x)
        return made

    def _move(self, good: np.ndarray, state: list[Tensor], alpha: np.ndarray) -> None:
        restore(state, self.state, good)
        self.state = state
        self.x = put(self.x, self.rows[good], take(self._join(state, alpha), np.flatnonzero(good)))

    def _saved(
        self, step: Proposal, good: np.ndarray, s_0: np.ndarray, old: list[Tensor], before: list[np.ndarray]
    ) -> Iterator[Step]:
        """The states at save times within the steps that passed, by the polynomial of each."""
        for t in self.saves:
            s = float(self._clock(t))
            over = good & ((s_0 - s) * (step.s - s) <= 0) & (step.s != s_0)
            if not over.any():
                continue
            alpha, sigma = self._at(np.full(len(self.rows), t))
            past = self.past
            stop = np.where(over, s, step.s)
            # the step looks back on the new reading too
            numbers = Integrals.over(self.part, s_0, stop, past.nodes[:, : int(self.k.max()) + 1])
            state = past.moved(old, numbers, self.k + 1, before, self.part.radius(alpha, sigma))
            passed = take(self._join(state, alpha), np.flatnonzero(over))
            here = self.walk.step(put(self.x, self.rows[over], passed), self.factor)
            here.t[self.rows[over]] = t
            yield here

    def _begin(self, which: np.ndarray) -> None:
        """Ask for a first reading where some of the samples under way are."""
        rows, walk = self.rows[which], self.walk
        t = walk.asked(rows)
        readings = self._read(t, take(self.x, rows), rows, self._at(t))
        self.past.begin(which, walk.s[rows], readings)
        walk.h[rows] = np.sign(walk.goal(rows) - walk.s[rows]) * _FIRST
        walk.evaluations[rows] += 1
        walk.since[rows] = 0
        self.k[which] = 1

    def _leave_behind(self) -> None:
        """Forget what is known of samples that have come to their end."""
        rows = self.walk.running(1, self.max_evaluations)
        if len(rows) < len(self.rows):
            which = np.flatnonzero(np.isin(self.rows, rows))
            self.past.keep(which)
            self.state = [take(x, which) for x in self.state]
            self.rows, self.k, self.here = rows, self.k[which], (self.here[0][which], self.here[1][which])

    def _clock(self, t: Any) -> Any:
        schedule = self.problem.schedule
        return self.part.clock(schedule.alpha(t), schedule.sigma(t))

    def _time(self, tau: Any) -> Any:
        with np.errstate(divide="ignore"):
            return self.problem.schedule.time_at(-np.log(self.part.s(tau)))

    def _at(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and sigma, of shape (A, 1)."""
        schedule = self.problem.schedule
        return np.asarray(schedule.alpha(t))[:, None], np.asarray(schedule.sigma(t))[:, None]

    # states and their parts

    def _split(self, x: Tensor, alpha: np.ndarray) -> list[Tensor]:
        return list(self.part.split(x.to(self.wide), column(alpha, x)))

    def _join(self, state: list[Tensor], alpha: np.ndarray) -> Tensor:
        return self.part.join(state, column(alpha, state[0]), self.x).to(self.x.dtype)

    def _read(self, t: np.ndarray, x: Tensor, rows: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> list[Tensor]:
        """P of every part at the states `x` of some samples, with alpha and sigma there; one evaluation of each."""
        reading = self.problem.denoiser(t, x, rows=None if len(rows) == len(self.x) else rows)
        weights = self.part.reads(*at)
        if len(weights) == 1 and isinstance(reading, NetworkOutput):
            # a network's reading goes in as the state and the output it is made of
            ((on_data, on_noise),) = weights
            terms = reading.terms(on_data[:, 0], on_noise[:, 0])
            first, second = columns(np.stack([c for c, _ in terms], axis=1)[..., None], x.to(self.wide))
            out = torch.mul(terms[0][1].to(self.wide), first, out=self.past.work.buffer(x.to(self.wide)))
            return [out.addcmul_(terms[1][1].to(self.wide), second)]
        data, noise = reading
        one = np.ones((len(rows), 1))
        pairs = zip(self._split(data, one), self._split(noise, 0 * one), weights, strict=True)
        # P = (sigma D - alpha v E) / R_v
        return [d * column(on_d, d) + e * column(on_e, e) for d, e, (on_d, on_e) in pairs]
