"""For your own tests: hypothesis strategies for well-posed problems, and assertions about solvers.

    from hypothesis import given
    from scorediff import testing

    def test_my_solver_has_the_order_it_declares():
        testing.assert_order(MySolver())

    @given(grid=testing.log_snr_grids(), schedule=testing.schedules())
    def test_my_solver_is_ddim_under_another_name(grid, schedule):
        testing.assert_same_sampler(MySolver(), "ddim", schedule=schedule, log_snr=grid)

Strategies stay where a proof is well-posed: log-SNRs in [-5, 5], variances in [0.03, 4], means of size 1, neighbouring
steps at most 1 : 4. Importing this module wants hypothesis (`pip install 'scorediff[test]'`).
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff._core import registry
from scorediff.denoiser import DenoiserBase
from scorediff.predictions import Prediction
from scorediff.sampling import prior, sample
from scorediff.schedules import Schedule, VPCosine, VPLinear
from scorediff.solvers import Solver
from scorediff.solvers.probe import eta_for, pose
from scorediff.solvers.solve import resolve
from scorediff.spacings import Grid
from scorediff.targets import Gaussian, GaussianMixture, Target
from scorediff.verify import coefficients, marginals, order, step_order
from scorediff.verify.runs import PlainFunction, as_solver, ends, uneven

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("scorediff.testing wants hypothesis: pip install 'scorediff[test]'") from error

__all__ = [
    "assert_batch_invariant",
    "assert_order",
    "assert_same_marginals",
    "assert_same_sampler",
    "assert_step_order",
    "etas",
    "gaussians",
    "log_snr_grids",
    "mixtures",
    "predictions",
    "rotations",
    "schedules",
    "seeds",
    "within",
]

_VARIANCES = (0.03, 4.0)
_REACH = 5.0  # of the log-SNR, either way


def schedules() -> st.SearchStrategy[Schedule]:
    """Noise schedules of every kind that there is and reaches log-SNRs from -2 to 2, yours among them: each float of
    theirs within a factor of two of its default, as far as the class takes it and those log-SNRs are still reached.

    >>> isinstance(schedules().example(), Schedule)  # doctest: +SKIP
    True
    """
    made = registry.names(Schedule).values()  # type: ignore[type-abstract]
    return st.one_of([_near(schedule) for schedule in made if _is_wide(schedule)])


def _near(made: Schedule) -> st.SearchStrategy[Schedule]:
    values = {f.name: getattr(made, f.name) for f in fields(made)}
    floats = {name: value for name, value in values.items() if type(value) is float and 0 < abs(value) < np.inf}

    def changed(new: dict[str, float]) -> Schedule | None:
        try:
            return replace(made, **new)
        except ValueError:
            return None

    near = {name: st.just(value) | st.floats(*sorted((value / 2, value * 2))) for name, value in floats.items()}
    return st.fixed_dictionaries(near).map(changed).filter(_is_wide) if near else st.just(made)  # type: ignore[return-value]


def _is_wide(schedule: Schedule | None) -> bool:
    return schedule is not None and schedule.log_snr(schedule.t_start) <= -2 and schedule.log_snr(schedule.t_end) >= 2


@st.composite
def log_snr_grids(
    draw: st.DrawFn,
    *,
    min_steps: int = 1,
    max_steps: int = 12,
    least: float = -4.0,
    most: float = 4.0,
    ratio: float = 4.0,
) -> np.ndarray:
    """Rising log-SNRs in [`least`, `most`], an array of shape (steps + 1,); neighbouring steps differ by at most
    `ratio`, and zero lies inside.
    """
    widest = float(np.sqrt(ratio))
    steps = draw(st.lists(st.floats(1 / widest, widest), min_size=min_steps, max_size=max_steps))
    first, last = draw(st.floats(least, min(-0.5, least / 8))), draw(st.floats(max(0.5, most / 8), most))
    nodes = np.concatenate([[0.0], np.cumsum(steps)])
    return np.asarray(first + (last - first) * nodes / nodes[-1])


def within(schedule: Schedule, log_snr: np.ndarray) -> np.ndarray:
    """`log_snr`, drawn from [-5, 5], squeezed into what `schedule` reaches of it."""
    least = max(float(schedule.log_snr(schedule.t_start)), -_REACH)
    most = min(float(schedule.log_snr(schedule.t_end)), _REACH)
    return least + (most - least) * (log_snr + _REACH) / (2 * _REACH)


@st.composite
def rotations(draw: st.DrawFn, size: int) -> Tensor:
    """Rotations and reflections of `size` dimensions, float64 of shape (size, size)."""
    normal = np.random.default_rng(draw(seeds())).standard_normal((size, size))
    return torch.from_numpy(np.linalg.qr(normal)[0])


@st.composite
def gaussians(draw: st.DrawFn, *, min_size: int = 1, max_size: int = 6, condition: float = 150.0) -> Gaussian:
    """Gaussians in `min_size` to `max_size` dimensions and any eigenbasis, variances in [0.03, 4] and within a factor
    of `condition`.
    """
    size = draw(st.integers(min_size, max_size))
    low, high = np.log(_VARIANCES).tolist()
    top = draw(st.floats(low, high))
    values = np.exp([draw(st.floats(max(low, top - np.log(condition)), top)) for _ in range(size)])
    basis = draw(rotations(size)).numpy()
    mean = [draw(st.floats(-2.0, 2.0)) for _ in range(size)]
    return Gaussian(mean, (basis * values) @ basis.T)


@st.composite
def mixtures(draw: st.DrawFn, *, max_size: int = 4, max_modes: int = 4) -> GaussianMixture:
    """Mixtures of two or more isotropic Gaussians, in up to `max_size` dimensions."""
    size, modes = draw(st.integers(1, max_size)), draw(st.integers(2, max_modes))
    weights = np.array([draw(st.floats(0.2, 1.0)) for _ in range(modes)])
    means = [[draw(st.floats(-2.0, 2.0)) for _ in range(size)] for _ in range(modes)]
    return GaussianMixture(weights / weights.sum(), means, [draw(st.floats(0.03, 0.5)) for _ in range(modes)])


def predictions() -> st.SearchStrategy[Prediction]:
    """What a network may predict, every kind with its defaults."""
    return st.sampled_from(list(dict.fromkeys(registry.names(Prediction).values())))  # type: ignore[type-abstract]


def etas(least: float = 0.05, most: float = 1.0) -> st.SearchStrategy[float]:
    """Amounts of noise in the reverse SDE."""
    return st.floats(least, most)


def seeds() -> st.SearchStrategy[int]:
    """Seeds."""
    return st.integers(0, 2**32 - 1)


def assert_order(solver: Solver | str | PlainFunction, **options: Any) -> None:
    """Raise AssertionError, with every point, where a measured order is not the declared one. See `verify.order`.

    That is the order on the flow, or with `eta` the weak order; `verify.audit` measures every claim of a solver.
    """
    report = order(solver, **options)
    if not report.ok:
        raise AssertionError(report.table())


def assert_step_order(solver: Solver | str | PlainFunction, **options: Any) -> None:
    """Raise AssertionError where one step loses order on uneven steps. See `verify.step_order`."""
    found = step_order(solver, **options)
    if not found.ok:
        raise AssertionError(str(found))


def assert_same_sampler(
    a: Solver | str,
    b: Solver | str,
    *,
    schedule: Schedule | None = None,
    log_snr: Sequence[float] | np.ndarray | None = None,
    eta: float | None = None,
    tolerance: float = 1e-12,
) -> None:
    """Raise AssertionError where two samplers differ for some network, some start or some noise.

    Their unrolled coefficients are compared, on the nodes `log_snr` of `schedule` (by default thirteen from -2 to 2 on
    VP, whose steps are 1 : 6 : 2 : 8 by turns: even ones hide a wrong ratio of steps):
    relative to the largest of a row, up to `tolerance`. `eta` as in `verify.coefficients`, that of `a`.
    """
    one, other, schedule = resolve(a), resolve(b), schedule or VPLinear()
    eta = eta_for(one, eta)
    t_start, t_end = ends(schedule)
    grid = (
        uneven(ease=1)(schedule, 12, t_start=t_start, t_end=t_end)
        if log_snr is None
        else Grid(schedule.time_at(np.asarray(log_snr)))
    )
    first, second = (coefficients(s, grid, schedule=schedule, eta=eta) for s in (one, other))
    apart = first.distance(second)
    if not apart <= tolerance:
        raise AssertionError(
            f"{one!r} and {other!r} are {apart:.2e} apart at eta = {eta:g}, more than {tolerance:.0e}:\n\n"
            f"{first}\n\n{second}"
        )


def assert_same_marginals(a: Any, b: Any = None, target: Target | None = None, **options: Any) -> None:
    """Raise AssertionError where the outputs of two samplers do not have one distribution. See `verify.marginals`."""
    found = marginals(a, b, target, **options)
    if not found.same:
        raise AssertionError(str(found))


def assert_batch_invariant(
    solver: Solver | str | PlainFunction,
    *,
    denoiser: DenoiserBase | None = None,
    shape: Sequence[int] = (35,),
    steps: int = 9,
    eta: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 0.0,
) -> None:
    """Raise AssertionError where a sample depends on its neighbours: alone, permuted, or in batches of two.

    Bit for bit, unless a `tolerance` allows for a network whose own rounding depends on the batch. The seven samples
    have event shape `shape` and sizes from 0.01 to 100 times the usual, so that hard ones lie beside easy ones;
    `denoiser` is by default that of a Gaussian, whose rows do not meet.
    """
    solver = as_solver(solver)
    size = int(np.prod(shape))
    if denoiser is None:
        target = Gaussian(np.linspace(-1, 1, size).reshape(shape), np.geomspace(0.05, 3, size).reshape(shape))
        denoiser = target.denoiser(VPCosine())
    problem = pose(denoiser, eta_for(solver, eta))
    scales = torch.logspace(-2, 2, 7, dtype=dtype).reshape(-1, *(1,) * len(shape))
    x = prior(problem.schedule, (7, *shape), seed=seed, dtype=dtype) * scales
    options: dict[str, Any] = {"seed": seed, "progress": False, **({} if solver.adaptive else {"steps": steps})}
    whole = sample(problem, solver=solver, x=x, **options).check()
    others = {
        "alone": ([3], sample(problem, solver=solver, x=x[3:4].clone(), ids=[3], **options)),
        "permuted": ([5, 3, 1], sample(problem, solver=solver, x=x[[5, 3, 1]], ids=[5, 3, 1], **options)),
        "in batches of two": (list(range(7)), sample(problem, solver=solver, x=x, batch_size=2, **options)),
    }
    for how, (rows, other) in others.items():
        apart = float((other.x - whole.x[rows]).abs().max())
        if not apart <= tolerance or not np.array_equal(other.evaluations, whole.evaluations[rows]):
            raise AssertionError(
                f"{solver!r} makes other samples {how}: {apart:.2e} apart, evaluations {other.evaluations.tolist()} "
                f"instead of {whole.evaluations[rows].tolist()}"
            )
