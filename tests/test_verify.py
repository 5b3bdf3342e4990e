"""The tools that measure solvers are right: each against a second route, and against solvers that are wrong."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from discovery import OURS, SCHEDULES, engines_by_day, eta_of, examples, label
from hypothesis import find, given
from hypothesis import strategies as st
from oracle import AffineGaussian, distribution, wasserstein

import scorediff as sd
from scorediff import testing, verify
from scorediff.verify.kolmogorov import characteristic_error
from scorediff.verify.slope import ConvergencePoint, Use, fit

LINEAR = [s for s in OURS if s.linear and not s.adaptive]
MEAN, VARIANCES = np.linspace(-1, 1, 8), np.geomspace(0.03, 4, 8)


def points(errors, steps=None):
    steps = steps or [10 * 2 ** (k / 2) for k in range(len(errors))]
    return [ConvergencePoint(n, n, e) for n, e in zip(steps, errors, strict=True)]


# --- the slope ---


@given(order=st.floats(0.5, 8), scale=st.floats(-6, 2))
def test_a_power_law_has_its_power_as_slope(order, scale):
    steps = np.geomspace(10, 160, 9)
    slope = fit(points(10**scale * steps**-order, steps.tolist()), rounding=0.0)
    assert slope.order == pytest.approx(order, abs=1e-9) and slope.floor is None and len(slope.fitted) == 9
    assert slope.interval[0] <= slope.order <= slope.interval[1]


def test_errors_that_scatter_have_an_interval_that_holds_their_order():
    steps, draw, within = np.geomspace(3, 20, 16), np.random.default_rng(0), 0
    for _ in range(200):
        # as an adaptive solver's do, and with a slope that bends at the coarse end
        errors = steps**-8.0 * (1 + (4 / steps) ** 2) * np.exp(draw.normal(0, 0.7, 16))
        low, high = fit(points(errors, steps.tolist()), rounding=0.0, smooth=False).interval
        within += low <= 8 <= high
    assert within >= 190


def test_points_at_rounding_are_left_out():
    steps = np.geomspace(10, 160, 9)
    slope = fit(points(steps**-4.0 + 1e-9 * np.cos(steps), steps.tolist()), rounding=3e-8)
    assert slope.order == pytest.approx(4, abs=0.1) and slope.floor is None
    assert [p.use for p in slope.points[-1:]] == [Use.ROUNDING]


@pytest.mark.parametrize("floor", [1e-3, 1e-6])
def test_errors_that_stop_falling_have_a_floor(floor):
    steps = np.geomspace(10, 640, 13)
    slope = fit(points(steps**-2.0 * 3e3 * floor + floor, steps.tolist()), rounding=1e-12)
    assert slope.floor == pytest.approx(floor, rel=0.2)
    steep = fit(points(steps**-4.0 * 1e9 * floor + floor, steps.tolist()), rounding=1e-12)
    assert steep.floor == pytest.approx(floor, rel=0.2) and steep.order == pytest.approx(4, abs=0.15)


def test_points_before_the_slope_settles_are_left_out():
    steps = np.geomspace(10, 640, 13)
    slope = fit(points(steps**-2.0 * (1 + (60 / steps) ** 3), steps.tolist()), rounding=0.0)
    assert slope.order == pytest.approx(2, abs=0.06) and slope.points[0].use is Use.COARSE


def test_the_interval_reaches_the_order_that_a_drifting_slope_tends_to():
    steps = np.geomspace(10, 160, 9)
    slope = fit(points(steps**-5.0 * np.exp(6 / steps), steps.tolist()), rounding=0.0)
    assert slope.interval[0] < 5.01 and slope.interval[1] > 4.99


@given(seed=testing.seeds(), order=st.floats(1.5, 6))
def test_the_interval_of_scattered_errors_holds_their_order(seed, order):
    steps, scatter = np.geomspace(10, 160, 15), np.random.default_rng(seed).standard_normal(15)
    slope = fit(points(steps**-order * np.exp(0.05 * scatter), steps.tolist()), rounding=0.0, smooth=False)
    half = (slope.interval[1] - slope.interval[0]) / 2
    assert abs(slope.order - order) < 3 * half


@pytest.mark.parametrize("errors", [[1e-2, 5e-3, 2e-3], [1e-2, 5e-3, 2e-3, 1e-20, 1e-20], [np.nan] * 9])
def test_too_few_points_have_no_slope(errors):
    slope = fit(points(errors), rounding=1e-12)
    assert slope.order is None and slope.interval is None


# --- moments ---


@pytest.mark.parametrize("schedule", [sd.VPLinear(), sd.EDM(), sd.RectifiedFlow()], ids=label)
@pytest.mark.parametrize("solver", engines_by_day(LINEAR), ids=label)
def test_the_moments_by_probing_are_those_of_the_body_run_on_symbols(solver, schedule):
    target, eta = sd.targets.Gaussian(MEAN, VARIANCES), eta_of(solver)
    grid = solver.spacing(schedule, 12, t_start=schedule.time_at(-2), t_end=schedule.time_at(2))
    found = verify.moments(solver, target, schedule=schedule, grid=grid, eta=eta)
    symbols = AffineGaussian(schedule, MEAN, VARIANCES)
    mean, variance = distribution(solver, symbols, grid, eta)
    np.testing.assert_allclose(found.means, mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.variances, variance, rtol=1e-10)
    assert found.wasserstein == pytest.approx(wasserstein((mean, variance), symbols.marginal(grid.end)), rel=1e-8)


@examples(5)
@given(target=testing.gaussians(min_size=2, max_size=4), eta=testing.etas(), seed=testing.seeds())
def test_the_moments_are_those_of_samples(target, eta, seed):
    # a second route to the mean and covariance, in any eigenbasis: many samples
    schedule = sd.VPLinear()
    problem = sd.ReverseSDE(target.denoiser(schedule), eta)
    x = target.at(schedule, 1.0).sample(2000, seed)
    y = sd.solve(problem, x, sd.DDIM(), steps=5, seed=seed).x
    found = verify.moments("ddim", target, steps=5, eta=eta).output
    std = found.covariance.diagonal().sqrt()
    assert ((y.mean(0) - found.mean) / std).abs().max() < 6 / np.sqrt(2000)
    assert ((torch.cov(y.T) - found.covariance) / (std[:, None] * std)).abs().max() < 10 / np.sqrt(2000)


def test_the_distance_and_the_divergence_are_the_closed_forms():
    found = verify.moments("ddpm", sd.targets.Gaussian((1.0,), (0.25,)), steps=30)
    m, v = float(found.output.mean), float(found.output.covariance)
    m_0, v_0 = float(found.exact.mean), float(found.exact.covariance)
    assert found.wasserstein == pytest.approx(np.hypot(m - m_0, np.sqrt(v) - np.sqrt(v_0)))
    x = torch.linspace(m - 12 * v**0.5, m + 12 * v**0.5, 20001, dtype=torch.float64)[:, None]
    density, ratio = found.output.log_prob(x).exp(), found.output.log_prob(x) - found.exact.log_prob(x)
    assert found.kl == pytest.approx(float(torch.trapezoid(density * ratio, x[:, 0])), rel=1e-6)


def test_a_start_that_is_given_is_used():
    schedule, target = sd.VPLinear(), sd.targets.Gaussian((1.0, 2.0), (0.25, 1.0))
    prior = sd.targets.Gaussian((0.0, 0.0), schedule.prior_std(1.0) ** 2)
    exact, off = (verify.moments("dpm++2m", target, steps=200, start=start) for start in (None, prior))
    # the mean the prior lacks, alpha_T m, comes out as it went in, times the flow's contraction
    assert off.bias > 10 * exact.bias
    with pytest.raises(ValueError, match="eigendirections"):
        verify.moments("ddim", target, steps=5, start=sd.targets.Gaussian((0.0, 0.0), ((1.0, 0.5), (0.5, 1.0))))
    with pytest.raises(ValueError, match="event shape"):
        verify.moments("ddim", target, steps=5, start=sd.targets.Gaussian((0.0,), 1.0))


# --- coefficients ---


@given(log_snr=testing.log_snr_grids(), schedule=testing.schedules())
def test_the_coefficients_of_ddim_are_those_of_its_formula(log_snr, schedule):
    grid = sd.Grid(schedule.time_at(testing.within(schedule, log_snr)))
    found = verify.coefficients("ddim", grid, schedule=schedule)
    alpha, sigma = schedule.alpha(grid.times), schedule.sigma(grid.times)
    # x_1 = (sigma_1/sigma_0) x_0 + (alpha_1 - alpha_0 sigma_1/sigma_0) D_0, unrolled
    for k in range(grid.steps):
        weight = alpha[k + 1] - alpha[k] * sigma[k + 1] / sigma[k]
        row = sigma[k + 1] / sigma[k] * found.array[k]
        row[1 + k] += weight
        np.testing.assert_allclose(found.array[k + 1], row, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", [sd.NoisePrediction(), sd.VPrediction(), sd.FlowPrediction()], ids=label)
@pytest.mark.parametrize("name", ["dpm++2m", "heun", "sde-dpm++2m"])
def test_the_coefficients_make_the_samplers_output(name, prediction):
    # of the states at which a real network was asked, and of what it answered, the output is the combination
    schedule, asked = sd.VPLinear(), []

    def net(x, t):
        asked.append(torch.tanh(x + t[:, None]))
        return asked[-1]

    model = sd.Denoiser(net, schedule, prediction)
    sde = name.startswith("sde")
    problem = sd.ReverseSDE(model) if sde else sd.ProbabilityFlow(model)
    grid = sd.spacings.UniformLogSNR()(schedule, 5, t_start=schedule.time_at(-2), t_end=schedule.time_at(2))
    x = sd.prior(schedule, (1, 3), dtype=torch.float64)
    got = sd.solve(problem, x, name, grid=grid, seed=3).x
    found = verify.coefficients(name, grid, prediction=prediction)
    noise = sd.noise.IndependentNoise(3, x)
    inputs = [x, *asked, *(noise(a, b, tag) for a, b, tag, _ in found.intervals)]
    want = sum(c * v for c, v in zip(found.array[-1].tolist(), inputs, strict=True))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_coefficients_are_printed_saved_and_compared(tmp_path):
    a, b = verify.coefficients("dpm++2m", steps=4), verify.coefficients("dpm-2m", steps=4)
    assert a.distance(a) == 0 and 1e-3 < a.distance(b) < np.inf
    assert a.distance(verify.coefficients("dpm++2m", steps=5)) == np.inf
    assert a.distance(verify.coefficients("dpm++2m", steps=4, prediction=sd.NoisePrediction())) == np.inf
    assert a.distance(verify.coefficients("dpm++2m", steps=4, grid="time")) == np.inf
    assert str(a).count("\n") == 6 and "x_T" in str(a) and "m_3" in str(a)
    a.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as saved:
        np.testing.assert_array_equal(saved["array"], a.array)


# --- the distribution on a mixture ---


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", ["ddim", "sde-dpm++2m", "sde-dpm-2m", "stochastic-heun", "torchsde-srk"])
def test_the_distribution_on_a_mixture_of_one_is_that_on_a_gaussian(name, eta):
    # the recursion against the probed moments, which have nothing in common but the coefficients
    schedule, solver = sd.VPLinear(), _named(name)
    one, gaussian = sd.targets.GaussianMixture((1.0,), ((0.4,),), (0.3,)), sd.targets.Gaussian((0.4,), (0.3,))
    grid = sd.spacings.UniformLogSNR()(schedule, 10, t_start=schedule.time_at(-2), t_end=schedule.time_at(2))
    error, calls = characteristic_error(solver, one, schedule, grid, eta)
    found = verify.moments(solver, gaussian, schedule=schedule, grid=grid, eta=eta)
    k = np.array([0.5, 1.0, 2.0, 3.0]) / np.sqrt(float(found.exact_variances))
    phi, exact = (
        np.exp(1j * k * float(m) - k**2 * float(v) / 2)
        for m, v in ((found.means, found.variances), (found.exact_means, found.exact_variances))
    )
    assert calls == found.calls
    assert error == pytest.approx(np.sqrt(np.mean(np.abs(phi - exact) ** 2)), rel=1e-4, abs=1e-9)


def _named(name):
    from scorediff._core.registry import parse

    return parse(sd.Solver, name)


@pytest.mark.parametrize("name", ["ddpm", "sde-dpm-2m", "stochastic-heun"])
def test_the_distribution_on_a_mixture_is_that_of_samples(name):
    schedule, n = sd.VPLinear(), 200_000
    grid = sd.spacings.UniformLogSNR()(schedule, 6, t_start=schedule.time_at(-2), t_end=schedule.time_at(2))
    target = verify.LINE
    # as one row: each of its entries sees another noise
    x = target.at(schedule, grid.start).sample(n, 0).reshape(1, n)

    class Side:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, t, x):
            return tuple(p.reshape(1, n) for p in target.denoiser(schedule)(t, x.reshape(n, 1)))

    y = sd.solve(sd.ReverseSDE(Side()), x, name, grid=grid, seed=1).x.numpy()[0]
    end = target.at(schedule, grid.end)
    m, v, w = end.means[:, 0].numpy(), end.spectrum.values[:, 0].numpy(), end.weights.numpy()
    k = np.array([0.5, 1.0, 2.0, 3.0]) / np.sqrt(w @ (v + m**2) - (w @ m) ** 2)
    exact = np.exp(1j * np.outer(k, m) - np.outer(k**2, v) / 2) @ w
    sampled = np.sqrt(np.mean(np.abs(np.exp(1j * np.outer(k, y)).mean(1) - exact) ** 2))
    error, _ = characteristic_error(_named(name), target, schedule, grid, 1.0)
    assert error == pytest.approx(sampled, abs=4 / np.sqrt(n))


# --- orders ---


class HalfHeun(sd.Solver):
    """Heun's method with the second slope forgotten in the average: order 1 that calls itself 2."""

    order = 2

    def run(self, problem, x, grid, noise):
        for t, s in grid.pairs():
            first = problem.drift(t, x)
            second = problem.drift(s, x + (s - t) * first)
            x = x + (s - t) * (0.6 * first + 0.4 * second)
            yield s, x


