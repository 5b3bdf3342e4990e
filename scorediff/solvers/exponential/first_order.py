"""One line a step, no memory: DDPM and DDIM."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.solvers.base import Exact
from scorediff.solvers.exponential.engine import Exponential, Line, Lines, Nodes, etas
from scorediff.spacings import Grid

__all__ = ["DDIM", "DDPM", "DDPMLargeVariance"]

_MEAN_AND_POINT_MASS = frozenset({Exact.MEAN, Exact.POINT_MASS})


class Update(NamedTuple):
    """`x_1 = x x_0 + data D + noise E + fresh z`: arrays of shape (steps,), or numbers."""

    x: Any = 0.0
    data: Any = 0.0
    noise: Any = 0.0
    fresh: Any = 0.0


@dataclass(frozen=True)
class _FirstOrder(Exponential):
    nfe = 1

    @abstractmethod
    def update(self, nodes: Nodes) -> Update:
        """The coefficients of every step."""

    def steps(self, nodes: Nodes) -> Iterator[Lines]:
        columns = [np.broadcast_to(c, len(nodes)).tolist() for c in self.update(nodes)]
        ends = (nodes.start.t, nodes.end.t, nodes.start.log_snr, nodes.end.log_snr)
        for t, s, a, b, x, data, noise, fresh in zip(*(v.tolist() for v in ends), *columns, strict=True):
            if fresh:
                yield Lines(s, (Line(t, x, data, noise, (), (fresh,)),), ((a, b),), (), 1)
            else:
                yield Lines(s, (Line(t, x, data, noise),), (), (), 1)


@dataclass(frozen=True)
class DDIM(_FirstOrder):
    """DDIM with the problem's eta (arXiv:2010.02502): eta = 1 is DDPM's posterior, the flow has eta = 0."""

    order = 1
    weak_order = 1
    strong_order = 1
    exact_on = _MEAN_AND_POINT_MASS
    solves: ClassVar[tuple[type, ...]] = (ProbabilityFlow, ReverseSDE)
    starts_at_pure_noise: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2010.02502"

    def update(self, nodes: Nodes) -> Update:
        alpha_1, sigma_1, h, eta = nodes.end.alpha, nodes.end.sigma, nodes.h, nodes.eta
        # c = eta sigma_1 sqrt(1 - e^(-2h)), x_1 = alpha_1 D + sqrt(sigma_1^2 - c^2) E + c z
        if not eta.any():
            return Update(data=alpha_1, noise=sigma_1)
        c = eta * sigma_1 * np.sqrt(-np.expm1(-2 * h))
        # sigma_1^2 - c^2 without the subtraction
        rest = sigma_1 * np.sqrt((1 - eta**2) + eta**2 * np.exp(-2 * h))
        return Update(data=alpha_1, noise=rest, fresh=c)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        eta = etas(problem, grid).max()
        if eta > 1:
            raise ValueError(f"DDIM's noise ends at eta = 1, got eta = {eta:g}: use SDEDPMSolverPP, which takes any")


@dataclass(frozen=True)
class _Ancestral(_FirstOrder):
    """The posterior mean of DDPM, with a noise that the subclass states."""

    weak_order = 1
    strong_order = 1
    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    starts_at_pure_noise: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv:2006.11239"

    @abstractmethod
    def std(self, nodes: Nodes, v: np.ndarray) -> np.ndarray:
        """The standard deviation of the noise, shape (steps,)."""

    def update(self, nodes: Nodes) -> Update:
        alpha_0, sigma_0, alpha_1, sigma_1 = *nodes.start[1:3], *nodes.end[1:3]
        # a = alpha_0/alpha_1, v = sigma_0^2 - a^2 sigma_1^2 = -sigma_0^2 expm1(-2h)
        # x_1 = (alpha_1 v / sigma_0^2) D + (a sigma_1^2 / sigma_0^2) x_0 + std z
        a, v = alpha_0 / alpha_1, -(sigma_0**2) * np.expm1(-2 * nodes.h)
        return Update(x=a * (sigma_1 / sigma_0) ** 2, data=alpha_1 * v / sigma_0**2, fresh=self.std(nodes, v))

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)
        if not np.all(etas(problem, grid) == 1):
            raise ValueError(
                f"{self!r} is the reverse SDE at eta = 1, got eta = {problem.eta}: use DDIM, which takes eta in [0, 1]"
            )


@dataclass(frozen=True)
class DDPM(_Ancestral):
    """Ancestral sampling from DDPM's posterior, with its own, the smaller variance. Wants eta = 1."""

    exact_on = _MEAN_AND_POINT_MASS

    def std(self, nodes: Nodes, v: np.ndarray) -> np.ndarray:
        # sqrt(v) sigma_1 / sigma_0
        return np.sqrt(v) * nodes.end.sigma / nodes.start.sigma


@dataclass(frozen=True)
class DDPMLargeVariance(_Ancestral):
    """Ancestral sampling with the larger variance, that of the forward step ("sigma-hat"). Wants eta = 1."""

    exact_on = frozenset({Exact.MEAN, Exact.UNIT_VARIANCE})
    invariant: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ddpm-large": {}}

    def std(self, nodes: Nodes, v: np.ndarray) -> np.ndarray:
        return np.sqrt(v)
