"""Exponential integrators, whose linear part is exact: the DDPM, DDIM and DPM-Solver families.

With `h` the step in log-SNR and `q = 1 + eta^2`, exactly (data form; noise form):

    x_1 = (sigma_1/sigma_0) e^(-eta^2 h) x_0 + alpha_1 q INT_0^h e^(-q(h-u)) D du + sigma_1 sqrt(1 - e^(-2 eta^2 h)) z
    x_1 = (alpha_1/alpha_0) x_0 - sigma_1 q INT_0^h e^(h-u) E du + eta sigma_1 sqrt(e^(2h) - 1) z

Coefficients are computed for the whole grid at once, on the host; one engine applies them.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from scorediff.denoiser import Reading
from scorediff.grids import Grid
from scorediff.noise import Noise
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.schedules import Schedule
from scorediff.solvers.base import Exact, Solver
from scorediff.states import Workspace, version

__all__ = [
    "DDIM",
    "DDPM",
    "DDPMLargeVariance",
    "DPMSolver",
    "DPMSolverPP",
    "SDEDPMSolver",
    "SDEDPMSolverPP",
]


_MEAN = frozenset({Exact.MEAN})
_MEAN_AND_POINT_MASS = frozenset({Exact.MEAN, Exact.POINT_MASS})


class Nodes(NamedTuple):
    """The two ends of every step of a grid, float64 arrays of shape (steps,); `h = log_snr_1 - log_snr_0`."""

    alpha_0: np.ndarray
    sigma_0: np.ndarray
    alpha_1: np.ndarray
    sigma_1: np.ndarray
    h: np.ndarray

    @classmethod
    def of(cls, schedule: Schedule, grid: Grid) -> "Nodes":
        alpha, sigma, log_snr = (
            np.asarray(fn(grid.times)) for fn in (schedule.alpha, schedule.sigma, schedule.log_snr)
        )
        return cls(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:], np.diff(log_snr))


class Update(NamedTuple):
    """`x_1 = x x_0 + data D + noise E + fresh z + last M`, per step; M is the reading of the step before."""

    x: Any = 0.0
    data: Any = 0.0
    noise: Any = 0.0
    fresh: Any = 0.0
    last: Any = 0.0


@dataclass(frozen=True)
class Exponential(Solver):
    """The engine: a subclass gives the coefficients, for every step of a grid at once."""

    invariant: ClassVar[bool] = True
    #: Which part of a reading the next step wants again: 0 data, 1 noise.
    remembers: ClassVar[int] = 0

    @property
    def nfe(self) -> int:
        return 1

    @abstractmethod
    def update(self, nodes: Nodes, eta: float) -> Update:
        """Coefficients of shape (steps,), or floats."""

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        nodes = Nodes.of(problem.schedule, grid)
        columns = [np.broadcast_to(c, nodes.h.shape).tolist() for c in self.update(nodes, problem.eta)]
        clock = np.asarray(problem.schedule.log_snr(grid.times)).tolist()
        work, looks_back = Workspace(), any(columns[-1])
        last: list[tuple[float, Any, int]] = []
        for (t, s), (a, b), step in zip(grid.pairs(), pairwise(clock), zip(*columns, strict=True), strict=True):
            on_x, on_data, on_noise, on_fresh, on_last = step
            reading = problem.denoiser(t, x)
            terms = _terms(reading, on_data, on_noise)
            if on_last:
                if any(version(v) != written for _, v, written in last):
                    raise ValueError("the network wrote over an output it had returned: let it return a copy")
                terms += [(on_last * c, v) for c, v, _ in last]
            if on_fresh:
                terms.append((on_fresh, noise(a, b)))
            if looks_back:
                kept = _terms(reading, 1.0 - self.remembers, 1.0 * self.remembers)
                last = [(c, v, version(v)) for c, v in kept if c]
            x = work.combine((on_x, x), *terms)
            yield s, x


def _terms(reading: Any, on_data: float, on_noise: float) -> list[tuple[float, Any]]:
    # a network's reading goes in as the state and the output it is made of, and is never computed on its own
    if isinstance(reading, Reading):
        return reading.terms(on_data, on_noise)
    return [(on_data, reading[0]), (on_noise, reading[1])]


@dataclass(frozen=True)
class DDIM(Exponential):
    """DDIM with the problem's eta (arXiv:2010.02502): eta = 1 is DDPM's posterior, the flow has eta = 0."""

    order = 1
    weak_order = 1
    strong_order = 1
    exact_on = _MEAN_AND_POINT_MASS
    solves: ClassVar[tuple[type, ...]] = (ProbabilityFlow, ReverseSDE)
    starts_at_pure_noise: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2010.02502"

    def update(self, nodes: Nodes, eta: float) -> Update:
        # c = eta sigma_1 sqrt(1 - e^(-2h)), x_1 = alpha_1 D + sqrt(sigma_1^2 - c^2) E + c z
        if not eta:
            return Update(data=nodes.alpha_1, noise=nodes.sigma_1)
        c = eta * nodes.sigma_1 * np.sqrt(-np.expm1(-2 * nodes.h))
        # sigma_1^2 - c^2 without the subtraction
        rest = nodes.sigma_1 * np.sqrt((1 - eta**2) + eta**2 * np.exp(-2 * nodes.h))
        return Update(data=nodes.alpha_1, noise=rest, fresh=c)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        if problem.eta > 1:
            raise ValueError(
                f"DDIM's noise ends at eta = 1, got eta = {problem.eta}: use SDEDPMSolverPP, which takes any"
            )


@dataclass(frozen=True)
class _Ancestral(Exponential):
    """The posterior mean of DDPM, with a noise that the subclass states."""

    weak_order = 1
    strong_order = 1
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    starts_at_pure_noise: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2006.11239"

    @abstractmethod
    def std(self, nodes: Nodes, v: np.ndarray) -> np.ndarray:
        """The standard deviation of the noise, shape (steps,)."""

    def update(self, nodes: Nodes, eta: float) -> Update:
        # a = alpha_0/alpha_1, v = sigma_0^2 - a^2 sigma_1^2 = -sigma_0^2 expm1(-2h)
        # x_1 = (alpha_1 v / sigma_0^2) D + (a sigma_1^2 / sigma_0^2) x_0 + std z
        a, v = nodes.alpha_0 / nodes.alpha_1, -(nodes.sigma_0**2) * np.expm1(-2 * nodes.h)
        return Update(
            x=a * (nodes.sigma_1 / nodes.sigma_0) ** 2,
            data=nodes.alpha_1 * v / nodes.sigma_0**2,
            fresh=self.std(nodes, v),
        )

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        if problem.eta != 1:
            raise ValueError(
                f"{self!r} is the reverse SDE at eta = 1, got eta = {problem.eta}: use DDIM, which takes eta in [0, 1]"
            )


@dataclass(frozen=True)
class DDPM(_Ancestral):
    """Ancestral sampling from DDPM's posterior, with its own, the smaller variance. Wants eta = 1."""

    exact_on = _MEAN_AND_POINT_MASS

    def std(self, nodes: Nodes, v: np.ndarray) -> np.ndarray:
        # sqrt(v) sigma_1 / sigma_0
        return np.sqrt(v) * nodes.sigma_1 / nodes.sigma_0