class Clipped(sd.Solver):
    """DDIM with the data clipped to [-1, 1]: it converges, but to something else."""

    order = 1

    def run(self, problem, x, grid, noise):
        for t, s in grid.pairs():
            data, noise_ = problem.denoiser(t, x)
            x = problem.schedule.alpha(s) * data.clamp(-1, 1) + problem.schedule.sigma(s) * noise_
            yield s, x


class Modest(sd.Heun):
    """Heun's method that declares order 1."""

    order = 1


class Costly(sd.Solver):
    """Euler's method that calls twice and says once."""

    order = nfe = 1

    def run(self, problem, x, grid, noise):
        for t, s in grid.pairs():
            problem.drift(t, x)
            x = x + (s - t) * problem.drift(t, x)
            yield s, x


class Loud(sd.Solver):
    """Ancestral sampling whose noise is 5 % too large."""

    weak_order = 1
    solves = (sd.ReverseSDE,)

    def run(self, problem, x, grid, noise):
        schedule = problem.schedule
        for t, s in grid.pairs():
            data, eps = problem.denoiser(t, x)
            h = schedule.log_snr(s) - schedule.log_snr(t)
            c = schedule.sigma(s) * np.sqrt(-np.expm1(-2 * h))
            x = schedule.alpha(s) * data + np.sqrt(schedule.sigma(s) ** 2 - c**2) * eps + 1.05 * c * noise(t, s)
            yield s, x


