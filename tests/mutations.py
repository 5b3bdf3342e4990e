"""Slips planted in our own solvers, in memory, and the proofs that have to see them.

A slip is one piece of a module's text put in the place of another; the module so changed is executed as a fresh one,
with those of its package that import it, and the real classes stay as they are. `python tests/mutations.py` writes what
each proof sees into docs/mutations.md.
"""

import ast
import dataclasses
import functools
import gc
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from oracle import one_after_the_other

import scorediff as sd
from scorediff.solvers.exponential.tableau import ExponentialTableau
from scorediff.solvers.unrolled import unrolled
from scorediff.verify import (
    GAUSSIAN,
    LINE,
    MIXTURE,
    coefficients,
    exactness,
    exponential_order,
    moments,
    order,
    step_order,
    strong_order,
    uneven,
)
from scorediff.verify.runs import stochastic

PAGE = Path(__file__).parents[1] / "docs" / "mutations.md"
SCHEDULES = (sd.VPLinear(), sd.RectifiedFlow())

RUNGE_KUTTA, STOCHASTIC = "scorediff.solvers.runge_kutta", "scorediff.solvers.stochastic"
COORDINATES, STATES = "scorediff.coordinates", "scorediff._core.states"
SOLVERS, ADAPTIVE = "scorediff.solvers", "scorediff.solvers.adaptive"
LINEAR_PARTS = "scorediff.linear_parts"
PAIRS, NEWTON, ROWS = f"{ADAPTIVE}.runge_kutta", f"{ADAPTIVE}.newton", f"{ADAPTIVE}.rows"
VARIABLE_ADAMS, STEPPING = f"{ADAPTIVE}.adams", f"{ADAPTIVE}.stepping"
EXPONENTIAL, COMPOSED = "scorediff.solvers.exponential", "scorediff.solvers.composed"
ENGINE, FIRST_ORDER, WRAPPER = f"{EXPONENTIAL}.engine", f"{EXPONENTIAL}.first_order", f"{COMPOSED}.wrapper"
FORMS, PRECONDITIONED, PARTS = f"{LINEAR_PARTS}.forms", f"{LINEAR_PARTS}.preconditioned", f"{LINEAR_PARTS}.base"
MULTISTEP, STARTS, ADAMS = f"{EXPONENTIAL}.multistep", f"{EXPONENTIAL}.starts", f"{EXPONENTIAL}.adams"
DPM_SOLVER, UNIPC, PNDM = f"{EXPONENTIAL}.dpm_solver", f"{EXPONENTIAL}.unipc", f"{EXPONENTIAL}.pndm"
ER_SDE, EXPONENTIAL_RK, ETD = f"{EXPONENTIAL}.er_sde", f"{EXPONENTIAL}.runge_kutta", f"{EXPONENTIAL}.etd"
ANCESTRAL, CHURN = f"{COMPOSED}.ancestral", f"{COMPOSED}.churn"
RESTART, LANGEVIN = f"{COMPOSED}.restart", f"{COMPOSED}.langevin"


# The samplers, each with a second route to what it is


@dataclass(frozen=True)
class _Written(sd.Solver):
    """A sampler written out; its name begins with `_`, so that nobody discovers it."""

    formula: Callable[..., Any] = None
    solves = (sd.ProbabilityFlow, sd.ReverseSDE)

    def run(self, problem, x, grid, noise):
        return self.formula(problem, x, grid, noise)


def _edm(problem, x, grid):
    """`x / alpha` and what goes with it: the evaluation at a node, `sigma / alpha` and the log-SNR at all nodes."""
    schedule, t = problem.schedule, grid.times.tolist()
    alpha, s = schedule.alpha(grid.times).tolist(), (schedule.sigma(grid.times) / schedule.alpha(grid.times)).tolist()
    return t, s, alpha, schedule.log_snr(grid.times).tolist(), x * (1 / alpha[0])


def _data_form(problem, x, grid, noise):
    # y_1 = rho y_0 + (1 - rho) D + s_1 sqrt(1 - (s_1/s_0)^(2 eta^2)) z, rho = (s_1/s_0)^(1 + eta^2), and
    # D = D_0 + (D_0 - D_-1) / (2 r), as in k-diffusion's sample_dpmpp_2m and sample_dpmpp_2m_sde
    t, s, alpha, log_snr, y = _edm(problem, x, grid)
    eta2, before = problem.eta**2, None
    for n in range(grid.steps):
        data = now = problem.denoiser(t[n], y * alpha[n])[0]
        if before is not None:
            data = now + (now - before) * ((log_snr[n + 1] - log_snr[n]) / (log_snr[n] - log_snr[n - 1]) / 2)
        rho, before = (s[n + 1] / s[n]) ** (1 + eta2), now
        y = y * rho + data * (1 - rho)
        if eta2:
            y = y + noise(log_snr[n], log_snr[n + 1]) * (s[n + 1] * np.sqrt(1 - (s[n + 1] / s[n]) ** (2 * eta2)))
        yield t[n + 1], y * alpha[n + 1]


def _noise_form(problem, x, grid, noise):
    # y_1 = y_0 + (1 + eta^2) (s_1 - s_0) E + eta sqrt(s_0^2 - s_1^2) z, E = E_0 + (E_0 - E_-1) / (2 r)
    t, s, alpha, log_snr, y = _edm(problem, x, grid)
    eta2, before = problem.eta**2, None
    for n in range(grid.steps):
        slope = now = problem.denoiser(t[n], y * alpha[n])[1]
        if before is not None:
            slope = now + (now - before) * ((log_snr[n + 1] - log_snr[n]) / (log_snr[n] - log_snr[n - 1]) / 2)
        y, before = y + slope * ((1 + eta2) * (s[n + 1] - s[n])), now
        if eta2:
            y = y + noise(log_snr[n], log_snr[n + 1]) * np.sqrt(eta2 * (s[n] ** 2 - s[n + 1] ** 2))
        yield t[n + 1], y * alpha[n + 1]


def _integrated(q, h, places):
    """Weights of the data at `places`: its polynomial in u, integrated against q e^(-q (h - u)) from 0 to h, by powers
    of u, which Gauss' nodes and Lagrange's polynomials have no part in.
    """
    powers = [-np.expm1(-q * h)]
    for m in range(1, len(places)):
        powers.append(h**m - m / q * powers[-1])
    return np.linalg.solve(np.vander(places, increasing=True).T, powers)


def _multistep(problem, x, grid, noise, k=3, corrected=0, starts=0, half=False):
    # Adams' predictor with k evaluations and the corrector with the new one and `corrected` others (PEC), in
    # y = x / alpha against the log-SNR; `starts` first steps by RES-2. With `half` two of them make 2M, or in a
    # corrector the mean
    t, s, _, log_snr, y = _edm(problem, x, grid)
    eta2, outputs = problem.eta**2, []

    def read(time, y):
        return problem.denoiser(time, y * float(problem.schedule.alpha(time)))[0]

    for n in range(grid.steps):
        h, q = log_snr[n + 1] - log_snr[n], 1 + eta2
        if len(outputs) == n:
            outputs.append(read(t[n], y))
        if n < starts:
            middle = y * np.exp(-h / 2) - outputs[n] * np.expm1(-h / 2)
            slope = (read(float(problem.schedule.time_at(log_snr[n] + h / 2)), middle) - outputs[n]) * (2 / h)
            y = y * np.exp(-h) - outputs[n] * np.expm1(-h) + slope * (h + np.expm1(-h))
            yield t[n + 1], y * float(problem.schedule.alpha(t[n + 1]))
            continue
        base = y * np.exp(-q * h)
        if eta2:
            base = base + noise(log_snr[n], log_snr[n + 1]) * (s[n + 1] * np.sqrt(1 - (s[n + 1] / s[n]) ** (2 * eta2)))
        behind = [log_snr[m] - log_snr[n] for m in range(n, -1, -1)]
        weights = _integrated(q, h, behind[:k])
        if half and len(weights) == 2:
            r = -behind[1] / h
            weights = -np.expm1(-q * h) * np.array([1 + 1 / (2 * r), -1 / (2 * r)])
        y = base + sum(d * w for d, w in zip(outputs[::-1], weights, strict=False))
        if corrected and n < grid.steps - 1:
            outputs.append(read(t[n + 1], y))
            weights = _integrated(q, h, [h, *behind[:corrected]])
            if half and len(weights) == 2:
                weights = -np.expm1(-q * h) * np.array([1 / 2, 1 / 2])
            y = base + sum(d * w for d, w in zip(outputs[::-1], weights, strict=False))
        yield t[n + 1], y * float(problem.schedule.alpha(t[n + 1]))


def _in_substeps(problem, x, grid, noise, power, **options):
    # `_multistep` on a grid of its own: in the log-SNR the first step begins with a part (8 / N)^power of itself, and m
    # nodes in it lie as the powers of one number between 1 and 2
    first, second = problem.schedule.log_snr(grid.times[:2]).tolist()
    part = (8 / grid.steps) ** power
    m = next(m for m in range(99) if 2**m >= 1 / part)
    inside = [float(problem.schedule.time_at(first + (second - first) * part ** (j / m))) for j in range(m, 0, -1)]
    finer = sd.Grid([grid.start, *inside, *grid.times[1:]])
    yield from islice(_multistep(problem, x, finer, noise, **options), m, None)


