"""torchdiffeq's solvers as a back end: the probability flow in any coordinates, never outside the run.

Deviations from torchdiffeq's defaults: adaptive methods are given the end of a segment to stop at, so they never step
past it and interpolate back; their error norm is the largest over samples, not the mean, so that one hard sample is
held to the tolerance among easy ones; a sample whose drift is not finite gets a slope of zero from then on, no longer
enters the choice of steps, and comes out as NaN, while the others arrive. Half-precision states are carried in float32.
torchdiffeq hands times over in the state's dtype, on the state's device: each evaluation copies one from it.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scorediff.backends._third_party import check_method
from scorediff.backends._torchdiffeq import Drift, SteppedDrift, check_even, even_spacing, multistep, odeint, segments
from scorediff.coordinates import Angle, Coordinates, Time
from scorediff.noise import Noise
from scorediff.problems import Problem
from scorediff.solvers.base import AdaptiveSolver, Solver
from scorediff.solvers.tolerances import check_tolerance
from scorediff.spacings import Grid, Spacing
from scorediff.spacings.log_shift import for_runge_kutta

__all__ = [
    "TorchDiffEq",
    "TorchDiffEqAdamsBashforth",
    "TorchDiffEqAdamsMoulton",
    "TorchDiffEqFixed",
    "TorchDiffEqSciPy",
]

_SOURCE = "arXiv:1806.07366"
_ADAPTIVE = {"dopri5": 5, "dopri8": 8, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}
_FIXED = {"euler": (1, 1), "midpoint": (2, 2), "heun2": (2, 2), "heun3": (3, 3), "rk4": (4, 4)}  # order, evaluations
_INNER = ("LSODA", "RK45", "RK23", "DOP853", "Radau", "BDF")
_HOMES = {
    **dict.fromkeys(_ADAPTIVE, "TorchDiffEq({!r})"),
    **dict.fromkeys(_FIXED, "TorchDiffEqFixed({!r})"),
    "explicit_adams": "TorchDiffEqAdamsBashforth()",
    **dict.fromkeys(("implicit_adams", "fixed_adams"), "TorchDiffEqAdamsMoulton({!r})"),
    "scipy_solver": "TorchDiffEqSciPy()",
}


def _variants(*methods: str) -> dict[str, dict[str, Any]]:
    return {f"torchdiffeq-{method.replace('_', '-')}": {"method": method} for method in methods}


def _check_method(solver: Any, known: Sequence[str]) -> None:
    home = _HOMES.get(solver.method)
    check_method(solver, solver.method, known, f": it is {home.format(solver.method)}" if home else "")


def _check_max_order(max_order: int) -> None:
    if not 4 <= max_order <= 12:
        raise ValueError(f"max_order = {max_order}: torchdiffeq has 4 to 12")


@dataclass(frozen=True)
class TorchDiffEq(AdaptiveSolver):
    """torchdiffeq's adaptive methods, with the error of every sample held to `atol + rtol |y|`, RMS over its entries.

    `method`: dopri5, dopri8, bosh3, fehlberg2 or adaptive_heun; torchdiffeq's own default. `rtol` and `atol`: the
    tolerances, 1e-5, so that pictures show none of the error. `coordinates`: what is integrated in; the angle, which is
    regular at both ends. `max_evaluations`: of the denoiser, for all samples; far more than a smooth problem takes.

    All samples take the same steps, those of the hardest. Steps land on every save time. An exhausted budget and a step
    that underflows end the run with the state last accepted.
    """

    method: str = "dopri5"
    rtol: float = field(default=1e-5, kw_only=True)
    atol: float = field(default=1e-5, kw_only=True)
    coordinates: Coordinates = field(default_factory=Angle)

    depends_on_batch = True
    source: ClassVar[str] = _SOURCE
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = _variants(*_ADAPTIVE)

    def __post_init__(self) -> None:
        _check_method(self, tuple(_ADAPTIVE))

    @property
    def order(self) -> int:
        return _ADAPTIVE[self.method]

    def check_ends(self, problem: Problem, grid: Grid) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        drift = SteppedDrift(problem, self.coordinates, x, grid, budget=self.max_evaluations)

        def integrate(y: Tensor, ends: Tensor) -> Tensor:
            options = {"norm": drift.norm, "step_t": ends[1:], "max_num_steps": min(self.max_evaluations, 2**31 - 1)}
            if drift.last is not None:
                options["first_step"] = drift.last_step  # that of the segment before, without another search
            return odeint(drift, y, ends, self.method, options, rtol=self.rtol, atol=self.atol)

        yield from segments(drift, grid, self.order, integrate)


@dataclass(frozen=True)
class TorchDiffEqSciPy(AdaptiveSolver):
    """torchdiffeq's `scipy_solver`: one of `scipy.integrate`'s methods on the whole batch as a single system.

    `solver`: LSODA (torchdiffeq's default), RK45, RK23, DOP853, Radau or BDF. `rtol` and `atol`: for every sample;
    SciPy measures the error by its RMS over the batch, hence gets them divided by sqrt(B). `coordinates`: what is
    integrated in; the angle, which is regular at both ends. `max_evaluations`: of the denoiser, for all samples.

    Radau, BDF and LSODA difference the drift of the whole batch, once per entry of it: `SciPy`, a sample at a time,
    costs less. LSODA's times reach the network with the digits of float32. Steps are not reported, hence not counted.
    On an exhausted budget the state is that of the last save time, or of the start.
    """

    solver: str = "LSODA"
    rtol: float = field(default=1e-5, kw_only=True)
    atol: float = field(default=1e-5, kw_only=True)
    coordinates: Coordinates = field(default_factory=Angle)

    depends_on_batch = True
    source: ClassVar[str] = _SOURCE
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"torchdiffeq-scipy-solver": {}}

    def __post_init__(self) -> None:
        check_method(self, self.solver, _INNER)

    @property
    def order(self) -> int | None:
        return {"RK45": 5, "RK23": 3, "DOP853": 8, "Radau": 5}.get(self.solver)

    def check_ends(self, problem: Problem, grid: Grid) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        # it turns Python's floats into float32 before it casts them to the state's dtype
        drift = Drift(problem, self.coordinates, x, grid, budget=self.max_evaluations, variable_dtype=torch.float32)
        scale = max(x.shape[0], 1) ** -0.5
        rtol = max(self.rtol * scale, 100 * float(np.finfo(float).eps))  # the least SciPy takes

        def integrate(y: Tensor, ends: Tensor) -> Tensor:
            with warnings.catch_warnings():
                # torchdiffeq hands LSODA's `min_step` to every method, and LSODA says in words what its status says
                warnings.filterwarnings("ignore", "The following arguments have no (effect|relevance)|lsoda")
                return odeint(
                    drift, y, ends, "scipy_solver", {"solver": self.solver}, rtol=rtol, atol=self.atol * scale
                )

        yield from segments(drift, grid, self.order, integrate)


@dataclass(frozen=True)
class TorchDiffEqFixed(Solver):
    """torchdiffeq's one-step methods on exactly our grid.

    `method`: euler, midpoint, heun2, heun3 or rk4, the default (the 3/8 rule). `coordinates`: what is integrated in;
    time, as torchdiffeq does.
    """

    method: str = "rk4"
    coordinates: Coordinates = field(default_factory=Time)

    linear = False
    source: ClassVar[str] = _SOURCE
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = _variants(*_FIXED)

    def __post_init__(self) -> None:
        _check_method(self, tuple(_FIXED))

    @property
    def order(self) -> int:
        return _FIXED[self.method][0]

    @property
    def nfe(self) -> int:
        return _FIXED[self.method][1]

    @property
    def spacing(self) -> Spacing:
        return for_runge_kutta(self.coordinates, self.order)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        self.coordinates.check(problem.schedule, grid.start, grid.end)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        drift = Drift(problem, self.coordinates, x, grid)
        y = drift.start
        # a call per step: the same numbers as one for all, without every state of the run in memory
        for (_, s), ends in zip(grid.pairs(), drift.ends().unfold(0, 2, 1), strict=True):
            y = odeint(drift, y, ends, self.method, {})[-1]
            yield s, drift.leave(s, y)


@dataclass(frozen=True)
class TorchDiffEqAdamsBashforth(Solver):
    """torchdiffeq's `explicit_adams`, started by two steps of rk4.

    `max_order`: a step uses `max_order - 1` slopes at most; 5, since torchdiffeq's default, 12, has a region of
    stability that is too small for the grids of sampling. `coordinates`: what is integrated in; time, as torchdiffeq
    does. Its weights are those of even steps: a grid that is not even in that variable raises ValueError.
    """

    max_order: int = 5
    coordinates: Coordinates = field(default_factory=Time)

    linear = False
    one_step = False
    source: ClassVar[str] = _SOURCE
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"torchdiffeq-explicit-adams": {}}

    def __post_init__(self) -> None:
        _check_max_order(self.max_order)

    @property
    def order(self) -> int:
        return min(self.max_order - 1, 4)  # the first multistep step is of order 3, once

    @property
    def spacing(self) -> Spacing:
        return even_spacing(self.coordinates)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        check_even(self.coordinates, problem.schedule, grid)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        drift = Drift(problem, self.coordinates, x, grid)
        yield from multistep(drift, grid, "explicit_adams", {"max_order": self.max_order})


@dataclass(frozen=True)
class TorchDiffEqAdamsMoulton(Solver):
    """torchdiffeq's `implicit_adams`, alias `fixed_adams`: the same, corrected until two iterates agree to the
    tolerance.

    `method`: one of the two names. `max_order`: of the corrector, 5 as in `TorchDiffEqAdamsBashforth`. `max_iters`: the
    most corrections of a step, 4 as in torchdiffeq; one that takes more loses a slope of its history, with a warning
    from torchdiffeq. `rtol` and `atol`: how well two iterates agree. `coordinates`: what is integrated in; time, as
    torchdiffeq does.
    """

    method: str = "implicit_adams"
    max_order: int = 5
    max_iters: int = 4
    rtol: float = field(default=1e-5, kw_only=True)
    atol: float = field(default=1e-5, kw_only=True)
    coordinates: Coordinates = field(default_factory=Time)

    linear = False
    one_step = False
    depends_on_batch = True
    source: ClassVar[str] = _SOURCE
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = _variants("implicit_adams", "fixed_adams")

    def __post_init__(self) -> None:
        _check_method(self, ("implicit_adams", "fixed_adams"))
        _check_max_order(self.max_order)
        if self.max_iters < 1:
            raise ValueError(f"max_iters = {self.max_iters}: at least 1 correction is needed")

    @property
    def order(self) -> int:
        return min(self.max_order, 5)

    @property
    def spacing(self) -> Spacing:
        return even_spacing(self.coordinates)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        check_tolerance(self.rtol, self.atol, torch.promote_types(dtype, torch.float32))
        check_even(self.coordinates, problem.schedule, grid)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        drift = Drift(problem, self.coordinates, x, grid)
        options = {"max_order": self.max_order, "max_iters": self.max_iters}
        yield from multistep(drift, grid, self.method, options, rtol=self.rtol, atol=self.atol)