@dataclass(frozen=True)
class DDPMLargeVariance(_Ancestral):
    """Ancestral sampling with the larger variance, that of the forward step ("sigma-hat"). Wants eta = 1."""

    exact_on = frozenset({Exact.MEAN, Exact.UNIT_VARIANCE})
    invariant: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ddpm-large": {}}

    def std(self, nodes: Nodes, v: np.ndarray) -> np.ndarray:
        return np.sqrt(v)


class Transfer(NamedTuple):
    """A step with a constant integrand: `x_1 = x x_0 + reading M + fresh z`, arrays of shape (steps,)."""

    x: np.ndarray
    reading: np.ndarray
    fresh: Any


def data_form(nodes: Nodes, eta: float) -> Transfer:
    """The step with D held constant."""
    q, h = 1 + eta**2, nodes.h
    decay = np.exp(-(eta**2) * h) if eta else 1.0
    # (sigma_1/sigma_0) e^(-eta^2 h), alpha_1 (1 - e^(-q h)), sigma_1 sqrt(1 - e^(-2 eta^2 h))
    fresh = nodes.sigma_1 * np.sqrt(-np.expm1(-2 * eta**2 * h)) if eta else 0.0
    return Transfer(nodes.sigma_1 / nodes.sigma_0 * decay, -nodes.alpha_1 * np.expm1(-q * h), fresh)