def _ipndm(problem, x, grid, noise):
    # y_1 = y_0 + (s_1 - s_0) E, by the table of Adams and Bashforth in arXiv:2202.09778
    t, s, alpha, _, y = _edm(problem, x, grid)
    table, outputs = ([1], [3, -1], [23, -16, 5], [55, -59, 37, -9]), []
    for n in range(grid.steps):
        outputs.insert(0, problem.denoiser(t[n], y * alpha[n])[1])
        row = table[min(n, 3)]
        y = y + sum(e * (c / sum(row)) for e, c in zip(outputs, row, strict=False)) * (s[n + 1] - s[n])
        yield t[n + 1], y * alpha[n + 1]


def _er_sde_3(problem, x, grid, noise):
    # D_0 + v D' + v^2 D''/2 in v = s - s_0 = s_0 (e^-u - 1), integrated power by power; eta^2 is neither 0 nor 1
    t, s, alpha, log_snr, y = _edm(problem, x, grid)
    q, data = 1 + problem.eta**2, []
    for n in range(grid.steps):
        h = log_snr[n + 1] - log_snr[n]
        data.insert(0, problem.denoiser(t[n], y * alpha[n])[0])
        zero, one, two = (q * (np.exp(-m * h) - np.exp(-q * h)) / (q - m) for m in range(3))
        kick = noise(log_snr[n], log_snr[n + 1]) * (s[n + 1] * np.sqrt(1 - (s[n + 1] / s[n]) ** (2 * q - 2)))
        y = y * (s[n + 1] / s[n]) ** q + kick + data[0] * zero
        if n:
            first = (data[0] - data[1]) * (1 / (s[n] - s[n - 1]))
            y = y + first * (s[n] * (one - zero))
        if n > 1:
            before = (data[1] - data[2]) * (1 / (s[n - 1] - s[n - 2]))
            y = y + (first - before) * (s[n] ** 2 * (two - 2 * one + zero) / (s[n] - s[n - 2]))
        yield t[n + 1], y * alpha[n + 1]


def _krogstad(problem, x, grid, noise):
    # Krogstad 2005, eq. 51, for dy/dlambda = -y + D
    log_snr, schedule = problem.schedule.log_snr(grid.times).tolist(), problem.schedule
    y = x * (1 / float(schedule.alpha(grid.start)))
    for n, (t, t_1) in enumerate(grid.pairs()):
        h = log_snr[n + 1] - log_snr[n]
        middle = float(schedule.time_at(log_snr[n] + h / 2))

        def data(time, y):
            return problem.denoiser(time, y * float(schedule.alpha(time)))[0]

        def phis(h):
            one = -np.expm1(-h) / h
            two = (1 - one) / h
            return one, two, (1 / 2 - two) / h

        (half_1, half_2, _), (one, two, three) = phis(h / 2), phis(h)
        d = data(t, y)
        a = y * np.exp(-h / 2) + d * (h / 2 * half_1)
        d_a = data(middle, a)
        b = a + (d_a - d) * (h * half_2)
        d_b = data(middle, b)
        c = y * np.exp(-h) + d * (h * one) + (d_b - d) * (2 * h * two)
        d_c = data(t_1, c)
        y = y * np.exp(-h) + d * (h * (one - 3 * two + 4 * three)) + d_c * (h * (4 * three - two))
        y = y + (d_a + d_b) * (h * (2 * two - 4 * three))
        yield t_1, y * float(schedule.alpha(t_1))


def _sde_2s(problem, x, grid, noise):
    # SDE-DPM-Solver++ 2S at r = 1/2: the noise of the first half is carried through the second
    t, _, alpha, log_snr, y = _edm(problem, x, grid)
    eta2 = problem.eta**2
    for n in range(grid.steps):
        nodes = [log_snr[n], (log_snr[n] + log_snr[n + 1]) / 2, log_snr[n + 1]]
        first, second = (
            noise(a, b) * (np.exp(-b) * np.sqrt(1 - np.exp(-2 * eta2 * (b - a)))) for a, b in pairwise(nodes)
        )
        half, middle = np.exp(-(1 + eta2) * (nodes[1] - nodes[0])), float(problem.schedule.time_at(nodes[1]))
        u = y * half + problem.denoiser(t[n], y * alpha[n])[0] * (1 - half) + first
        data = problem.denoiser(middle, u * float(problem.schedule.alpha(middle)))[0]
        y = y * half**2 + data * (1 - half**2) + first * half + second
        yield t[n + 1], y * alpha[n + 1]


def _ancestral_2s(problem, x, grid, noise):
    # k-diffusion's sample_dpmpp_2s_ancestral, but for the end: no step goes below the last sigma of the schedule
    t, s, alpha, log_snr, y = _edm(problem, x, grid)
    end = min(problem.schedule.t_end, t[-1])
    lowest = float(problem.schedule.sigma(end) / problem.schedule.alpha(end))
    for n in range(grid.steps):
        up = min(s[n + 1], problem.eta * np.sqrt(s[n + 1] ** 2 * (s[n] ** 2 - s[n + 1] ** 2) / s[n] ** 2))
        down = max(np.sqrt(s[n + 1] ** 2 - up**2), lowest)
        middle = np.sqrt(s[n] * down)
        t_middle = float(problem.schedule.time_at(-np.log(middle)))
        data = problem.denoiser(t[n], y * alpha[n])[0]
        u = y * (middle / s[n]) + data * (1 - middle / s[n])
        data = problem.denoiser(t_middle, u * float(problem.schedule.alpha(t_middle)))[0]
        y = y * (down / s[n]) + data * (1 - down / s[n])
        if down < s[n + 1]:
            y = y + noise(log_snr[n], log_snr[n + 1]) * np.sqrt(s[n + 1] ** 2 - down**2)
        yield t[n + 1], y * alpha[n + 1]


def _churned(problem, x, grid, noise):
    # arXiv:2206.00364, algorithm 2, s_churn = 0.5, but that no step goes above the first sigma
    t, s, alpha, log_snr, y = _edm(problem, x, grid)
    gamma = min(0.5 / grid.steps, np.sqrt(2) - 1)
    for n in range(grid.steps):
        start, up = t[n], min((1 + gamma) * s[n], s[0])
        if up > s[n]:
            start = float(problem.schedule.time_at(-np.log(up)))
            y = y + noise(log_snr[n], -float(np.log(up)), tag=1 + n) * np.sqrt(up**2 - s[n] ** 2)
        slope = (y - problem.denoiser(start, y * float(problem.schedule.alpha(start)))[0]) * (1 / up)
        euler = y + slope * (s[n + 1] - up)
        other = (euler - problem.denoiser(t[n + 1], euler * alpha[n + 1])[0]) * (1 / s[n + 1])
        y = y + (slope + other) * ((s[n + 1] - up) / 2)
        yield t[n + 1], y * alpha[n + 1]


def _restarted(problem, x, grid, noise):
    # arXiv:2306.14878, algorithm 1: from the last node above s = 0.3 .. 1 to the first below, twice
    t, s, alpha, log_snr, _ = _edm(problem, x, grid)
    top, bottom = max(n for n, v in enumerate(s) if v >= 1), min(n for n, v in enumerate(s) if v <= 0.3)
    *before, (_, x) = islice(_edm_heun(problem, x, grid, noise), bottom)
    yield from before
    for turn in range(2):
        x = x * (alpha[top] / alpha[bottom])
        x = x + noise(log_snr[bottom], log_snr[top], tag=1 + turn) * (
            alpha[top] * np.sqrt(s[top] ** 2 - s[bottom] ** 2)
        )
        *_, (_, x) = _edm_heun(problem, x, sd.Grid(grid.times[top : bottom + 1]), noise)
    yield t[bottom], x
    yield from _edm_heun(problem, x, sd.Grid(grid.times[bottom:]), noise)


def _ddim(problem, x, grid, noise):
    # arXiv:2010.02502, eq. 12, with eta^2 times the variance of the posterior q(x_1 | x_0, D)
    schedule, log_snr = problem.schedule, problem.schedule.log_snr(grid.times).tolist()
    for (t, s), a, b in zip(grid.pairs(), log_snr, log_snr[1:], strict=False):
        alpha_0, sigma_0, alpha_1, sigma_1 = (float(f(u)) for u in (t, s) for f in (schedule.alpha, schedule.sigma))
        posterior = (sigma_1 / sigma_0) ** 2 * (sigma_0**2 - (alpha_0 / alpha_1 * sigma_1) ** 2)
        data, eps = problem.denoiser(t, x)
        x = data * alpha_1 + eps * np.sqrt(sigma_1**2 - problem.eta**2 * posterior)
        x = x + noise(a, b) * (problem.eta * np.sqrt(posterior))
        yield s, x


def _edm_heun(problem, x, grid, noise):
    # arXiv:2206.00364, algorithm 1 without churn
    t, s, alpha, _, y = _edm(problem, x, grid)
    for n in range(grid.steps):
        slope = (y - problem.denoiser(t[n], y * alpha[n])[0]) * (1 / s[n])
        euler = y + slope * (s[n + 1] - s[n])
        other = (euler - problem.denoiser(t[n + 1], euler * alpha[n + 1])[0]) * (1 / s[n + 1])
        y = y + (slope + other) * ((s[n + 1] - s[n]) / 2)
        yield t[n + 1], y * alpha[n + 1]


def _heun(problem, x, grid, noise):
    for t, s in grid.pairs():
        a = problem.drift(t, x)
        x = x + (a + problem.drift(s, x + a * (s - t))) * ((s - t) / 2)
        yield s, x


def _rk4(problem, x, grid, noise):
    for t, s in grid.pairs():
        h, middle = s - t, (t + s) / 2
        a = problem.drift(t, x)
        b = problem.drift(middle, x + a * (h / 2))
        c = problem.drift(middle, x + b * (h / 2))
        x = x + (a + b * 2 + c * 2 + problem.drift(s, x + c * h)) * (h / 6)
        yield s, x