class VPOnly(sd.Solver):
    """DDPM with the noise of a tutorial, right where alpha^2 + sigma^2 = 1 alone."""

    weak_order = 1
    solves = (sd.ReverseSDE,)

    def run(self, problem, x, grid, noise):
        alpha, sigma = problem.schedule.alpha, problem.schedule.sigma
        for t, s in grid.pairs():
            data, eps = problem.denoiser(t, x)
            c = sigma(s) / sigma(t) * math.sqrt(1 - (alpha(t) / alpha(s)) ** 2)
            x = alpha(s) * data + math.sqrt(sigma(s) ** 2 - c**2) * eps + c * noise(t, s)
            yield s, x


class Shared(sd.Solver):
    """DDPM whose noise is the same for all entries of a sample."""

    weak_order = 1
    solves = (sd.ReverseSDE,)

    def run(self, problem, x, grid, noise):
        yield from sd.DDPM().run(problem, x, grid, lambda a, b: noise(a, b)[:, :1].expand_as(x))


class Late(sd.Heun):
    """Heun's method that is not finite on fine grids."""

    def run(self, problem, x, grid, noise):
        yield from super().run(problem, x * float("nan") if grid.steps > 100 else x, grid, noise)


class Smooth(sd.Solver):
    """2M written for even steps alone."""

    order = 2

    def run(self, problem, x, grid, noise):
        alpha, sigma, log_snr, last = *(getattr(problem.schedule, n) for n in ("alpha", "sigma", "log_snr")), None
        for t, s in grid.pairs():
            data, _ = problem.denoiser(t, x)
            mixed = data if last is None else 1.5 * data - 0.5 * last
            x = sigma(s) / sigma(t) * x - alpha(s) * math.expm1(log_snr(t) - log_snr(s)) * mixed
            last = data
            yield s, x


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (VPOnly(), "it fails with 10 steps: math domain error, on .*RectifiedFlow"),
        (Shared(), "not linear entry by entry"),
        (Late(), "it fails with 113 steps: .*non finite"),
        (Smooth(), "measured (0.9|1.0).* on Gaussian, 8-D, VPLinear, steps 1 : 6 : 2 : 8"),
        (HalfHeun(), r"measured (0\.9|1\.0)\d .*, declared 2"),
        (Clipped(), "errors stop falling at .*converges to something else than the true solution, on"),
        (Modest(), r"measured (1\.9|2\.0)\d or more on all targets, declared 1"),
        (Costly(), "2 evaluations per step were counted, declared 1"),
        (Loud(), "errors stop falling at"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, sd.Solver) else "",
)
def test_a_solver_that_is_wrong_on_purpose_is_refused_in_words(solver, words):
    # a mixture takes its time, and shows these no better
    where = {} if isinstance(solver, Smooth) else {"target": verify.GAUSSIAN}
    with pytest.raises(AssertionError, match=words):
        testing.assert_order(solver, **where)


