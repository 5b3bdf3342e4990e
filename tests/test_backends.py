"""Third-party back ends: the same numbers as our solvers and as exact flows, and our deviations from their defaults."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from discovery import by_day, engines_by_day
from torch import Tensor

from scorediff._core import registry
from scorediff.backends import (
    SciPy,
    TorchDiffEq,
    TorchDiffEqAdamsBashforth,
    TorchDiffEqAdamsMoulton,
    TorchDiffEqFixed,
    TorchDiffEqSciPy,
    TorchSDE,
)
from scorediff.coordinates import Angle, Coordinates, DDIMCoordinates, Field, LogSNR, Time
from scorediff.noise import BrownianPath, IndependentNoise, Noise
from scorediff.problems import ProbabilityFlow, ReverseSDE
from scorediff.sampling import sample
from scorediff.schedules import EDM, RectifiedFlow, Schedule, VPLinear
from scorediff.solvers import (
    RK4,
    Euler,
    EulerMaruyama,
    Heun,
    Solver,
    SolverError,
    Status,
    StochasticHeun,
    solve,
)
from scorediff.spacings import Grid, UniformIn, UniformTime
from scorediff.targets import Gaussian

F64 = torch.float64
VP = VPLinear()
TARGET = Gaussian()
FLOW = ProbabilityFlow(TARGET.denoiser(VP))
ROUND = Gaussian((0.7, -0.2, 0.1), 0.3)  # isotropic: its denoiser acts entry by entry, so rows do not meet
SDE = ReverseSDE(ROUND.denoiser(VP), eta=0.7)
START = torch.tensor([[1.3, -0.4], [-0.8, 0.9], [0.2, 2.0]], dtype=F64)

BACK_ENDS = {n: s for n, s in registry.names(Solver).items() if type(s).__module__.startswith("scorediff.backends.")}
FLOWS = {n: s for n, s in BACK_ENDS.items() if ProbabilityFlow in s.solves}
ADAPTIVE = {n: s for n, s in FLOWS.items() if s.adaptive}
FIXED = {n: s for n, s in FLOWS.items() if not s.adaptive}
STOCHASTIC = {n: s for n, s in BACK_ENDS.items() if ReverseSDE in s.solves}
COORDINATES = [Time(), LogSNR(), DDIMCoordinates(), Angle()]


def over(solvers: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("solver", solvers.values(), ids=solvers.keys())


def over_drivers(solvers: dict[str, Any]) -> Any:
    """By day one for each driver and each branch in it: what a method does inside is its library's affair."""
    return pytest.mark.parametrize("solver", engines_by_day(solvers.values()), ids=solvers.keys())


over_coordinates = pytest.mark.parametrize(
    "coordinates", by_day(COORDINATES, (Time(), Angle())), ids=lambda c: type(c).__name__
)
both_noises = pytest.mark.parametrize("noise", [IndependentNoise, BrownianPath])


def at_log_snr(log_snr: float, schedule: Schedule = VP) -> float:
    return float(schedule.time_at(log_snr))