def _euler_maruyama(problem, x, grid, noise):
    for t, s in grid.pairs():
        kick = noise(t, s) * (float(problem.diffusion(t)) * np.sqrt(t - s))
        x = x + problem.drift(t, x) * (s - t) + kick
        yield s, x


def _stochastic_heun(problem, x, grid, noise):
    for t, s in grid.pairs():
        kick, g, g_s = noise(t, s) * np.sqrt(t - s), float(problem.diffusion(t)), float(problem.diffusion(s))
        a = problem.drift(t, x)
        b = problem.drift(s, x + a * (s - t) + kick * g)
        x = x + (a + b) * ((s - t) / 2) + kick * ((g + g_s) / 2)
        yield s, x


@dataclass(frozen=True)
class Sampler:
    """A solver made of the classes of a module, at an eta, and what is known of it besides its own claims.

    `same`: another sampler that has its coefficients. `exact`: on any grid, "means" of a Gaussian or all of "points".
    `smooth`: its order on smooth grids, where that is more than it declares. `late`: whether its slopes settle
    late. `mixtures`: whether its distribution on a mixture can be computed.
    """

    name: str
    module: str
    make: Callable[[ModuleType], sd.Solver]
    eta: float = 0.0
    same: sd.Solver | None = None
    exact: str = ""
    smooth: int | None = None
    late: bool = False
    mixtures: bool = True

    @property
    def solver(self) -> sd.Solver:
        """The true one."""
        return self.make(importlib.import_module(self.module))

    @property
    def noisy(self) -> bool:
        """Whether it is its distribution that has an order."""
        return self.eta > 0 or stochastic(self.solver)

    @property
    def order(self) -> int | None:
        """What it declares of what can be computed without Monte Carlo."""
        return self.solver.weak_order if self.noisy else self.solver.order

    def problem(self, target, schedule):
        denoiser = target.denoiser(schedule)
        return sd.ReverseSDE(denoiser, self.eta) if self.eta else sd.ProbabilityFlow(denoiser)


def _wider(m: ModuleType) -> Any:
    """EDM's part, of the solvers' own class, with a variance that is not its own root."""
    return type(m.DDPM.variants["ddpm-edm"]["part"])(1.3)


SAMPLERS = {
    s.name: s
    for s in [
        Sampler("DDIM", SOLVERS, lambda m: m.DDIM(), 0.0, sd.solvers.Euler(sd.coordinates.DDIMCoordinates()), "points"),
        Sampler("DDIM, eta = 0.5", SOLVERS, lambda m: m.DDIM(), 0.5, _Written(_ddim), "points"),
        Sampler("DDPM", SOLVERS, lambda m: m.DDPM(), 1.0, sd.SDEDPMSolverPP(1), "points"),
        Sampler("DDPM, EDM's part", SOLVERS, lambda m: m.DDPM(part=_wider(m)), 1.0),
        Sampler("DPM-Solver++ 2M, EDM's part", SOLVERS, lambda m: m.DPMSolverPP(2, part=_wider(m))),
        Sampler("DPM-Solver 1", SOLVERS, lambda m: m.DPMSolver(1), 0.0, sd.DDIM(), "means"),
        Sampler("DPM-Solver 2M", SOLVERS, lambda m: m.DPMSolver(2), 0.0, _Written(_noise_form), "means"),
        Sampler("DPM-Solver++ 2M", SOLVERS, lambda m: m.DPMSolverPP(2), 0.0, _Written(_data_form), "points"),
        Sampler(
            "SDE-DPM-Solver 2M, eta = 0.5",
            SOLVERS,
            lambda m: m.SDEDPMSolver(2),
            0.5,
            _Written(_noise_form),
            "means",
        ),
        Sampler(
            "SDE-DPM-Solver++ 2M, eta = 0.5",
            SOLVERS,
            lambda m: m.SDEDPMSolverPP(2),
            0.5,
            _Written(_data_form),
            "points",
        ),
        Sampler(
            "DPM-Solver++ 3M",
            SOLVERS,
            lambda m: m.DPMSolverPP(3),
            0.0,
            _Written(lambda *run: _in_substeps(*run, power=1, half=True)),
            "points",
        ),
        Sampler(
            "DPM-Solver++ 3M, Runge-Kutta start",
            SOLVERS,
            lambda m: m.DPMSolverPP(3, start=m.RungeKuttaStart()),
            0.0,
            _Written(lambda *run: _multistep(*run, starts=2)),
            "points",
        ),
        Sampler(
            "Adams PEC 3",
            SOLVERS,
            lambda m: m.ExponentialAdamsMoulton(3),
            0.0,
            _Written(lambda *run: _in_substeps(*run, power=2 / 3, corrected=3)),
            "points",
            late=True,
        ),
        Sampler(
            "UniPC 2",
            SOLVERS,
            lambda m: m.UniPC(2),
            0.0,
            _Written(lambda *run: _in_substeps(*run, power=1 / 3, k=2, corrected=2, half=True)),
            "points",
        ),
        Sampler(
            "UniPC 3",
            SOLVERS,
            lambda m: m.UniPC(3),
            0.0,
            _Written(lambda *run: _in_substeps(*run, power=2 / 3, corrected=3, half=True)),
            "points",
            late=True,
        ),
        Sampler("iPNDM 4", SOLVERS, lambda m: m.PNDM(4), 0.0, _Written(_ipndm), "points", smooth=2),
        Sampler("Krogstad", SOLVERS, lambda m: m.Krogstad(), 0.0, _Written(_krogstad), "points"),
        Sampler(
            "SA-Solver, eta = 0.5",
            SOLVERS,
            lambda m: m.SASolver(3, corrector_k=3),
            0.5,
            _Written(lambda *run: _multistep(*run, corrected=3)),
            "points",
            mixtures=False,
        ),
        Sampler(
            "ER-SDE-3, eta = 0.5",
            SOLVERS,
            lambda m: m.ERSDE(3),
            0.5,
            _Written(_er_sde_3),
            "points",
            late=True,
            mixtures=False,
        ),
        Sampler(
            "SDE-DPM-Solver++ 2S, eta = 0.5",
            SOLVERS,
            lambda m: m.SDEDPMSolverPPSinglestep(),
            0.5,
            _Written(_sde_2s),
            "points",
        ),
        Sampler(
            "ancestral DPM-Solver++ 2S, eta = 0.5",
            SOLVERS,
            lambda m: m.Ancestral(sd.solvers.DPMSolverSinglestep(k=2)),
            0.5,
            _Written(_ancestral_2s),
            "points",
        ),
        Sampler("DEIS tAB2", SOLVERS, lambda m: m.DEIS(3), 0.0, exact="points", late=True),
        Sampler("SEEDS-2, eta = 0.5", SOLVERS, lambda m: m.SEEDS(k=2), 0.5, exact="means", mixtures=False),
        Sampler("EDM's Heun with churn", SOLVERS, lambda m: m.Churn(s_churn=0.5), 0.0, _Written(_churned), "means"),
        Sampler("EDM's Heun with restarts", SOLVERS, lambda m: m.Restart(), 0.0, _Written(_restarted), mixtures=False),
        Sampler("Langevin steps, eta = 0.5", SOLVERS, lambda m: m.PredictorCorrector(), 0.5),
        Sampler("Heun", SOLVERS, lambda m: m.Heun(), 0.0, _Written(_heun)),
        Sampler(
            "EDM's Heun", SOLVERS, lambda m: m.Heun(**m.Heun.variants["edm-heun"]), 0.0, _Written(_edm_heun), "means"
        ),
        Sampler("RK4", SOLVERS, lambda m: m.RK4(), 0.0, _Written(_rk4)),
        Sampler("RK45", SOLVERS, lambda m: m.RK45(max_evaluations=1000)),
        Sampler("adaptive Adams", SOLVERS, lambda m: m.ExponentialAdams(1e-5, max_evaluations=1000)),
        Sampler("Euler-Maruyama, eta = 0.5", SOLVERS, lambda m: m.EulerMaruyama(), 0.5, _Written(_euler_maruyama)),
        Sampler("stochastic Heun, eta = 0.5", SOLVERS, lambda m: m.StochasticHeun(), 0.5, _Written(_stochastic_heun)),
    ]
}


# The slips


@dataclass(frozen=True)
class Slip:
    """`old` stands once in the text of `module`; with `new` in its place the sampler has `wrong`."""

    name: str
    sampler: str
    wrong: str
    module: str
    old: str
    new: str