class Ratio(sd.Solver):
    """2M with another ratio of steps."""

    order = 2

    def __init__(self, ratio):
        self.__dict__["ratio"] = ratio

    def run(self, problem, x, grid, noise):
        alpha, sigma, log_snr, last = *(getattr(problem.schedule, n) for n in ("alpha", "sigma", "log_snr")), None
        for t, s in grid.pairs():
            data, _ = problem.denoiser(t, x)
            h = log_snr(s) - log_snr(t)
            mixed = data if last is None else data + (data - last[0]) * (1 / (2 * self.ratio(last[1] / h)))
            x = x * (sigma(s) / sigma(t)) - mixed * (alpha(s) * math.expm1(-h))
            last = data, h
            yield s, x


def test_one_step_alone_shows_a_ratio_of_steps_that_is_upside_down():
    right, upside_down = Ratio(lambda r: r), Ratio(lambda r: 1 / r)
    testing.assert_step_order(right)
    # each of its steps makes good what the one before it lacks: the sum telescopes on every grid
    assert verify.order(upside_down).ok
    found = verify.step_order(upside_down)
    assert not found.ok and found.even == pytest.approx(2, abs=0.1) and found.uneven == pytest.approx(1, abs=0.1)
    with pytest.raises(AssertionError, match="it loses order where neighbouring steps differ"):
        testing.assert_step_order(upside_down)