FROM, TO = at_log_snr(-2.0), at_log_snr(2.0)


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def furthest(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def slopes(errors: Sequence[float]) -> np.ndarray:
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def same_steps(solver: Solver, **where: Any) -> dict[str, Any]:
    return {} if solver.adaptive else {"steps": 40, **where}


# --- every back end --------------------------------------------------------------------------------------------------


def test_the_back_ends_are_known_by_name_and_imported_on_first_use(fresh: Any) -> None:
    assert set(BACK_ENDS) == {
        *("torchdiffeq-" + m for m in ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive-heun", "scipy-solver")),
        *("torchdiffeq-" + m for m in ("euler", "midpoint", "heun2", "heun3", "rk4")),
        *("torchdiffeq-" + m for m in ("explicit-adams", "implicit-adams", "fixed-adams")),
        *("torchsde-" + m for m in ("euler", "milstein", "srk", "euler-heun", "heun", "midpoint", "log-ode")),
        "torchsde-reversible-heun",
        *("scipy-" + m for m in ("rk45", "rk23", "dop853", "radau", "bdf", "lsoda")),
    }
    code = "import scorediff.backends, sys; print({'torchdiffeq', 'torchsde', 'scipy'} & set(sys.modules))"
    assert fresh(code).stdout.strip() == "set()"


def test_every_method_of_the_torchdiffeq_release_has_a_home() -> None:
    from torchdiffeq._impl.odeint import SOLVERS

    named = {n.removeprefix("torchdiffeq-").replace("-", "_") for n in BACK_ENDS if n.startswith("torchdiffeq-")}
    assert named == set(SOLVERS)


def test_every_method_of_the_torchsde_release_has_a_home() -> None:
    from torchsde.settings import METHODS

    named = {n.removeprefix("torchsde-").replace("-", "_") for n in STOCHASTIC}
    assert named == {m for m in METHODS.all() if not m.startswith("adjoint")}


@over_drivers(BACK_ENDS)
def test_a_back_end_is_found_by_its_name_and_survives_a_round_trip(solver: Solver) -> None:
    assert registry.parse(Solver, solver.name) == solver == Solver.from_dict(solver.to_dict())


@over_drivers(FLOWS)
def test_a_back_end_of_the_flow_arrives_counts_as_the_network_does_and_costs_what_it_declares(solver: Solver) -> None:
    seen: list[int] = []

    class Counted:
        schedule = VP

        def __call__(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(len(x))
            return FLOW.denoiser(t, x)

    got = solve(ProbabilityFlow(Counted()), START, solver, **same_steps(solver)).check()
    assert (got.calls, got.rows) == (len(seen), sum(seen))
    assert got.evaluations.sum() == sum(seen)
    assert np.all(got.t == VP.t_end) and got.x.dtype == F64
    assert furthest(got.x, TARGET.flow(VP, VP.t_start, VP.t_end, START)) < 0.05
    if solver.nfe is not None:
        assert np.all(got.evaluations == 40 * solver.nfe)


@over_drivers(FLOWS)
def test_a_back_end_encodes_as_it_samples(solver: Solver) -> None:
    grid = Grid([0.2, 0.8]) if solver.adaptive else UniformIn(solver.coordinates)(VP, 60, t_start=0.8, t_end=0.2)
    if not solver.adaptive:
        grid = grid.reversed()
    got = solve(FLOW, START, solver, grid=grid).check()
    assert furthest(got.x, TARGET.flow(VP, 0.2, 0.8, START)) < 0.05


@over_drivers(FLOWS)
def test_a_float32_state_of_any_shape_stays_what_it_is(solver: Solver) -> None:
    target = Gaussian(normals(2, 2, 2, seed=3), 0.4)
    x = normals(3, 2, 2, 2, dtype=torch.float32)
    got = solve(ProbabilityFlow(target.denoiser(VP)), x, solver, **same_steps(solver)).check()
    assert got.x.dtype == torch.float32 and got.x.shape == x.shape
    assert furthest(got.x, target.flow(VP, VP.t_start, VP.t_end, x.double())) < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@over({n: BACK_ENDS[n] for n in ("torchdiffeq-rk4", "torchdiffeq-explicit-adams", "torchsde-srk", "torchsde-heun")})
def test_a_half_precision_state_is_carried_in_float32(solver: Solver, dtype: torch.dtype) -> None:
    problem = FLOW if solver in FIXED.values() else ReverseSDE(TARGET.denoiser(VP))
    got, want = (solve(problem, START.to(dtype).to(d), solver, steps=40).check() for d in (dtype, F64))
    assert got.x.dtype == dtype
    if problem is FLOW:
        assert furthest(got.x, want.x) < 8 * torch.finfo(dtype).eps


# --- second routes: the same numbers as our own solvers --------------------------------------------------------------


def by_tableau(coordinates: Coordinates, grid: Grid, x: Tensor, c: Any, a: Any, b: Any) -> Tensor:
    """An explicit Runge-Kutta method, written out."""
    moved = Field(FLOW, coordinates)
    y = moved.enter(grid.start, x)
    for t, s in grid.pairs():
        start, h = moved.value(t), moved.value(s) - moved.value(t)
        k: list[Tensor] = []
        for c_i, a_i in zip(c, a, strict=True):
            at = {0: t, 1: s}.get(c_i) or moved.time(start + c_i * h)
            k.append(moved.drift_at(at, y + h * sum((w * k_j for w, k_j in zip(a_i, k, strict=True)), 0 * y)))
        y = y + h * sum((w * k_j for w, k_j in zip(b, k, strict=True)), 0 * y)
    return moved.leave(grid.end, y)


TABLEAUS = {
    "midpoint": ((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "heun3": ((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    "rk4": ((0, 1 / 3, 2 / 3, 1), ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
}


@over_coordinates
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("method, ours", [("euler", Euler), ("heun2", Heun)])
def test_torchdiffeq_on_our_grid_is_our_method(
    method: str, ours: Any, coordinates: Coordinates, dtype: torch.dtype
) -> None:
    x = START.to(dtype)
    want = solve(FLOW, x, ours(coordinates=coordinates), steps=25)
    got = solve(FLOW, x, TorchDiffEqFixed(method, coordinates), steps=25)
    assert furthest(got.x, want.x) < (1e-13 if dtype == F64 else 1e-5)
    assert np.array_equal(got.evaluations, want.evaluations)


@over_coordinates
@pytest.mark.parametrize("method", TABLEAUS)
def test_torchdiffeq_on_our_grid_is_the_method_written_out(method: str, coordinates: Coordinates) -> None:
    grid = UniformIn(coordinates)(VP, 25)
    got = solve(FLOW, START, TorchDiffEqFixed(method, coordinates), grid=grid)
    assert furthest(got.x, by_tableau(coordinates, grid, START, *TABLEAUS[method])) < 1e-12


def test_the_rk4_of_torchdiffeq_is_the_rule_of_three_eighths_and_not_ours() -> None:
    third_party, ours = (solve(FLOW, START, s, steps=10).x for s in (TorchDiffEqFixed("rk4"), RK4()))
    assert 1e-9 < furthest(third_party, ours) < 1e-2


def test_a_fixed_back_end_visits_the_nodes_of_an_uneven_grid_and_gives_the_state_at_each() -> None:
    grid = Grid([1.0, 0.9, 0.4, 0.35, 0.1])
    got, want = (
        solve(FLOW, START, s, grid=grid, save=True) for s in (TorchDiffEqFixed("heun2", Angle()), Heun(Angle()))
    )
    assert np.array_equal(got.times, grid.times)
    assert furthest(got.states, want.states) < 1e-13


@both_noises
@pytest.mark.parametrize("coordinates", [Time(), LogSNR(), DDIMCoordinates()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(
    "method, ours", [("euler", EulerMaruyama), ("milstein", EulerMaruyama), ("heun", StochasticHeun)]
)
def test_torchsde_with_our_seed_is_our_method(
    method: str, ours: Any, coordinates: Coordinates, noise: type[Noise]
) -> None:
    x = normals(4, 3)
    got, want = (
        solve(SDE, x, s, steps=12, seed=5, noise=noise) for s in (TorchSDE(method, coordinates), ours(coordinates))
    )
    assert furthest(got.x, want.x) < 1e-12 * want.x.abs().max().item()
    assert np.array_equal(got.evaluations, want.evaluations)


@both_noises
@pytest.mark.parametrize("coordinates", [Time(), LogSNR()], ids=lambda c: type(c).__name__)
def test_torchsde_srk_is_the_method_of_roessler_written_out(coordinates: Coordinates, noise: type[Noise]) -> None:
    x, grid = normals(4, 3), UniformIn(coordinates)(VP, 12)
    moved, draws = Field(SDE, coordinates), noise(5, x)
    y = moved.enter(grid.start, x)
    for t, s in grid.pairs():
        a, b = float(moved.value(t)), float(moved.value(s))
        h, size = b - a, abs(b - a) ** 0.5
        w = size * draws(a, b)
        mean = w / 2 + size / 12**0.5 * draws.area(a, b)  # of the path over the step
        g_0, g_1 = float(moved.diffusion_at(t)), float(moved.diffusion_at(s))
        k_0 = moved.drift_at(t, y)
        k_1 = moved.drift(a + 0.75 * h, y + 0.75 * h * k_0 + 1.5 * g_1 * mean)
        y = y + h * (k_0 / 3 + 2 * k_1 / 3) + g_1 * w + (g_0 - g_1) * mean
    got = solve(SDE, x, TorchSDE("srk", coordinates), grid=grid, seed=5, noise=noise)
    assert furthest(got.x, moved.leave(grid.end, y)) < 1e-12
    assert np.all(got.evaluations == 24)


@over_coordinates
@over(
    {
        "dopri5": TorchDiffEq(rtol=1e-8, atol=1e-8),
        "RK45": SciPy("RK45", rtol=1e-8, atol=1e-8),
        "DOP853": SciPy(rtol=1e-8, atol=1e-8),
    }
)
def test_adaptive_back_ends_meet_the_exact_flow(solver: Any, coordinates: Coordinates) -> None:
    got = solve(FLOW, START, dataclasses.replace(solver, coordinates=coordinates)).check()
    assert furthest(got.x, TARGET.flow(VP, VP.t_start, VP.t_end, START)) < 2e-6


# --- orders: measured, not believed ----------------------------------------------------------------------------------


def flow_errors(solver: Solver, grids: Sequence[Grid]) -> list[float]:
    want = TARGET.flow(VP, grids[0].start, grids[0].end, START)
    return [furthest(solve(FLOW, START, solver, grid=grid).check().x, want) for grid in grids]


@pytest.mark.parametrize("coordinates", [Time(), LogSNR()], ids=lambda c: type(c).__name__)
@over_drivers({n: s for n, s in FIXED.items() if s.one_step})
def test_a_one_step_back_end_has_its_order(solver: Any, coordinates: Coordinates) -> None:
    solver = dataclasses.replace(solver, coordinates=coordinates)
    grids = [solver.spacing(VP, n, t_start=FROM, t_end=TO) for n in (40, 80, 160)]
    assert np.abs(slopes(flow_errors(solver, grids)) - solver.order).max() < 0.12


ADAMS = [
    make(k)
    for k in (4, 5, 6)
    for make in (
        lambda k: TorchDiffEqAdamsBashforth(k, LogSNR()),
        lambda k: TorchDiffEqAdamsMoulton("implicit_adams", k, 60, LogSNR(), rtol=1e-13, atol=1e-13),
    )
]


@pytest.mark.parametrize(
    "solver",
    by_day(ADAMS, ADAMS[:2]),
    ids=lambda s: f"{type(s).__name__}-{s.max_order}",
)
def test_an_adams_back_end_has_the_order_its_start_allows(solver: Any) -> None:
    grids = [solver.spacing(VP, n, t_start=at_log_snr(-1.0), t_end=at_log_snr(1.0)) for n in (80, 160, 320)]
    assert np.abs(slopes(flow_errors(solver, grids)) - solver.order).max() < 0.2


@over_drivers({n: s for n, s in ADAPTIVE.items() if isinstance(s, TorchDiffEq)})
def test_an_adaptive_back_end_of_torchdiffeq_has_its_order_where_each_segment_is_one_step(solver: Any) -> None:
    solver = dataclasses.replace(solver, rtol=100.0, atol=100.0, coordinates=Time())
    numbers = (4, 8, 16) if solver.order > 5 else (8, 16, 32)
    grids = [UniformTime()(VP, n, t_start=FROM, t_end=at_log_snr(1.0)) for n in numbers]
    assert [solve(FLOW, START, solver, grid=g).accepted[0] for g in grids] == list(numbers)
    assert np.abs(slopes(flow_errors(solver, grids)).mean() - solver.order) < 0.5


@pytest.mark.parametrize("method, least, most", [("RK23", 1e-6, 1e-8), ("RK45", 1e-7, 1e-11), ("DOP853", 1e-7, 1e-12)])
def test_a_runge_kutta_back_end_of_scipy_has_its_order_in_error_against_steps(
    method: str, least: float, most: float
) -> None:
    want = TARGET.flow(VP, FROM, TO, START[:1])
    points = []
    for tol in (least, most):
        got = solve(
            FLOW, START[:1], SciPy(method, LogSNR(), rtol=tol, atol=tol, max_evaluations=10**6), t_start=FROM, t_end=TO
        ).check()
        points.append((got.accepted[0], furthest(got.x, want)))
    (n_0, e_0), (n_1, e_1) = points
    assert -0.5 < np.log(e_0 / e_1) / np.log(n_1 / n_0) - SciPy(method).order < 1.0


class _Impulses(Noise):
    """Rows 2, 3, ... feel one draw each, rows 0 and 1 none: for a linear problem, the distribution of the output."""

    def __init__(self, seed: int, x: Tensor, ids: Any = None) -> None:
        super().__init__(seed, x, ids)
        self.drawn = 0

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        self.drawn += 1
        one = torch.zeros_like(self._like)
        one[self.drawn + 1] = 1.0
        return one

    area = __call__


def distribution_error(solver: Solver, grid: Grid, eta: float) -> float:
    """How far mean and standard deviation at the end are from the exact marginal's, started from the exact one."""
    target = Gaussian((0.7,), 0.3)
    draws = 2 * grid.steps
    x = torch.zeros(draws + 2, 1, dtype=F64)
    x[1] = 1.0
    ends = solve(ReverseSDE(target.denoiser(VP), eta), x, solver, grid=grid, noise=_Impulses).x[:, 0]
    first, last = target.at(VP, grid.start), target.at(VP, grid.end)
    gain = ends[1] - ends[0]
    mean = ends[0] + gain * first.mean[0]
    variance = gain**2 * first.covariance[0, 0] + ((ends[2:] - ends[0]) ** 2).sum()
    return max(abs(mean - last.mean[0]).item(), abs(variance.sqrt() - last.covariance[0, 0].sqrt()).item())


@pytest.mark.parametrize("coordinates", [Time(), LogSNR()], ids=lambda c: type(c).__name__)
@over_drivers(STOCHASTIC)
def test_a_back_end_of_torchsde_has_its_weak_order_or_more_on_a_gaussian(solver: Any, coordinates: Coordinates) -> None:
    solver = dataclasses.replace(solver, coordinates=coordinates)
    errors = [distribution_error(solver, solver.spacing(VP, n, t_start=FROM, t_end=TO), 0.7) for n in (20, 40, 80)]
    # midpoint and log_ode have more here, and on a mixture what they declare
    assert slopes(errors)[-1] > solver.weak_order - 0.25


# --- the deviations from their defaults -------------------------------------------------------------------------------


class Watched:
    """A denoiser that remembers the times it was asked for, and is not finite for marked samples below a time."""

    def __init__(self, inner: Any, below: float = -np.inf) -> None:
        self.inner, self.schedule, self.below, self.times = inner, inner.schedule, below, []

    def __call__(self, t: Any, x: Tensor, mark: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.times.append(t)
        data, noise = self.inner(t, x)
        if mark is not None and t < self.below:
            noise = torch.where(mark.reshape(-1, 1), float("nan"), noise)
        return data, noise


@over_coordinates
@pytest.mark.parametrize("t_end, dtype", [(1e-3, F64), (1e-5, torch.float32)])
@over_drivers({n: s for n, s in ADAPTIVE.items() if n not in ("torchdiffeq-adaptive-heun", "scipy-rk23")})
def test_no_adaptive_back_end_leaves_the_run(
    solver: Any, coordinates: Coordinates, t_end: float, dtype: torch.dtype
) -> None:
    denoiser = Watched(FLOW.denoiser)
    solver = dataclasses.replace(solver, coordinates=coordinates)
    got = solve(ProbabilityFlow(denoiser), START.to(dtype), solver, t_end=t_end).check()
    assert min(denoiser.times) >= t_end and max(denoiser.times) <= 1.0
    assert np.all(got.t == t_end)
    assert furthest(got.x, TARGET.flow(VP, 1.0, t_end, START)) < 5e-3


@over_drivers(ADAPTIVE)
def test_a_run_so_short_that_the_first_guess_passes_its_end_stays_inside(solver: Any) -> None:
    got = solve(FLOW, START, solver, t_start=0.5, t_end=0.5 - 1e-7).check()
    assert furthest(got.x, TARGET.flow(VP, 0.5, 0.5 - 1e-7, START)) < 1e-8


BY_THE_HARDEST = {n: s for n, s in ADAPTIVE.items() if isinstance(s, TorchDiffEq)}


@over({**BY_THE_HARDEST, "RK45": TorchDiffEqSciPy("RK45")})
def test_a_hard_sample_is_as_accurate_among_easy_ones_as_alone(solver: Any) -> None:
    flow = ProbabilityFlow(Gaussian((0.0, 0.0), 0.04).denoiser(VP))
    hard, easy = torch.tensor([[1.5, -0.7]], dtype=F64), torch.zeros(63, 2, dtype=F64)
    solver = dataclasses.replace(solver, rtol=1e-4, atol=1e-4)
    alone, among = solve(flow, hard, solver).check(), solve(flow, torch.cat([easy, hard]), solver).check()
    assert furthest(among.x[-1:], alone.x) < 1e-9
    assert among.evaluations[-1] == alone.evaluations[0]


@over_drivers({n: s for n, s in ADAPTIVE.items() if n.startswith("scipy")})
def test_each_sample_of_scipy_is_alone(solver: Any) -> None:
    together = solve(FLOW, START, solver)
    for i in range(len(START)):
        alone = solve(FLOW, START[i : i + 1], solver)
        assert torch.equal(alone.x[0], together.x[i])
        assert alone.evaluations[0] == together.evaluations[i]
        assert alone.accepted[0] == together.accepted[i]


@over_drivers(FLOWS)
def test_a_nan_drift_names_sample_time_and_evaluation_and_spares_the_others(solver: Any) -> None:
    denoiser = Watched(FLOW.denoiser, below=0.5)
    mark = torch.tensor([False, True, False])
    got = solve(ProbabilityFlow(denoiser), START, solver, cond={"mark": mark}, **same_steps(solver))
    assert got.status.tolist() == [Status.SUCCESS, Status.NON_FINITE, Status.SUCCESS]
    assert got.x[1].isnan().all()
    assert furthest(got.x[[0, 2]], TARGET.flow(VP, VP.t_start, VP.t_end, START[[0, 2]])) < 0.05
    t, number, step = got.bad[1]
    asked = denoiser.times
    if isinstance(solver, SciPy):  # one sample after the other
        before = solve(FLOW, START[:1], solver).evaluations[0]
        asked = asked[before:]
    assert asked[number - 1] == t < 0.5 <= min(asked[: number - 1])
    in_step = "" if step is None else f", step {step}"
    words = rf"sample 1: non finite first at t = {t:.6g}, evaluation {number}{in_step}: look at"
    with pytest.raises(SolverError, match=words):
        got.check()


@over_drivers(BY_THE_HARDEST)
def test_a_frozen_sample_has_no_say_in_the_steps_of_the_others(solver: Any) -> None:
    mark = torch.tensor([False, True])
    denoiser = Watched(FLOW.denoiser, below=0.5)
    alone = solve(FLOW, START[:1], solver)
    among = solve(ProbabilityFlow(denoiser), START[:1].repeat(2, 1), solver, cond={"mark": mark})
    assert among.evaluations[0] <= 1.1 * alone.evaluations[0]
    assert 0.5 - 0.4 < among.t[1] < 0.5


@over_drivers(ADAPTIVE)
def test_an_exhausted_budget_is_a_status_with_the_state_reached(solver: Any) -> None:
    got = solve(FLOW, START, solver, max_evaluations=17)
    assert np.all(got.status == Status.BUDGET_EXHAUSTED)
    assert got.evaluations.max() <= 17
    with pytest.raises(SolverError, match=r"budget exhausted at t = .* after 17 evaluations: raise max_evaluations"):
        got.check()
    assert furthest(got.x, TARGET.flow(VP, np.full(3, 1.0), got.t, START)) < 0.02
    if not isinstance(solver, TorchDiffEqSciPy):  # SciPy behind torchdiffeq reports nothing of its steps
        assert np.all(got.t < 1.0) or isinstance(solver, SciPy)


@over({"torchdiffeq": TorchDiffEq(), "RK45": SciPy("RK45"), "Radau": SciPy("Radau")})
def test_a_drift_that_no_step_resolves_is_an_underflow_with_the_state_reached(solver: Any) -> None:
    draws = np.random.default_rng(0)

    class Rough:
        schedule = VP

        def __call__(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            data, noise = FLOW.denoiser(t, x)
            return data, noise if t > 0.6 else noise + 1e14 * draws.standard_normal()

    got = solve(ProbabilityFlow(Rough()), START, solver)
    assert set(got.status) <= {Status.STEP_UNDERFLOW, Status.BUDGET_EXHAUSTED}
    assert isinstance(solver, SciPy) or set(got.status) == {Status.STEP_UNDERFLOW}
    assert np.all((got.t > 0.59) & (got.t < 0.75))
    assert furthest(got.x, TARGET.flow(VP, np.full(3, 1.0), got.t, START)) < 1e-3


def test_an_assertion_of_the_network_is_not_taken_for_one_of_the_back_end() -> None:
    class Failing:
        schedule = VP

        def __call__(self, t: Any, x: Tensor) -> Any:
            raise AssertionError("weights not loaded")

    with pytest.raises(AssertionError, match="weights not loaded"):
        solve(ProbabilityFlow(Failing()), START, TorchDiffEq())


@over_drivers(ADAPTIVE)
def test_states_at_save_times_are_those_of_the_flow(solver: Any) -> None:
    times = [0.8, 0.5, 0.3]
    got = solve(FLOW, START, solver, save=times).check()
    want = torch.stack([TARGET.flow(VP, 1.0, t, START) for t in times])
    assert np.array_equal(got.times, times)
    assert furthest(got.states, want) < 5e-3


@over_drivers(ADAPTIVE)
def test_accepted_and_rejected_steps_are_counted_where_the_back_end_reports_them(solver: Any) -> None:
    got = solve(FLOW, START, solver)
    if isinstance(solver, TorchDiffEqSciPy):
        assert not got.accepted.any() and not got.rejected.any()
        return
    assert np.all(got.accepted > 0)
    stages = {
        "dopri5": 6,
        "dopri8": 13,
        "bosh3": 3,
        "fehlberg2": 2,
        "adaptive_heun": 1,
        "RK45": 6,
        "RK23": 3,
        "DOP853": 12,
    }
    if solver.method in stages:
        assert np.all(got.evaluations == 2 + stages[solver.method] * (got.accepted + got.rejected))


@over_drivers(FIXED | STOCHASTIC)
def test_a_fixed_step_back_end_without_a_grid_is_a_type_error(solver: Any) -> None:
    problem, x = (FLOW, START) if solver in FIXED.values() else (SDE, normals(2, 3))
    with pytest.raises(TypeError, match="give exactly one of steps=, evaluations= and grid="):
        solve(problem, x, solver)


def test_a_back_end_takes_its_options_on_the_command_line() -> None:
    got = registry.parse(Solver, "torchdiffeq-dopri8:rtol=1e-4,coordinates=log-snr")
    assert got == TorchDiffEq("dopri8", rtol=1e-4, coordinates=LogSNR())
    assert registry.parse(Solver, "torchdiffeq-scipy-solver:solver=Radau") == TorchDiffEqSciPy("Radau")


def test_the_example_of_the_design_runs() -> None:
    third_party = TorchDiffEq("dopri5", rtol=1e-4, coordinates=Angle())
    got = sample(FLOW, (64, 2), third_party, seed=0, dtype=F64).check()
    assert got.settings["solver"]["rtol"] == 1e-4


BAD = {
    "misspelt": (lambda: TorchDiffEq("bosh4"), "TorchDiffEq has no method 'bosh4'; did you mean 'bosh3'"),
    "fixed": (lambda: TorchDiffEq("rk4"), r"no method 'rk4': it is TorchDiffEqFixed\('rk4'\)"),
    "adaptive": (lambda: TorchDiffEqFixed("dopri5"), r"no method 'dopri5': it is TorchDiffEq\('dopri5'\)"),
    "adams": (lambda: TorchDiffEqFixed("explicit_adams"), r"it is TorchDiffEqAdamsBashforth\(\)"),
    "scipy solver": (lambda: TorchDiffEq("scipy_solver"), r"it is TorchDiffEqSciPy\(\)"),
    "inner": (lambda: TorchDiffEqSciPy("RK44"), "no method 'RK44'; did you mean 'RK45'"),
    "sde": (lambda: TorchSDE("sdk"), "TorchSDE has no method 'sdk'; did you mean 'srk'"),
    "scipy": (lambda: SciPy("dop853"), "SciPy has no method 'dop853'"),
    "max_order": (lambda: TorchDiffEqAdamsBashforth(3), "max_order = 3: torchdiffeq has 4 to 12"),
    "max_iters": (lambda: TorchDiffEqAdamsMoulton(max_iters=0), "max_iters = 0: at least 1"),
    "tolerance": (
        lambda: solve(FLOW, START.float(), TorchDiffEq(rtol=1e-9, atol=0.0)),
        "under what torch.float32 can hold",
    ),
    "negative": (lambda: solve(FLOW, START, SciPy(rtol=-1.0)), "rtol = -1.0"),
    "budget": (lambda: solve(FLOW, START, SciPy(max_evaluations=0)), "max_evaluations = 0: a whole number from 1 on"),
    "uneven": (
        lambda: solve(FLOW, START, TorchDiffEqAdamsBashforth(coordinates=LogSNR()), steps=9, spacing=UniformTime()),
        "Adams methods want even steps in the integration variable of LogSNR",
    ),
    "infinite": (
        lambda: solve(
            ProbabilityFlow(TARGET.denoiser(RectifiedFlow())), START, SciPy(coordinates=LogSNR()), t_start=1.0
        ),
        "infinite at t = 1",
    ),
}


@pytest.mark.parametrize("act, message", BAD.values(), ids=BAD.keys())
def test_what_cannot_run_says_why_and_what_can(act: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("cls", [SciPy, TorchDiffEq, TorchDiffEqFixed, TorchSDE, TorchDiffEqSciPy])
def test_an_unknown_option_raises(cls: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'step_size'"):
        cls(step_size=0.1)


def test_a_back_end_is_given_the_kind_of_problem_that_it_solves() -> None:
    with pytest.raises(TypeError, match="solves ReverseSDE, not ProbabilityFlow"):
        solve(FLOW, START, TorchSDE(), steps=5)
    with pytest.raises(TypeError, match="solves ProbabilityFlow, not ReverseSDE"):
        solve(SDE, normals(2, 3), TorchDiffEq())


def test_adams_takes_even_steps_in_any_coordinates() -> None:
    for coordinates in COORDINATES:
        got = solve(FLOW, START, TorchDiffEqAdamsMoulton(coordinates=coordinates), steps=200, t_start=0.4, t_end=0.2)
        assert furthest(got.check().x, TARGET.flow(VP, 0.4, 0.2, START)) < 1e-6


def test_adams_that_does_not_converge_is_not_silent() -> None:
    solver = TorchDiffEqAdamsMoulton(max_iters=1, rtol=1e-12, atol=1e-12)
    with pytest.warns(UserWarning, match="did not converge"):
        solve(FLOW, START, solver, steps=10)


def test_a_nan_in_one_sample_does_not_cost_adams_the_order_of_the_others() -> None:
    denoiser = Watched(FLOW.denoiser, below=0.5)
    mark = torch.tensor([False, True, False])
    got = solve(ProbabilityFlow(denoiser), START, TorchDiffEqAdamsMoulton(), steps=40, cond={"mark": mark})
    want = solve(FLOW, START[[0, 2]], TorchDiffEqAdamsMoulton(), steps=40)
    assert furthest(got.x[[0, 2]], want.x) < 1e-5


@over(
    {n: BACK_ENDS[n] for n in ("torchdiffeq-euler", "torchdiffeq-implicit-adams", "torchsde-milstein", "torchsde-srk")}
)
def test_gradients_flow_through_fixed_step_back_ends(solver: Any) -> None:
    problem = FLOW if solver in FIXED.values() else ReverseSDE(TARGET.denoiser(VP))
    x = START.clone().requires_grad_()
    solve(problem, x, solver, steps=30, grad=True).x.sum().backward()
    nearby = START.clone()
    nearby[0, 0] += 1e-6
    rise = (solve(problem, nearby, solver, steps=30).x.sum() - solve(problem, START, solver, steps=30).x.sum()).item()
    assert x.grad is not None and abs(x.grad[0, 0].item() - rise / 1e-6) < 1e-6


# --- torchsde: our noise, our grid -----------------------------------------------------------------------------------


@over_drivers(STOCHASTIC)
def test_a_back_end_of_the_sde_arrives_counts_and_costs_what_it_declares(solver: Any) -> None:
    denoiser = Watched(SDE.denoiser)
    x = normals(4, 3, dtype=torch.float32)
    got = solve(ReverseSDE(denoiser, 0.7), x, solver, steps=20, save=True).check()
    assert got.x.dtype == torch.float32 and got.states.shape == (21, 4, 3)
    assert got.calls == len(denoiser.times) == got.evaluations[0]
    assert got.calls == (21 if solver.nfe is None else 20 * solver.nfe)
    assert min(denoiser.times) >= VP.t_end and max(denoiser.times) <= 1.0


@both_noises
@over_drivers(STOCHASTIC)
def test_sample_i_of_torchsde_is_the_same_in_any_batch(solver: Any, noise: type[Noise]) -> None:
    x = normals(5, 3)

    def run(rows: list[int]) -> Tensor:
        return solve(SDE, x[rows], solver, steps=6, seed=3, ids=rows, noise=noise).x

    whole = run([0, 1, 2, 3, 4])
    assert torch.equal(run([3, 0, 4, 1]), whole[[3, 0, 4, 1]])
    assert torch.equal(run([2]), whole[[2]])


WIDE = ReverseSDE(Gaussian(np.linspace(-1, 1, 200), 0.3).denoiser(VP), 0.7)


def between_grids(solver: Solver, noise: type[Noise]) -> list[float]:
    """How far apart the ends are on 32 and 64, and on 64 and 128 steps, RMS."""
    x = normals(1, 200, seed=2)
    ends = [solve(WIDE, x, solver, steps=n, t_start=FROM, t_end=TO, seed=1, noise=noise).x for n in (32, 64, 128)]
    return [(a - b).square().mean().sqrt().item() for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("coordinates", by_day([Time(), LogSNR()], (LogSNR(),)), ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("method, strong_order", [("euler", 1.0), ("srk", 2.0)])
def test_a_refined_grid_follows_the_same_path_at_the_strong_order(
    method: str, strong_order: float, coordinates: Coordinates
) -> None:
    # srk's order is 1.5 in general, and 2 where the drift is linear, as here
    apart = between_grids(TorchSDE(method, coordinates), BrownianPath)
    assert apart[1] < 0.02
    assert abs(slopes(apart)[0] - strong_order) < 0.25


def test_independent_noise_is_another_path_on_another_grid() -> None:
    assert between_grids(TorchSDE("euler"), IndependentNoise)[0] > 0.2


@over_drivers(STOCHASTIC)
def test_torchsde_leaves_the_generator_of_the_user_alone(solver: Any) -> None:
    before = torch.random.get_rng_state()
    solve(SDE, normals(2, 3), solver, steps=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_that_draws_keeps_its_generator() -> None:
    drawn: list[float] = []

    class Drawing:
        schedule = VP

        def __call__(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            drawn.append(torch.rand(()).item())
            return SDE.denoiser(t, x)

    solve(ReverseSDE(Drawing()), normals(2, 3), TorchSDE("srk"), steps=4)
    assert len(set(drawn)) == 8


def test_torchsde_takes_one_step_per_interval_of_an_uneven_grid() -> None:
    grid = Grid([0.9, 0.899, 0.5, 0.49999, 0.1])
    denoiser = Watched(SDE.denoiser)
    solve(ReverseSDE(denoiser, 0.7), normals(2, 3), TorchSDE("heun"), grid=grid)
    assert denoiser.times == [t for pair in grid.pairs() for t in pair]


def test_twenty_evaluations_of_edm_in_sigma_fit_a_back_end() -> None:
    problem = ReverseSDE(TARGET.denoiser(EDM()))
    got = solve(problem, 80 * START, TorchSDE("euler_heun", LogSNR()), steps=20).check()
    assert np.all(got.evaluations == 20)


@pytest.mark.nightly
def test_twenty_thousand_steps_are_fine() -> None:
    flow, x = Gaussian((0.5,), 0.3), torch.zeros(1, 1, dtype=F64)
    got = solve(ReverseSDE(flow.denoiser(VP)), x, TorchSDE("euler"), steps=20_000, noise=BrownianPath).check()
    assert got.evaluations[0] == 20_000