# A table: name, sampler, what is wrong, module, and the two texts.
# fmt: off
SLIPS = [
    # which time, which symbol
    Slip("sigma of the wrong time, order 1", "DPM-Solver 1",
         "sigma_0 for sigma_1 in front of the output", MULTISTEP,
         "part.integral_weight(steps.end, eta)", "part.integral_weight(steps.start, eta)"),
    Slip("sigma of the wrong time, order 2", "DPM-Solver 2M", "the same slip, where order 2 is claimed", MULTISTEP,
         "part.integral_weight(steps.end, eta)", "part.integral_weight(steps.start, eta)"),
    Slip("sigma of the wrong time, in DDIM", "DDIM",
         "sigma_0 E for sigma_1 E: no step removes any noise", FIRST_ORDER,
         "noise=sigma_s)", "noise=steps.start.sigma)"),
    Slip("alpha of the wrong time", "DPM-Solver++ 2M", "alpha_0 for alpha_1 in front of the output", MULTISTEP,
         "part.integral_weight(steps.end, eta)", "part.integral_weight(steps.start, eta)"),
    Slip("expm1 the other way round", "DPM-Solver++ 2M", "e^h - 1 for 1 - e^(-h)", FORMS,
         "return np.expm1(self.kappa * h) / self.kappa", "return np.expm1(-self.kappa * h) / -self.kappa"),
    Slip("kappa's sign", "Krogstad", "phi(h) for phi(-h) in all weights of the data form", FORMS,
         "ExponentialKernel(-(1 + eta**2))", "ExponentialKernel(1 + eta**2)"),
    Slip("coefficients in float32", "DPM-Solver++ 2M", "alpha, sigma and the log-SNR rounded to float32", PARTS,
         "np.asarray(fn(t)) for fn", "np.asarray(fn(t), dtype=np.float32) for fn"),
    # what a multistep method remembers
    Slip("half a divided difference", "DPM-Solver++ 2M", "(D_0 - D_-1) / (4 r) for (D_0 - D_-1) / (2 r)", DPM_SOLVER,
         "history.h / (2 * -history.back[:, 1])", "history.h / (4 * -history.back[:, 1])"),
    Slip("r inverted", "DPM-Solver++ 2M", "h / h_-1 for h_-1 / h", DPM_SOLVER,
         "history.h / (2 * -history.back[:, 1])", "-history.back[:, 1] / (2 * history.h)"),
    Slip("r of the step before", "DPM-Solver 2M",
         "h_-2 / h for h_-1 / h, so that the second step has no history either", DPM_SOLVER,
         "history.h / (2 * -history.back[:, 1])", "np.r_[0.0, history.h[1:] / (2 * -history.back[:-1, 1])]"),
    Slip("history not shifted", "DPM-Solver++ 2M", "the first output stays the one before for ever", ENGINE,
         "history[self._evaluations] = self._remembered(",
         "history[self._evaluations] = history.get(self._evaluations - 1) or self._remembered("),
    Slip("the wrong half of the history", "SDE-DPM-Solver 2M, eta = 0.5",
         "the data of the step before where its noise is meant", ENGINE,
         "output.terms(*weights)", "output.terms(*weights[::-1])"),
    Slip("a last step of order 1", "DPM-Solver++ 2M",
         "no history in the last step, as some libraries have it", DPM_SOLVER,
         "history.h / (2 * -history.back[:, 1])",
         "history.h / (2 * -history.back[:, 1]) * (np.arange(len(history.h)) < len(history.h) - 1)"),
    Slip("orders that fall at the end", "DPM-Solver++ 3M",
         "the last two steps look back less far, as some libraries have it, and nobody says so", MULTISTEP,
         "count - n if self.lower_order_final else there", "count - n"),
    Slip("a start of order 1", "DPM-Solver++ 3M, Runge-Kutta start",
         "the first step holds its output: no Runge-Kutta start", STARTS,
         "return 0 if tableau is None else len(tableau.c)", "return 0"),
    Slip("a stage remembered for a node", "DPM-Solver++ 3M, Runge-Kutta start",
         "of each step of the start the output in its middle is remembered, as that of its node", MULTISTEP,
         "number[n] = evaluations\n                step", "number[n] = evaluations + 1\n                step"),
    Slip("no substeps", "DPM-Solver++ 3M", "the first step is never cut: a start at lower orders, of order 2", STARTS,
         "return first ** (np.arange(count, 0, -1) / max(count, 1))", "return np.empty(0)"),
    Slip("no substeps, with a corrector", "Adams PEC 3", "the same, of order 3 where 4 is claimed", STARTS,
         "return first ** (np.arange(count, 0, -1) / max(count, 1))", "return np.empty(0)"),
    Slip("substeps from the wrong end", "DPM-Solver++ 3M",
         "they shrink where they should grow: the shortest part is the last of the first step", STARTS,
         "return first ** (np.arange(count, 0, -1) / max(count, 1))",
         "return 1 - first ** (np.arange(1, count + 1) / max(count, 1))"),
    Slip("a substep shown as a step", "DPM-Solver++ 3M",
         "the states inside the first step are yielded as well", MULTISTEP,
         "evaluations, n < cuts)", "evaluations, False)"),
    Slip("outputs at the wrong nodes", "DPM-Solver++ 3M, Runge-Kutta start",
         "each is taken to lie one node further on", MULTISTEP,
         "back = start[behind]", "back = end[behind]"),
    Slip("the 2 of the second difference", "DPM-Solver++ 3M",
         "half of the second divided difference, as k-diffusion's 3M has it", DPM_SOLVER,
         "return lagrange_weights(history.kernel, history.h, history.back)",
         "w = lagrange_weights(history.kernel, history.h, history.back)\n"
         "            gaps = history.back[:, :, None] - history.back[:, None, :] + np.eye(3)\n"
         "            return w - (w * history.back**2).sum(1, keepdims=True) / 2 / gaps.prod(2)"),
    Slip("Adams' coefficients in the wrong order", "iPNDM 4",
         "(55, 37, -59, -9) / 24 for (55, -59, 37, -9) / 24", PNDM,
         "(55 / 24, -59 / 24, 37 / 24, -9 / 24)", "(55 / 24, 37 / 24, -59 / 24, -9 / 24)"),
    Slip("the 2 of the second derivative", "ER-SDE-3, eta = 0.5", "D'' / 4 for D'' / 2", ER_SDE,
         "* 2 / (1 - s[:, 2])", "/ (1 - s[:, 2])"),
    Slip("r clamped to [1/2, 2]", "DPM-Solver++ 2M",
         "the ratio of neighbouring steps is cut where it is beyond 2", DPM_SOLVER,
         "history.h / (2 * -history.back[:, 1])", "np.clip(history.h / -history.back[:, 1], 1 / 2, 2) / 2"),
    Slip("r clamped to [1/5, 5]", "DPM-Solver++ 2M",
         "the same beyond 5, which steps of 1 : 2 never show", DPM_SOLVER,
         "history.h / (2 * -history.back[:, 1])", "np.clip(history.h / -history.back[:, 1], 1 / 5, 5) / 2"),
    # what outlives a run, and what a run writes over
    Slip("coefficients kept from the first run", "DPM-Solver++ 2M",
         "whatever the grid of the next one", MULTISTEP,
         "coefficients = _Coefficients(self, steps, part, used, even)",
         'coefficients = self.__dict__.setdefault("kept", _Coefficients(self, steps, part, used, even))'),
    Slip("noises counted over all runs", "EDM's Heun with churn",
         "the tag of a noise goes on from run to run: no seed gives the same sample twice", CHURN,
         "tag=1 + grid.first + n)",
         'tag=self.__dict__.update(turns=self.__dict__.get("turns", 0) + 1) or self.__dict__["turns"])'),
    Slip("the start written over", "DDIM",
         "a step is added up in place, in the state that it starts from", ENGINE,
         "x = self._work.combine((stage.x, start), *terms)",
         "x = [start.mul_(stage.x), *(start.add_(v * c) for c, v in terms)][-1]"),
    # what is right on the way down alone
    Slip("a stage held back on the way up", "RK4",
         "times of stages are clipped as if they always fell", RUNGE_KUTTA,
         "min(max(moved.time(start + c * h), min(t, s)), max(t, s))", "max(min(moved.time(start + c * h), t), s)"),
    Slip("noise of a negative step", "Euler-Maruyama, eta = 0.5",
         "the length of a step without its modulus: no noise where the integration variable falls", STOCHASTIC,
         "abs(end - start) ** 0.5", "max(end - start, 0.0) ** 0.5"),
    # claims
    Slip("an order too high", "Heun", "3 is declared", RUNGE_KUTTA,
         "    order = 2\n    tableau = ", "    order = 3\n    tableau = "),
    Slip("an evaluation that nobody declares", "EDM's Heun", "one fewer than there are stages", RUNGE_KUTTA,
         "return len(self.tableau.b)", "return len(self.tableau.b) - 1"),
    Slip("exactness claimed in vain", "Heun", "on points and means, in any coordinates", RUNGE_KUTTA,
         "straight = isinstance(self.coordinates, DDIMCoordinates)", "straight = True"),
    Slip("invariance claimed in vain", "DEIS tAB2", "of a polynomial in time", ADAMS,
         "return self.start.invariant and isinstance(self.variable, RatioVariable)", "return self.start.invariant"),
    Slip("a step that is said to forget", "DPM-Solver++ 2M",
         "a multistep method says that it takes one step", MULTISTEP,
         "return self.history_length == 1 and not self.corrects", "return True"),
    Slip("a strong order too high", "DDPM", "3/2 is declared", FIRST_ORDER,
         "strong_order = 1\n    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)",
         "strong_order = 1.5\n    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)"),
    # adaptive solvers
    Slip("every step accepted", "RK45", "an error is measured, and not looked at", STEPPING,
         "good = step.rows, error <= 1", "good = step.rows, error <= np.inf"),
    # correctors
    Slip("the new output in the wrong place", "Adams PEC 3",
         "the corrector gives its weight to the one before, and so on", ADAMS,
         "np.column_stack([history.size, history.back])", "np.column_stack([history.back, history.size])"),
    Slip("weights not put back in order", "UniPC 3",
         "the system's weights, the node's first, as they come", UNIPC,
         "return np.column_stack([found[:, 1], found[:, 0], found[:, 2:]])", "return found"),
    Slip("a factorial dropped", "UniPC 3", "phi_(m+1) for m! phi_(m+1) in the system", UNIPC,
         " * math.factorial(m) / b for", " / b for"),
    Slip("the sign in B", "UniPC 2", "e^(-z) - 1 for e^z - 1 in B_2, which falls out of all but one system", UNIPC,
         "else h_phi_1\n", "else -h_phi_1\n"),
    Slip("a corrector without noise", "SA-Solver, eta = 0.5",
         "the corrected state has none of the noise that the predicted one had", MULTISTEP,
         "new * there[1], known, fresh, there)", "new * there[1], known, [0.0] * len(fresh), there)"),
    # eta, and how much noise
    Slip("(1 - eta^2) dropped", "DDIM, eta = 0.5",
         "sigma_1 eta e^(-h) E for sigma_1 sqrt(1 - eta^2 + eta^2 e^(-2h)) E, the same at eta = 1", FIRST_ORDER,
         "np.sqrt((1 - eta**2) + eta**2 * np.exp(-2 * h))", "np.sqrt(eta**2 * np.exp(-2 * h))"),
    Slip("DDIM's noise written for VP", "DDIM, eta = 0.5",
         "sqrt(1 - (alpha_0/alpha_1)^2) sigma_1/sigma_0, the paper's, right where alpha^2 + sigma^2 = 1", FIRST_ORDER,
         "c = eta * sigma_s * np.sqrt(-np.expm1(-2 * h))",
         "c = eta * sigma_s / steps.start.sigma * np.sqrt(1 - (steps.start.alpha / alpha_s) ** 2)"),
    Slip("the sign of the noise", "DDIM, eta = 0.5",
         "-c z for c z: another sample of the same distribution", FIRST_ORDER,
         "noise=rest, fresh=c)", "noise=rest, fresh=-c)"),
    Slip("eta used once", "SDE-DPM-Solver++ 2M, eta = 0.5",
         "e^(-eta h) for e^(-eta^2 h), the same at eta = 1", FORMS,
         "np.exp(-_times(eta**2,", "np.exp(-_times(eta,"),
    Slip("expm1 of half its argument", "SDE-DPM-Solver 2M, eta = 0.5",
         "noise of variance e^h - 1 for e^(2h) - 1", FORMS,
         "np.expm1(2 * (b.log_snr - a.log_snr))", "np.expm1(b.log_snr - a.log_snr)"),
    Slip("the variance for the standard deviation", "DDPM", "v for sqrt(v)", FIRST_ORDER,
         "fresh=part.noise_std(steps.start, steps.end, steps.eta)",
         "fresh=part.noise_std(steps.start, steps.end, steps.eta) ** 2"),
    Slip("the larger variance for the smaller", "DDPM",
         "sqrt(v) for sqrt(v) sigma_1/sigma_0, which is a sampler of its own", FIRST_ORDER,
         "fresh=part.noise_std(steps.start, steps.end, steps.eta)",
         "fresh=part.noise_std(steps.start, steps.end, steps.eta) * steps.start.sigma / steps.end.sigma"),
    Slip("the posterior written for VE", "DDPM", "v = sigma_0^2 - sigma_1^2, right where alpha = 1", FIRST_ORDER,
         "weight = part.integral_weight(steps.end, steps.eta) * part.kernel(steps.end, steps.eta).h_phi_1(steps.h)",
         "weight = steps.end.alpha * (1 - (steps.end.sigma / steps.start.sigma) ** 2)"),
    Slip("a square dropped", "DDPM", "sigma_1/sigma_0 for its square in front of the state", FIRST_ORDER,
         "x=part.propagator(steps.start, steps.end, steps.eta)",
         "x=part.propagator(steps.start, steps.end, steps.eta) * steps.start.sigma / steps.end.sigma"),
    # a linear part of a variance of its own
    Slip("a propagator of the flow", "DDPM, EDM's part", "R_1/R_0 for (R_1/R_0)^q (alpha_0/alpha_1)^(q-1)",
         PRECONDITIONED, "ratio * (ratio * a.alpha / b.alpha) ** eta**2", "ratio"),
    Slip("the noise of no variance", "DDPM, EDM's part", "the part's noise is that of the data form", PRECONDITIONED,
         "np.log1p((b.sigma / r) ** 2 * np.expm1(2 * (b.log_snr - a.log_snr)))", "2 * (b.log_snr - a.log_snr)"),
    Slip("the weight of the noise", "DPM-Solver++ 2M, EDM's part", "alpha sqrt(v) / R for alpha v / R in P",
         PRECONDITIONED, "-level.alpha * self.variance / r", "-level.alpha * self.data_std / r"),
    Slip("the kernel's exponent", "DPM-Solver++ 2M, EDM's part", "(q+2)/2 for (q+1)/2 in k", PRECONDITIONED,
         "grown ** (-(q + 1) / 2)", "grown ** (-(q + 2) / 2)"),
    # which noise
    Slip("one noise for all steps", "DDPM", "every step asks for the noise of the first interval", FIRST_ORDER,
         "((a, b),)", "((float(steps.start.log_snr[0]), float(steps.end.log_snr[0])),)"),
    Slip("the noise since the start", "DDPM",
         "intervals that overlap: right with independent noise, wrong along a path", FIRST_ORDER,
         "((a, b),)", "((float(steps.start.log_snr[0]), b),)"),
    Slip("the noise of the step before", "DDPM",
         "every step has the noise of the interval before its own: the same distribution, another path", FIRST_ORDER,
         "steps.start.log_snr, steps.end.log_snr)",
         "np.r_[2 * steps.start.log_snr[0] - steps.end.log_snr[0], steps.start.log_snr[:-1]], steps.start.log_snr)"),
    Slip("an interval turned round", "DDPM", "the noise from the end of a step to its start: the other sign on a path",
         FIRST_ORDER, "((a, b),)", "((b, a),)"),
    Slip("one noise for both stages", "SEEDS-2, eta = 0.5", "the second half has the noise of the first",
         EXPONENTIAL_RK, "list(pairwise(log_snrs[n])) if noisy",
         "[next(pairwise(log_snrs[n]))] * (len(log_snrs[n]) - 1) if noisy"),
    Slip("the noise of a stage not carried", "SDE-DPM-Solver++ 2S, eta = 0.5",
         "the first half's noise is in the result as it was, without the decay of the second half", EXPONENTIAL_RK,
         "part.propagator(mark, at, eta) * std", "std"),
    # what the engine does with evaluations
    Slip("data clipped to [-1, 1]", "DPM-Solver++ 2M", "the engine clips the data it reads", ENGINE,
         "output = self._problem.denoiser(stage.t, x)",
         "output = [part.clamp(-1, 1) for part in self._problem.denoiser(stage.t, x)]"),
    Slip("every evaluation made twice", "DDPM", "one evaluation in two is thrown away", ENGINE,
         "output = self._problem.denoiser(stage.t, x)",
         "output = [self._problem.denoiser(stage.t, x) for _ in range(2)][1]"),
    # solvers made of solvers
    Slip("eta used once in s_up", "ancestral DPM-Solver++ 2S, eta = 0.5",
         "eta for eta^2 in s_up^2, the same at eta = 1", ANCESTRAL,
         "1 + eta**2 * np.expm1(-2 * h)", "1 + eta * np.expm1(-2 * h)"),
    Slip("a step not lengthened", "ancestral DPM-Solver++ 2S, eta = 0.5",
         "the flow goes to s_1 for s_down, and the noise on top", ANCESTRAL,
         "np.clip(schedule.time_at(end - np.log(fraction) / 2), lowest, None)", "grid.times[1:]"),
    Slip("the variance of the churn", "EDM's Heun with churn",
         "sigma (1 - e^-2h) z for sigma sqrt(1 - e^-2h) z", CHURN,
         "np.sqrt(-np.expm1(2 * (up - here)))", "-np.expm1(2 * (up - here))"),
    Slip("gamma used twice", "EDM's Heun with churn",
         "s is lifted by (1 + gamma)^2: more churn, the same distribution", CHURN,
         "np.maximum(here - lift, here[0])", "np.maximum(here - 2 * lift, here[0])"),
    Slip("the noise of the wrong end", "EDM's Heun with restarts",
         "sigma of s_min for that of s_max in front of the noise on the way up", RESTART,
         "float(schedule.sigma(s)) * float(np.sqrt", "float(schedule.sigma(t)) * float(np.sqrt"),
    Slip("the norm of the batch", "Langevin steps, eta = 0.5",
         "the length of a Langevin step from all samples together, as in the paper", LANGEVIN,
         "row_mean(wide.square()).reshape(-1, *(1,) * (x.ndim - 1))", "wide.square().mean()"),
    # Runge-Kutta
    Slip("a stage dropped", "RK4", "weights (1/6, 1/3, 1/2, 0) for (1/6, 1/3, 1/3, 1/6)", RUNGE_KUTTA,
         "b=(1 / 6, 1 / 3, 1 / 3, 1 / 6)", "b=(1 / 6, 1 / 3, 1 / 2, 0.0)"),
    Slip("weights in the wrong order", "RK4", "weights (1/3, 1/6, 1/6, 1/3) for (1/6, 1/3, 1/3, 1/6)", RUNGE_KUTTA,
         "b=(1 / 6, 1 / 3, 1 / 3, 1 / 6)", "b=(1 / 3, 1 / 6, 1 / 6, 1 / 3)"),
    Slip("a stage on the wrong slope", "RK4",
         "the third stage goes along the first slope for the second", RUNGE_KUTTA,
         "(0.5,), (0.0, 0.5)", "(0.5,), (0.5, 0.0)"),
    Slip("a weight forgotten", "RK4", "weights (1/6, 1/3, 1/3)", RUNGE_KUTTA,
         "b=(1 / 6, 1 / 3, 1 / 3, 1 / 6)", "b=(1 / 6, 1 / 3, 1 / 3)"),
    Slip("phi_2(z) for phi_2(z/2)", "Krogstad", "in a_32, whose stage is at the middle of the step", ETD,
         "{1: _P(2, 0.5)}, {2: 2 * _P(2)}", "{1: _P(2)}, {2: 2 * _P(2)}"),
    Slip("two digits swapped", "RK45", "-212/792 for -212/729", PAIRS,
         "-212 / 729", "-212 / 792"),
    Slip("a stage at the wrong time", "Heun", "the second slope is taken at t_0", RUNGE_KUTTA,
         "at = t if c == 0 else s if c == 1", "at = t if c == 0 else t if c == 1"),
    Slip("a buffer written too early", "Heun", "a state is overwritten while it is still wanted", STATES,
         "_storage_uses(base) == _IDLE_USES and", "_storage_uses(base) >= _IDLE_USES and"),
    Slip("one norm for the batch", "RK45", "the error is that of all samples together", ROWS,
         "np.sqrt(row_mean_on_host(v.to(torch.promote_types(v.dtype, torch.float32)) ** 2))",
         "np.sqrt(row_mean_on_host(v.to(torch.promote_types(v.dtype, torch.float32)) ** 2).mean().repeat(len(v)))"),
    Slip("a slope not kept", "RK45",
         "where only a part of the batch passes, its new state keeps the old slope", PAIRS,
         "put(self.k, moved, take(new_k, which))",
         "(put(self.k, moved, take(new_k, which)) if good.all() else self.k)"),
    Slip("nodes not shifted", "adaptive Adams", "the last node is written over, and those behind stay", NEWTON,
         "np.column_stack([tau, self.nodes[:, :-1]])", "np.column_stack([tau, self.nodes[:, 1:]])"),
    Slip("differences not divided", "adaptive Adams", "by the products of the steps", NEWTON,
         "unit[:, : products.shape[1]] = 1 / products", "unit[:, : products.shape[1]] = 1"),
    Slip("a difference of the wrong order", "adaptive Adams", "the corrector takes d_(k-1) for d_k", VARIABLE_ADAMS,
         "torch.addcmul(x, terms[i], weight", "torch.addcmul(x, terms[i - 1], weight"),
    Slip("a rejected output kept", "adaptive Adams", "where only a part of the batch passes", NEWTON,
         "restore(terms, old, good)", "restore(terms, terms, good)"),
    Slip("the sign of the linear part", "adaptive Adams", "P = (sigma D + alpha v E) / R", PARTS,
         "(sigma / r, -alpha * v / r)", "(sigma / r, alpha * v / r)"),
    Slip("an integral in the wrong variable", "adaptive Adams", "ds = -s du for -(s + s^2 / k) du", NEWTON,
         "ds = -(s + s**2 / k) * weights", "ds = -s * weights"),
    Slip("one norm for the batch, in Adams", "adaptive Adams", "the error is that of all samples together",
         VARIABLE_ADAMS, "row_mean_on_host(squared.flatten(0, 1)).reshape(len(wanted), -1).T",
         "row_mean_on_host(squared.flatten(0, 1)).reshape(len(wanted), -1).mean(1, keepdims=True).T"),
    # coordinates
    Slip("coordinates left at the wrong time", "EDM's Heun", "the scale of the step's start at its end", RUNGE_KUTTA,
         "moved.leave(s, y)", "moved.leave(t, y)"),
    Slip("coordinates left the wrong way", "EDM's Heun", "m y for y / m", COORDINATES,
         "y * per_sample(1 / self.coordinates.scale(self.problem.schedule, t), y)",
         "y * per_sample(self.coordinates.scale(self.problem.schedule, t), y)"),
    # black boxes on the reverse SDE
    Slip("the sign of the reverse drift", "Euler-Maruyama, eta = 0.5",
         "the term of eta^2 pushes away from the data", COORDINATES,
         "to_noise = to_noise - eta**2", "to_noise = to_noise + eta**2"),
    Slip("eta used once in the drift", "Euler-Maruyama, eta = 0.5", "eta for eta^2, the same at eta = 1", COORDINATES,
         "to_noise = to_noise - eta**2", "to_noise = to_noise - eta"),
    Slip("noise without eta", "Euler-Maruyama, eta = 0.5", "g for eta g, the same at eta = 1", COORDINATES,
         "return self.problem.eta_at(t) * self._noise_scale(t)", "return self._noise_scale(t)"),
    Slip("noise without its factor", "Euler-Maruyama, eta = 0.5", "sqrt(lambda') for sqrt(2 lambda')", COORDINATES,
         "np.sqrt(2 * np.abs(rate))", "np.sqrt(np.abs(rate))"),
    Slip("the square root forgotten", "Euler-Maruyama, eta = 0.5", "b h z for b sqrt(h) z", STOCHASTIC,
         "abs(end - start) ** 0.5", "abs(end - start)"),
    Slip("noise at one end", "stochastic Heun, eta = 0.5", "b_0 for (b_0 + b_1) / 2", STOCHASTIC,
         "((b_0 + b_1) / 2, z)", "(b_0, z)"),
    Slip("a predictor without noise", "stochastic Heun, eta = 0.5", "y' = y_0 + a_0 h", STOCHASTIC,
         "(h, a_0), (b_0, z))", "(h, a_0))"),
    Slip("the noise of the predictor turned", "stochastic Heun, eta = 0.5",
         "y' = y_0 + a_0 h - b_0 sqrt(h) z", STOCHASTIC,
         "(h, a_0), (b_0, z))", "(h, a_0), (-b_0, z))"),
    Slip("a midpoint with half the noise", "stochastic Heun, eta = 0.5",
         "the slope at y' = y_0 + (a_0 h + b_0 sqrt(h) z) / 2, halfway in time, for the mean of two slopes", STOCHASTIC,
         "(h, a_0), (b_0, z))\n            a_1 = moved.drift_at(s, predicted)\n"
         "            y = work.combine((1.0, y), (h / 2, a_0), (h / 2, a_1),",
         "(h / 2, a_0), (b_0 / 2, z))\n            a_1 = moved.drift_at(moved.time(start + h / 2), predicted)\n"
         "            y = work.combine((1.0, y), (h, a_1),"),
]
# fmt: on