@pytest.mark.parametrize("most", [2, 5])
def test_a_ratio_that_is_clamped_loses_its_order_on_uneven_steps(most):
    clamped = Ratio(lambda r: min(max(r, 1 / most), most))
    report = verify.order(clamped)
    assert "steps 1 : 6 : 2 : 8" in report.verdict and report.order == pytest.approx(1, abs=0.2)
    assert not verify.step_order(clamped).ok
    # and is another sampler, which even nodes would not show
    with pytest.raises(AssertionError, match="apart"):
        testing.assert_same_sampler(clamped, "dpm++2m")
    testing.assert_same_sampler(clamped, "dpm++2m", log_snr=np.linspace(-2, 2, 10))


def test_the_order_of_one_step_is_that_of_taylors_theorem_and_of_a_function_too():
    # Euler's step errs by h^2 x''/2, and its order is 1; the states of a function are the ends of shorter runs
    for solver in (sd.solvers.Euler(), euler):
        found = verify.step_order(solver, declared=1)
        assert found.even == pytest.approx(1, abs=0.05) and found.uneven == pytest.approx(1, abs=0.05) and found.ok
    for solver in ("rk45", "ddpm", "edm-stochastic"):
        with pytest.raises(ValueError, match="one step has an order where it follows the flow"):
            verify.step_order(solver)