def noise_form(nodes: Nodes, eta: float) -> Transfer:
    """The step with E held constant."""
    q, h = 1 + eta**2, nodes.h
    # alpha_1/alpha_0, -sigma_1 q (e^h - 1), eta sigma_1 sqrt(e^(2h) - 1)
    fresh = eta * nodes.sigma_1 * np.sqrt(np.expm1(2 * h)) if eta else 0.0
    return Transfer(nodes.alpha_1 / nodes.alpha_0, -nodes.sigma_1 * q * np.expm1(h), fresh)


@dataclass(frozen=True)
class _Multistep(Exponential):
    """Order 1 holds the reading M constant; order 2 ("2M") takes `(1 + 1/(2r)) M_0 - 1/(2r) M_-1`, `r = h_-1 / h`, from
    step 2 on.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order = {self.order}: {type(self).__name__} has orders 1 and 2")

    @property
    def one_step(self) -> bool:  # type: ignore[override]
        return self.order == 1

    @abstractmethod
    def transfer(self, nodes: Nodes, eta: float) -> Transfer:
        """The first-order step of the family."""

    def update(self, nodes: Nodes, eta: float) -> Update:
        x, reading, fresh = self.transfer(nodes, eta)
        # 1 / (2 r), 0 in the first step, which has no history
        half_ratio = np.zeros_like(nodes.h)
        if self.order == 2:
            half_ratio[1:] = nodes.h[1:] / (2 * nodes.h[:-1])
        new, old = reading * (1 + half_ratio), -reading * half_ratio
        return Update(
            x=x, data=0.0 if self.remembers else new, noise=new if self.remembers else 0.0, fresh=fresh, last=old
        )


@dataclass(frozen=True)
class DPMSolver(_Multistep):
    """DPM-Solver-1 and -2M: the flow in noise form (arXiv:2206.00927)."""

    exact_on = _MEAN_AND_POINT_MASS
    remembers: ClassVar[int] = 1
    source: ClassVar[str] = "arXiv:2206.00927"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"dpm-1": {"order": 1}, "dpm-2m": {"order": 2}}

    def transfer(self, nodes: Nodes, eta: float) -> Transfer:
        return noise_form(nodes, eta)


@dataclass(frozen=True)
class DPMSolverPP(_Multistep):
    """DPM-Solver++ 1 and 2M: the flow in data form (arXiv:2211.01095)."""

    exact_on = _MEAN_AND_POINT_MASS
    starts_at_pure_noise: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2211.01095"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"dpm++1": {"order": 1}, "dpm++2m": {"order": 2}}

    def transfer(self, nodes: Nodes, eta: float) -> Transfer:
        return data_form(nodes, eta)


@dataclass(frozen=True)
class SDEDPMSolver(_Multistep):
    """SDE-DPM-Solver-1 and -2M: the reverse SDE in noise form, any eta (arXiv:2211.01095)."""

    strong_order = 1
    exact_on = _MEAN
    remembers: ClassVar[int] = 1
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    source: ClassVar[str] = "arXiv:2211.01095"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sde-dpm-1": {"order": 1}, "sde-dpm-2m": {"order": 2}}

    @property
    def weak_order(self) -> int:
        return self.order

    def transfer(self, nodes: Nodes, eta: float) -> Transfer:
        return noise_form(nodes, eta)


@dataclass(frozen=True)
class SDEDPMSolverPP(_Multistep):
    """SDE-DPM-Solver++ 1 and 2M: the reverse SDE in data form, any eta (arXiv:2211.01095)."""

    strong_order = 1
    exact_on = _MEAN_AND_POINT_MASS
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    starts_at_pure_noise: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2211.01095"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sde-dpm++1": {"order": 1}, "sde-dpm++2m": {"order": 2}}

    @property
    def weak_order(self) -> int:
        return self.order

    def transfer(self, nodes: Nodes, eta: float) -> Transfer:
        return data_form(nodes, eta)