@contextmanager
def planted(slip: Slip) -> Iterator[sd.Solver]:
    """The solver of the slip's sampler, with the slip in it.

    The mutant is a user's class to the registry, and goes with the block once nobody holds it: `gc.collect()`. Raises
    LookupError where the text to be replaced does not stand there exactly once, ValueError where the mutant is refused.
    """
    sampler, count = SAMPLERS[slip.sampler], module_text(slip.module).count(slip.old)
    if count != 1:
        raise LookupError(
            f"the slip {slip.name!r} no longer applies: {slip.old!r} stands {count} times in {slip.module}, not once: "
            "bring the slip up to date"
        )
    mutants: dict[str, ModuleType] = {}
    begun: list[ModuleType] = []
    try:
        for name in _on_the_way(sampler.module, slip.module, sampler.module):
            text = module_text(name).replace(slip.old, slip.new) if name == slip.module else module_text(name)
            begun.append(mutant := ModuleType(f"mutant.{name}"))
            with _in_place(mutants):
                _execute(text, mutant)
            mutants[name] = mutant
        yield sampler.make(mutants[sampler.module])
    finally:
        # typing remembers what stood in a ClassVar[...], and that its module: an emptied one holds no classes
        for mutant in begun:
            mutant.__dict__.clear()


def _on_the_way(module: str, slipped: str, package: str) -> list[str]:
    """`slipped`, and what of `package` leads from it up to `module`: each after those that it imports itself."""
    if module == slipped:
        return [module]
    found: list[str] = []
    for name in _imported(module):
        if name == slipped or name.startswith((f"{package}.", "scorediff.linear_parts")):
            found += [one for one in _on_the_way(name, slipped, package) if one not in found]
    return [*found, module] if found else []