def test_uneven_steps_are_of_the_pattern_and_eased_in():
    schedule = sd.VPLinear()
    grid = verify.uneven(ease=1)(schedule, 10, t_start=schedule.time_at(-2.0), t_end=schedule.time_at(2.0))
    steps = np.diff(schedule.log_snr(grid.times))
    assert grid.steps == 12
    np.testing.assert_allclose(steps / steps[0], [1, 6, 2, 8] * 3, rtol=1e-9)
    # (n + 1)^k - n^k times the pattern
    for declared, ease in ((None, 2), (1, 2), (3, 2), (4, 3), (5, 3)):
        eased = verify.uneven(declared)(schedule, 8, t_start=schedule.time_at(-2.0), t_end=schedule.time_at(2.0))
        lengths = np.diff(schedule.log_snr(eased.times))
        np.testing.assert_allclose(lengths[1] / lengths[0], 6 * (2**ease - 1), rtol=1e-6)


def euler(denoise, x, grid):
    for t, s in grid.pairs():
        data, noise = denoise(t, x)
        schedule = denoise.schedule
        x = x + (s - t) * (schedule.d_alpha(t) * data + schedule.d_sigma(t) * noise)
    return x


def test_a_plain_function_has_an_order_too():
    report = verify.order(euler, declared=1, target=verify.GAUSSIAN)
    assert report.ok and report.solver == "euler" and report.order == pytest.approx(1, abs=0.1)
    assert not verify.order(euler, declared=2, target=verify.GAUSSIAN).ok
    undeclared = verify.order(euler, target=verify.GAUSSIAN)
    assert not undeclared.ok and "declared=" in undeclared.verdict and undeclared.order == pytest.approx(1, abs=0.1)
    assert verify.moments(verify.runs.as_solver(euler), steps=20).wasserstein > 0


def test_an_irregular_grid_is_refined_as_it_is():
    schedule = sd.VPLinear()
    rough = sd.Grid(schedule.time_at(np.array([-2.0, -1.8, -1.0, -0.7, 0.5, 0.6, 2.0])))
    report = verify.order("dpm++2m", grid=rough, schedule=schedule, steps=(24, 48, 96, 192, 384))
    assert report.ok and report.points[0].steps == 24
    assert verify.order("dpm++2m", grid="karras", schedule=schedule).ok


def test_another_target_schedule_span_and_eta_may_be_given():
    report = verify.order(
        "ddim",
        target=sd.targets.Gaussian((0.3,), (0.5,)),
        schedule=sd.EDM(),
        t_start=10.0,
        t_end=0.1,
        eta=0.7,
        steps=(40, 80, 160, 320),
    )
    assert report.ok and report.kind == "weak order" and len(report.measurements) == 1
    # a grid has its own ends, and a list of times is one
    assert verify.order("dpm++2m", grid=[0.9, 0.6, 0.3, 0.1], schedule="vp-linear", target=verify.GAUSSIAN).ok
    assert verify.order("ddim", grid=sd.spacings.UniformTime()(sd.VPLinear(), 200), schedule=sd.VPLinear()).ok
    assert verify.order(
        "heun", target=sd.targets.Empirical(torch.randn(5, 2, dtype=torch.float64), 0.5), schedule=sd.VPLinear()
    ).ok


@pytest.mark.nightly
def test_a_distribution_that_is_not_resolved_is_not_measured():
    narrow = sd.targets.GaussianMixture((0.5, 0.5), ((2.0,), (-2.0,)), (1e-3, 4.0))
    unresolved = verify.order("sde-dpm++2m", target=narrow, schedule="vp-linear", steps=(10, 20, 40, 80))
    assert "modes are too narrow" in unresolved.verdict