@functools.cache
def _imported(module: str) -> list[str]:
    return [node.module for node in ast.walk(ast.parse(module_text(module))) if isinstance(node, ast.ImportFrom)]


@contextmanager
def _in_place(mutants: dict[str, ModuleType]) -> Iterator[None]:
    """For as long as it takes to execute a module: what it imports are the mutants."""
    true = {name: sys.modules[name] for name in mutants}
    sys.modules.update(mutants)
    try:
        yield
    finally:
        sys.modules.update(true)


def module_text(module: str) -> str:
    return Path(importlib.import_module(module).__file__).read_text(encoding="utf-8")


def _execute(text: str, module: ModuleType) -> None:
    exec(compile(text, module.__name__, "exec"), module.__dict__)


# The proofs, the cheap ones first


@dataclass(frozen=True)
class Proof:
    """`holds(solver, sampler)` of a solver that claims to be the sampler; `applies(sampler)`: whether it says
    anything.
    """

    name: str
    says: str
    applies: Callable[[Sampler], bool]
    holds: Callable[[sd.Solver, Sampler], bool]

    def passes(self, solver: sd.Solver, sampler: Sampler) -> bool:
        """Whether it goes through. A run that fails, or that a check of the library refuses, does not."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # what a mutant computes may be as strange as it likes
            try:
                return bool(self.holds(solver, sampler))
            except Exception:  # a slip may raise anything
                return False


PROOFS: dict[str, Proof] = {}
SHAPE, BIRTH = "shape", "birth"  # no proof, and one that comes before all others
BIRTH_SAYS = "The weights of a tableau sum to what they must: else the class is refused when it is made."


def proves(name: str, applies: Callable[[Sampler], bool] = lambda sampler: True) -> Callable[..., Any]:
    """Enter a function into PROOFS; its docstring is what it says."""

    def enter(holds):
        PROOFS[name] = Proof(name, " ".join(holds.__doc__.split()), applies, holds)
        return holds

    return enter


def _fixed(sampler):
    return not sampler.solver.adaptive


def _linear_and_fixed(sampler):
    return _fixed(sampler) and sampler.solver.linear


def _ordered(sampler):
    return sampler.order is not None


def _counted(sampler):
    return _fixed(sampler) and sampler.solver.evaluations(9, sampler.eta) is not None


_STEPS = 24  # so many that a start in substeps halves the first step more than once


def _uneven(schedule, steps=_STEPS):
    # from a long step on, all methods use the evaluations that they say
    lengths = np.tile((8.0, 1.0, 6.0, 2.0), -(-steps // 4))
    places = np.concatenate([[0.0], np.cumsum(lengths)]) / lengths.sum()
    return sd.Grid(schedule.time_at(-2.0 + 4.0 * places))


def _sample(solver, sampler, target, schedule, x):
    steps = {} if solver.adaptive else {"steps": 9}
    return sd.sample(sampler.problem(target, schedule), solver=solver, x=x, **steps)


@proves("trees", lambda sampler: isinstance(getattr(sampler.solver, "tableau", None), ExponentialTableau))
def _trees(solver, sampler):
    """The conditions of all rooted trees in L and N up to the declared order hold for an exponential tableau."""
    return exponential_order(solver.tableau) == solver.tableau.order


@proves(SHAPE)
def _shape(solver, sampler):
    """Samples are finite and of the right shape: the test of most code bases, and no proof."""
    schedule = SCHEDULES[0]
    x = sd.prior(schedule, (4, 2))
    sample = _sample(solver, sampler, MIXTURE, schedule, x).x
    return sample.shape == x.shape and bool(torch.isfinite(sample).all())


@proves("evaluations", _counted)
def _evaluations(solver, sampler):
    """Evaluations counted are those declared, none lies outside the run, which ends at t_end, and every step of the
    grid leaves one state."""
    schedule = SCHEDULES[0]
    solution = _sample(solver, sampler, MIXTURE, schedule, sd.prior(schedule, (4, 2)))
    ends = np.all(solution.t == schedule.t_end) and np.all(solution.accepted == 9)
    return solution.calls == solver.evaluations(9, sampler.eta) and bool(ends)


@proves("left alone")
def _left_alone(solver, sampler):
    """The start and the states that were shown stay as they were, and a float32 start ends in float32."""
    schedule = SCHEDULES[0]
    x = sd.prior(schedule, (3, 2))
    start, grid = x.clone(), sd.Grid([schedule.t_start, schedule.t_end]) if solver.adaptive else _uneven(schedule, 8)
    run = solver.run(sampler.problem(MIXTURE, schedule), x, grid, sd.noise.IndependentNoise(0, x))
    shown = [(step[1], step[1].clone()) for step in run]
    kept = all(torch.equal(state, as_shown) for state, as_shown in shown)
    return torch.equal(x, start) and kept and shown[-1][0].dtype == x.dtype


@proves("again")
def _again(solver, sampler):
    """One object gives the samples of a new one, bit for bit, on one schedule, on another, and on the first again."""
    for schedule in (*SCHEDULES, SCHEDULES[0]):
        x = sd.prior(schedule, (4, 2))
        same, new = (_sample(one, sampler, MIXTURE, schedule, x).x for one in (solver, dataclasses.replace(solver)))
        if not torch.equal(same, new):
            return False
    return True


@proves("linear", _linear_and_fixed)
def _linear(solver, sampler):
    """Without noise and on centred data, the output of 2 x - 3 y is that of x twice less that of y three times."""
    schedule = SCHEDULES[0]
    problem = sampler.problem(sd.targets.Gaussian((0.0, 0.0, 0.0), (0.5, 2.0, 0.1)), schedule)
    x, y = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def output(start):
        *_, last = solver.run(problem, start, _uneven(schedule, 6), lambda a, b, tag=0: torch.zeros_like(start))
        return last[1]

    return torch.allclose(output(2 * x - 3 * y), 2 * output(x) - 3 * output(y), rtol=1e-10, atol=1e-10)


@proves("neighbours")
def _neighbours(solver, sampler):
    """A sample is bit for bit the same alone as among easy and hard neighbours."""
    schedule, target = SCHEDULES[0], sd.targets.Gaussian(np.linspace(-1, 1, 8), np.geomspace(0.05, 3, 8))
    x = sd.prior(schedule, (7, 8)) * torch.logspace(-2, 2, 7)[:, None]
    whole = _sample(solver, sampler, target, schedule, x).x
    steps = {} if solver.adaptive else {"steps": 9}
    alone = sd.sample(sampler.problem(target, schedule), solver=solver, x=x[3:4], ids=[3], **steps).x
    return torch.equal(alone[0], whole[3])


@proves("coefficients", lambda sampler: sampler.same is not None)
def _coefficients(solver, sampler):
    """The unrolled coefficients, and the intervals of the noises, are those of the same sampler under another name, or
    written out from its paper: 24 uneven steps, on VP and on rectified flow."""
    for schedule in SCHEDULES:
        a, b = (
            coefficients(one, _uneven(schedule), schedule=schedule, eta=sampler.eta) for one in (solver, sampler.same)
        )
        if not (a.distance(b) < 1e-12 and np.allclose(a.intervals, b.intervals)):
            return False
    return True


@proves("exactness", lambda sampler: sampler.exact != "")
def _exactness(solver, sampler):
    """On 24 uneven steps the mean on a Gaussian is exact; and the whole distribution on a point, for methods that
    hold the data."""
    for schedule in SCHEDULES:
        grid = _uneven(schedule)
        if not moments(solver, GAUSSIAN, schedule=schedule, grid=grid, eta=sampler.eta).bias < 1e-12:
            return False
        point = sd.targets.Gaussian((0.4, -1.0, 2.0), 0.0)
        if sampler.exact == "points" and not (
            moments(solver, point, schedule=schedule, grid=grid, eta=sampler.eta).wasserstein < 1e-12
        ):
            return False
    return True


@proves("invariance", lambda sampler: sampler.solver.invariant)
def _invariance(solver, sampler):
    """On the same log-SNR nodes, the coefficients of x / alpha are the same on VP and on rectified flow."""
    arrays = []
    for schedule in SCHEDULES:
        grid = _uneven(schedule)
        found = coefficients(solver, grid, schedule=schedule, eta=sampler.eta)
        array = found.array / np.array([*map(schedule.alpha, found.times), schedule.alpha(grid.end)])[:, None]
        array[:, 0] *= schedule.alpha(grid.start)
        arrays.append(array)
    # to rounding: on uneven steps the coefficients of a high order are far above 1
    return bool(np.abs(arrays[0] - arrays[1]).max() < 1e-12 * max(1.0, np.abs(arrays[0]).max()))


@proves("claims", _linear_and_fixed)
def _claims(solver, sampler):
    """What the class says of itself holds on uneven steps: what it is exact on, whether its coefficients are the same
    on every schedule, and whether a step forgets the ones before it."""
    exact = solver.exact_on <= exactness(solver, eta=sampler.eta)
    return (
        exact
        and (not solver.invariant or _invariance(solver, sampler))
        and (not solver.one_step or _splits(solver, sampler))
    )


def _splits(solver, sampler):
    schedule = SCHEDULES[0]
    grid = _uneven(schedule, 8)
    whole, *parts = (
        unrolled(solver, part, schedule, sampler.eta, sd.DataPrediction()).coefficients
        for part in (grid, sd.Grid(grid.times[:5]), sd.Grid(grid.times[4:]))
    )
    return bool(np.allclose(one_after_the_other(*parts), whole.array[-1], rtol=1e-9, atol=1e-9))


@proves("moments", lambda sampler: _ordered(sampler) and _fixed(sampler))
def _moments(solver, sampler):
    """The distribution after 100 steps on the Gaussian is within 10 / 100^p of the exact one, p the declared order, or
    50 / 100^p from p = 3 on (Wasserstein-2, no Monte Carlo)."""
    schedule = SCHEDULES[0]
    grid = sd.spacings.UniformLogSNR()(schedule, 100, t_start=schedule.time_at(-2.0), t_end=schedule.time_at(2.0))
    found = moments(solver, GAUSSIAN, schedule=schedule, grid=grid, eta=sampler.eta)
    return found.wasserstein < (10 if sampler.order < 3 else 50) / 100**sampler.order


@proves("one step", lambda sampler: _fixed(sampler) and not sampler.noisy and _ordered(sampler))
def _one_step(solver, sampler):
    """The order of one step on uneven steps is not below that on even ones and the declared one."""
    return step_order(solver).ok


@proves("back", lambda sampler: _fixed(sampler) and not sampler.noisy and _ordered(sampler))
def _back(solver, sampler):
    """From data to noise the error falls at the declared order as well, on the Gaussian, on VP."""
    schedule = SCHEDULES[0]
    t_start, t_end = schedule.time_at(-2.0), schedule.time_at(2.0)
    flow, x = sampler.problem(GAUSSIAN, schedule), GAUSSIAN.at(schedule, t_end).sample(8)
    exact = GAUSSIAN.flow(schedule, t_end, t_start, x)
    found = (sd.encode(flow, x, solver, steps=n, t_start=t_start, t_end=t_end).x for n in (80, 160))
    coarse, fine = (float((state - exact).square().mean().sqrt()) for state in found)
    return np.log2(coarse / fine) > solver.order - 0.3


@proves("tolerance", lambda sampler: sampler.solver.adaptive)
def _tolerance(solver, sampler):
    """On the mixture the root mean square error is below ten tolerances, and fewer than 100 evaluations are made."""
    schedule = SCHEDULES[0]
    x = MIXTURE.at(schedule, schedule.t_start).sample(16)
    problem = sampler.problem(MIXTURE, schedule)
    exact = sd.solve(problem, x, sd.RK45(1e-10, 1e-10))
    solution = sd.solve(problem, x, solver)
    error = float((solution.x - exact.x).square().mean().sqrt())
    return solution.ok and error < 10 * solver.rtol and solution.evaluations.mean() < 100


@proves("strong order", lambda sampler: sampler.eta > 0 and sampler.solver.strong_order is not None)
def _strong_order(solver, sampler):
    """Samples settle at the declared strong order as steps are halved along one Brownian path."""
    return strong_order(solver, target=LINE, eta=sampler.eta, steps=(8, 16, 32, 64, 128)).ok


# as fine as slopes at rest want them; on a mixture the distribution is slow to compute where outputs are remembered
_LADDER, _SHORT, _FINE = (28, 40, 56, 80), (14, 20, 28, 40), (80, 113, 160, 226)
_UNEVEN = (113, 160, 226, 320)  # on uneven steps slopes settle later


@proves("order, Gaussian", _ordered)
def _order_gaussian(solver, sampler):
    """The measured order is the declared one on a Gaussian of eight eigenvalues, on VP and on rectified flow (weak,
    where there is noise)."""
    steps = None if solver.adaptive else _FINE if sampler.late else _LADDER
    return order(solver, target=GAUSSIAN, eta=sampler.eta, declared=sampler.smooth, steps=steps).ok


@proves("order, uneven", lambda sampler: _ordered(sampler) and _fixed(sampler))
def _order_uneven(solver, sampler):
    """The same on the Gaussian, on VP, on steps of 1 : 6 : 2 : 8 by turns."""
    grid = uneven(sampler.order)
    return order(solver, target=GAUSSIAN, schedule=SCHEDULES[0], grid=grid, eta=sampler.eta, steps=_UNEVEN).ok


@proves("order, mixture", lambda sampler: _ordered(sampler) and _fixed(sampler) and sampler.mixtures)
def _order_mixture(solver, sampler):
    """The same on a mixture, on VP."""
    target, steps = (LINE, _SHORT) if sampler.noisy else (MIXTURE, _LADDER)
    options = {"schedule": SCHEDULES[0], "eta": sampler.eta, "declared": sampler.smooth}
    return order(solver, target=target, steps=steps, **options).ok


def first(seen: Mapping[str, bool]) -> str:
    """The first proof that sees a slip, and so the cheapest."""
    return next(name for name in COLUMNS if name != SHAPE and seen.get(name))


def caught(slip: Slip) -> dict[str, bool]:
    """Of every proof that applies: does it see the slip? The mutant is gone afterwards."""
    sampler, solver = SAMPLERS[slip.sampler], None
    seen = {BIRTH: False} if hasattr(sampler.solver, "tableau") else {}
    try:
        with planted(slip) as solver:
            return seen | {p.name: not p.passes(solver, sampler) for p in PROOFS.values() if p.applies(sampler)}
    except ValueError:
        return {BIRTH: True}  # what a proof raises does not come here
    finally:
        del solver
        gc.collect()


# The page

COLUMNS = {BIRTH: BIRTH_SAYS} | {p.name: p.says for p in PROOFS.values()}
MARKS = {True: "x", False: "-", None: ""}
Outcomes = dict[str, dict[str, bool]]  # of every slip by name: of every proof that applies, does it see it


def page(outcomes: Outcomes) -> str:
    """The whole of docs/mutations.md."""
    seen = {name: [slip for slip in outcomes if outcomes[slip].get(name)] for name in COLUMNS}
    asked = {name: sum(name in found for found in outcomes.values()) for name in COLUMNS}
    alone = {name: [s for s in seen[name] if sum(outcomes[s].values()) == 1] for name in COLUMNS}
    head = ("slip", "sampler", "what is wrong", *COLUMNS)
    rows = [
        (slip.name, slip.sampler, slip.wrong, *(MARKS[outcomes[slip.name].get(name)] for name in COLUMNS))
        for slip in SLIPS
    ]
    proofs = [
        (name, says, f"{len(seen[name])} of {asked[name]}", ", ".join(alone[name])) for name, says in COLUMNS.items()
    ]
    return TEXT.format(
        count=len(SLIPS),
        shape=len(seen[SHAPE]),
        slips=_table(head, rows, "---|---|---|" + ":-:|" * len(COLUMNS)),
        proofs=_table(("proof", "what it says", "sees", "alone"), proofs, "---|---|---|---|"),
    )


def _table(head, rows, rule):
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])


def outcomes_of(text: str) -> Outcomes:
    """What a page says, read back."""
    names, back = {slip.name for slip in SLIPS}, {mark: seen for seen, mark in MARKS.items()}
    found: Outcomes = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in names and len(cells) == 3 + len(COLUMNS):
            marks = zip(COLUMNS, cells[3:], strict=True)
            found[cells[0]] = {name: bool(back[mark]) for name, mark in marks if back[mark] is not None}
    return found


TEXT = """# Planted slips