def test_what_cannot_be_measured_is_said():
    assert "in one dimension" in verify.order("ddpm", target=verify.MIXTURE).verdict
    assert "eta = 1" in verify.order("ddpm", eta=0.5).verdict
    exact = verify.order("ddim", target=sd.targets.Gaussian((1.0, 2.0), 0.0)).verdict
    assert "exact here to rounding, give another target" in exact
    for options, kind, words in (
        ({"steps": (10, 20, 40)}, ValueError, "at least 4"),
        ({"steps": ()}, ValueError, "at least 4"),
        ({"steps": 40}, TypeError, "ladder of whole numbers"),
        ({"steps": (10.5, 20, 40, 80)}, TypeError, "ladder of whole numbers"),
        ({"target": "gaussian"}, TypeError, "Gaussian"),
        ({"target": sd.targets.Gaussian}, TypeError, "Gaussian"),
        ({"schedule": "vp-linaer"}, ValueError, "did you mean 'vp-linear'"),
        ({"schedule": sd.VPLinear}, TypeError, "VPLinear"),
        ({"declared": "2"}, TypeError, "an order is a number"),
        ({"declared": float("nan")}, ValueError, "above 0"),
        ({"eta": "1"}, TypeError, "eta = '1'"),
        ({"eta": -1.0}, ValueError, "eta = -1.0"),
        ({"grid": sd.Grid([0.9, 0.5]), "t_start": 0.9}, TypeError, "own ends"),
        ({"grid": sd.Grid([0.1, 0.5])}, ValueError, "rises"),
    ):
        with pytest.raises(kind, match=words):
            verify.order("ddim", **options)
    with pytest.raises(TypeError, match="drop steps="):
        verify.order("rk45", steps=(10, 20, 40, 80))
    with pytest.raises(TypeError, match="exact distribution is known on a Gaussian"):
        verify.moments("ddpm", verify.MIXTURE, steps=5)
    with pytest.raises(TypeError, match="NoisePrediction"):
        verify.coefficients("ddim", steps=5, prediction="noise")
    for bad in (sd.DDIM, 3.0, None):
        with pytest.raises(TypeError, match="not a solver"):
            verify.order(bad)
    with pytest.raises(ValueError, match="unknown solver"):
        verify.order("dimm")
    with pytest.raises(ValueError, match="chooses its steps"):
        verify.moments("rk45")
    with pytest.raises(ValueError, match="twice"):
        verify.strong_order("ddpm", steps=(8, 12, 16, 20, 30))
    with pytest.raises(TypeError, match="exactly one of steps"):
        verify.moments("ddim")


def test_a_sampler_that_is_not_linear_has_no_coefficients():
    for tool in (verify.moments, lambda s, steps: verify.coefficients(s, steps=steps)):
        with pytest.raises(ValueError, match="not linear"):
            tool(Clipped(), steps=5)


def test_a_sampler_that_adds_a_constant_has_no_coefficients_but_a_distribution():
    class Adding(sd.Solver):
        order = 1

        def run(self, problem, x, grid, noise):
            for t, y, *_ in sd.DDIM().run(problem, x, grid, noise):
                yield t, y + 0.1

    assert verify.moments(Adding(), steps=5).bias == pytest.approx(0.1 * np.sqrt(2), abs=1e-6)
    with pytest.raises(ValueError, match=r"adds 0\.1, which is neither a start nor an output"):
        verify.coefficients(Adding(), steps=5)


def test_a_body_may_go_on_in_place():
    class InPlace(sd.Solver):
        order = 1

        def run(self, problem, x, grid, noise):
            for t, s in grid.pairs():
                x += (s - t) * problem.drift(t, x)
                yield s, x

    assert verify.order(InPlace()).ok
    x = torch.ones(2, 8, dtype=torch.float64)
    sd.solve(sd.ProbabilityFlow(verify.GAUSSIAN.denoiser(sd.VPLinear())), x, InPlace(), steps=5)
    assert torch.equal(x, torch.ones(2, 8, dtype=torch.float64))