A proof says something if it can fail. So {count} slips of the kinds that published samplers have are planted in our
own solvers, one at a time and in memory, and every proof of the tests is asked whether it sees them; the solvers as
they are pass all of them. `python tests/mutations.py` plants them again and rewrites this page; the tests compare: by
day that the first proof that sees a slip still does (the proofs stand in order of their cost), by night all.

`x`: the proof fails, the slip is seen. `-`: it goes through, the slip is missed. Blank: it does not apply. `shape` is
what most code bases test, finite samples of the right shape: it sees {shape} of {count}.

{slips}

## The proofs, the cheap ones first

`sees`: of the slips it applies to. `alone`: those that no other proof sees.

{proofs}

## What is missed, and why

- An order says how fast a method converges to the right answer, not which method it is. DPM-Solver 1 with the wrong
  sigma is another method of order 1; DDPM with the larger variance another of weak order 1; one step of order 1 at the
  end costs O(h^2), no more than all the others together.
- `r inverted` keeps order 2 on every grid, however uneven: it adds (h_-1^2 - h^2) D' / 2 to a step, and the sum of that
  over the steps telescopes. On steps of one length it changes nothing at all. The order of one step sees it, and
  coefficients do, on uneven steps.
- `r of the step before` is the same method on steps of one length, but for one more step of order 1: only uneven steps
  show the lost order.