def test_noises_of_overlapping_intervals_are_refused():
    class Overlapping(sd.Solver):
        solves = (sd.ReverseSDE,)

        def run(self, problem, x, grid, noise):
            for t, s in grid.pairs():
                x = x + noise(t, s) + noise(t, (t + s) / 2)
                yield s, x

    with pytest.raises(ValueError, match="overlap"):
        verify.moments(Overlapping(), steps=5)


def test_an_exact_method_has_no_slope_on_what_it_is_exact_on():
    report = verify.order("ddim", target=sd.targets.Gaussian((1.0, 2.0), 0.0))
    assert report.order is None and report.measurements[0].slope.exact


@pytest.mark.nightly
def test_the_rows_of_an_audit_are_written_whole(tmp_path):
    rows = verify.audit("ddim") + verify.audit("scipy-bdf")
    assert [row.kind for row in rows] == ["order", "weak order", "strong order", "order"]
    found = verify.Audit(rows)
    assert found.ok and "3 of 3" in found.summary() and "1 skipped" in found.summary()
    found.to_csv(tmp_path / "orders.csv")
    assert (tmp_path / "orders.csv").read_text().count("\n") == 1 + 5 + 10 + 2 + 1
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- orders -->\nold\n<!-- /orders -->\nafter\n")
    found.to_markdown(page)
    assert page.read_text() == f"before\n<!-- orders -->\n{found.markdown()}\n<!-- /orders -->\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        found.to_markdown(page)
    assert page.read_text() == "no marks"


# --- the assertions ---


def test_samplers_that_differ_are_found_different():
    testing.assert_same_sampler("ddim", "dpm++1")
    testing.assert_same_sampler("ddpm", "sde-dpm++1", eta=1.0)
    with pytest.raises(AssertionError, match="apart"):
        testing.assert_same_sampler("dpm++2m", "dpm-2m")


def test_a_solver_that_looks_at_its_neighbours_is_caught():
    class Social(sd.Solver):
        order = 1

        def run(self, problem, x, grid, noise):
            for t, s in grid.pairs():
                step = (s - t) * problem.drift(t, x)
                x = x + step * (1 + 1e-3 * step.abs().mean())
                yield s, x

    with pytest.raises(AssertionError, match="alone"):
        testing.assert_batch_invariant(Social())
    testing.assert_batch_invariant("rk45")


WIDE = [s for s in SCHEDULES if s.log_snr(s.t_start) <= -2 and s.log_snr(s.t_end) >= 2]


@pytest.mark.parametrize("kind", [type(schedule) for schedule in WIDE], ids=lambda kind: kind.__name__)
def test_every_kind_of_schedule_is_drawn(kind):
    found = find(testing.schedules(), lambda schedule: type(schedule) is kind)
    assert found.log_snr(found.t_start) <= -2 and found.log_snr(found.t_end) >= 2


@given(schedule=testing.schedules(), prediction=testing.predictions(), target=testing.mixtures(), seed=testing.seeds())
def test_the_strategies_draw_what_can_be_sampled(schedule, prediction, target, seed):
    def net(x, t):
        # the exact network for what is predicted
        t = t.double().numpy()
        data, noise = target.denoiser(schedule)(t, x / _column(prediction.input_scale(schedule, t), x))
        a, b = prediction.row(schedule, t)
        return data * _column(a, x) + noise * _column(b, x)

    grid = schedule.time_at(testing.within(schedule, np.linspace(-4, 4, 6)))
    x = sd.prior(schedule, (2, *target.event_shape), t_start=float(grid[0]), seed=seed, dtype=torch.float64)
    flow = sd.ProbabilityFlow(sd.Denoiser(net, schedule, prediction, time=lambda t: t))
    exact = sd.ProbabilityFlow(target.denoiser(schedule))
    a, b = (sd.solve(problem, x, "ddim", grid=grid).check().x for problem in (flow, exact))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def _column(value, x):
    return torch.as_tensor(np.broadcast_to(value, (len(x),)).copy(), dtype=x.dtype)[:, None]


def test_a_frozen_report_is_plain_data():
    report = verify.order("ddim", target=verify.GAUSSIAN, schedule=sd.VPLinear())
    assert dataclasses.asdict(report)["declared"] == 1
    assert report.per_step == 1 and report.nfe == 1 and report.floor is None and len(report.points) == 9