- ER-SDE-3 is of weak order 2 with its second derivative, without it, and with half of it: its first one is a
  difference on one side. DPM-Solver++ 3M is of order 3 only with all of it, and there every order shows its loss.
- What a start costs is one error of a low order, and the more steps, the more of the whole it is. Without substeps
  Adams' PEC 3 shows order 3 everywhere on about a thousand steps: on the ladders here it passes for order 4 on the
  mixture and on uneven steps, and on the Gaussian its slope is refused for its scatter. GradedStart from the wrong end
  likewise: order 2 on the mixture from a few hundred steps on.
- Uneven steps are eased in, so that a start weighs less than they do: what is wrong with a start, even steps show.
- A state shown inside the first step is a good one: distributions, orders and coefficients go by the last. The count
  of steps sees it.
- The coefficients of iPNDM are right on even steps, and leave order 2 on steps that change smoothly: there the order
  shows that two of them are interchanged. On steps that stay uneven any coefficients whose sum is 1 are of order 1.
- B falls out of UniPC's systems wherever they are solved: a wrong one shows at k = 2, which has the paper's weight 1/2.
- More noise and a longer step back is another sampler of the same distribution: eta for eta^2 in ancestral sampling,
  or gamma used twice in the churn, is seen by the coefficients alone.
- Proofs about distributions cannot see which noise a step takes, nor its sign, so long as it is fresh: coefficients do,
  with the intervals that the noises come from, and the strong order along one path where the interval is wrong.
- Coefficients see all that a sample is made of, since they are compared with the same sampler written a second time:
  so they prove no more than that the two writings agree. Without a second writing, as for RK45 and Langevin steps, the
  rest must do.
- The distribution on a mixture cannot be computed where more is remembered than an output or two, as in SA-Solver and
  ER-SDE-3, nor resolved where noise leads far back up, as in a restart.
- The strong order says that samples settle along a path, not where: wrong drifts and variances settle as well.
- At eta = 1 eta is its own square: five slips here are none there, so the samplers of the reverse SDE are proved at
  0.5. On VP alone the paper's formula for DDIM's noise is right: only proofs that run on another schedule see it.
- A Gaussian alone would pass a midpoint rule with half of the noise: where the drift is linear its distribution has
  order 2, on a mixture order 1.
- Rounding to float32 is far below the errors of any step that an order is measured on: identities held to 1e-12 see
  it.
- No proof on one sample at a time sees that samples of a batch share their steps, or the length of a Langevin step.
"""


def main() -> None:
    """Plant all slips and write the page. Raises SystemExit where a true sampler fails a proof."""
    torch.set_num_threads(1)
    for sampler in SAMPLERS.values():
        failed = [p.name for p in PROOFS.values() if p.applies(sampler) and not p.passes(sampler.solver, sampler)]
        if failed:
            raise SystemExit(f"{sampler.name} without any slip fails: {', '.join(failed)}")
    outcomes = {}
    for slip in SLIPS:
        outcomes[slip.name] = caught(slip)
        print(f"{slip.name}: {', '.join(name for name, seen in outcomes[slip.name].items() if seen) or 'NOBODY'}")
    PAGE.write_text(page(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
