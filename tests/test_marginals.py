"""Two samplers make one distribution, or not: exact on Gaussians, at a stated false-alarm rate and power elsewhere."""

import math
import re
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
import pytest
import torch
from discovery import by_day
from scipy import linalg, stats

import scorediff as sd
from scorediff.verify.marginals import Sampler, marginals
from scorediff.verify.moments import moments
from scorediff.verify.runs import GAUSSIAN, LINE, MIXTURE, ends
from scorediff.verify.two_sample import Alternative, power, scaled, shifted, two_sample

NORMAL = sd.targets.Gaussian((0.0,), (1.0,))
SPAN = dict(zip(("t_start", "t_end"), ends(sd.VPLinear()), strict=True))


@dataclass(frozen=True)
class _Miscounted(sd.Solver):
    """DDIM written anew, with a slip: its noise is `factor` times what it should be."""

    factor: float = 0.9
    order = 1
    weak_order = 1
    solves: ClassVar = (sd.ProbabilityFlow, sd.ReverseSDE)

    def run(self, problem, x, grid, noise):
        schedule = problem.schedule
        for t, s in grid.pairs():
            data, eps = problem.denoiser(t, x)
            step = schedule.log_snr(s) - schedule.log_snr(t)
            c = problem.eta * schedule.sigma(s) * math.sqrt(-math.expm1(-2 * step))
            x = schedule.alpha(s) * data + math.sqrt(schedule.sigma(s) ** 2 - c**2) * eps
            x = x + self.factor * c * noise(schedule.log_snr(t), schedule.log_snr(s))
            yield s, x


@dataclass(frozen=True)
class _Boastful(_Miscounted):
    """DDIM as it should be, but for a weak order that it does not have."""

    factor: float = 1.0
    weak_order = 2


def normals(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def pairs(target, n, count):
    return [(target.sample(n, 2 * k + 10**6), target.sample(n, 2 * k + 1 + 10**6)) for k in range(count)]


def p_of(found, name):
    return next(test.p for test in found.p_values if test.name == name)


@pytest.mark.parametrize(
    ("a", "b"),
    [*combinations([Sampler("ddim", 0.3, 20), Sampler("ddim", 1.0, 20), Sampler("dpm++2m", steps=20)], 2)],
    ids=str,
)
def test_ddim_with_any_noise_and_dpm_solver_make_one_distribution_on_a_gaussian(a, b):
    found = marginals(a, b)
    assert found.same
    assert found.found.expected == 1
    assert found.found.slope.order == pytest.approx(1, abs=0.1)
    assert found.verdict.startswith("one distribution: W2 falls at order")


@pytest.mark.parametrize(("solver", "eta", "order"), [("rk4", 0, 4), ("dpm++2m", 0, 2), ("sde-dpm++2m", 0.5, 2)])
def test_a_sampler_falls_to_the_exact_marginal_at_the_order_it_declares(solver, eta, order):
    found = marginals(Sampler(solver, eta, 10), None).found
    assert found.same
    assert found.expected == order
    assert found.slope.order == pytest.approx(order, abs=0.15)
    assert [p.steps for p in found.points] == [10, 20, 40, 80, 160, 320]
    assert found.points[0].error == moments(solver, GAUSSIAN, eta=eta, steps=10, **SPAN).wasserstein


def test_the_distance_is_that_of_the_two_outputs_by_the_formula_for_any_covariances():
    root = np.random.default_rng(1).standard_normal((3, 3))
    target = sd.targets.Gaussian((1.0, 0.0, -2.0), root @ root.T + 0.1 * np.eye(3))
    rule = {"t_start": 0.9, "t_end": 0.1}
    found = marginals(Sampler("ddim", 1.0, 10), Sampler("heun", steps=5), target, tolerance=0.1, **rule)
    one = moments("ddim", target, eta=1.0, steps=10, **rule).output
    two = moments("heun", target, steps=5, **rule).output
    # W2^2 = |m - m'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2)
    c, d = one.covariance.numpy(), two.covariance.numpy()
    half = linalg.sqrtm(c)
    square = float((one.mean - two.mean).square().sum()) + np.trace(c + d - 2 * linalg.sqrtm(half @ d @ half)).real
    assert found.found.wasserstein == pytest.approx(math.sqrt(square), rel=1e-6)


def test_two_names_of_one_method_differ_by_rounding_alone():
    found = marginals(Sampler("ddim", steps=20), Sampler("dpm++1", steps=20))
    assert found.same
    assert found.found.wasserstein < 1e-13
    assert "which is rounding" in found.verdict
    assert marginals(Sampler(_Miscounted(1.0), 0.7, 20), Sampler("ddim", 0.7, 20)).found.wasserstein < 1e-13


@pytest.mark.parametrize(("factor", "eta"), by_day([(0.9, 0.3), (0.99, 1.0)], [(0.9, 0.3)]))
def test_a_wrong_noise_factor_is_another_distribution_on_a_gaussian(factor, eta):
    wrong = Sampler(_Miscounted(factor), eta, 20)
    against = [marginals(wrong, other) for other in (Sampler("ddim", eta, 20), Sampler("dpm++2m", steps=20), None)]
    assert not any(found.same for found in against)
    assert "different distributions: W2 stays at" in against[0].verdict
    # the flow has no noise to count
    assert marginals(Sampler(_Miscounted(factor), 0, 20), Sampler("ddim", 0, 20)).same


def test_the_distance_that_stays_is_proportional_to_the_missing_variance():
    floors = [
        marginals(Sampler(_Miscounted(f), 1, 20), Sampler("ddim", 1, 20)).found.slope.floor for f in (0.998, 0.999)
    ]
    assert floors[0] / floors[1] == pytest.approx((1 - 0.998**2) / (1 - 0.999**2), rel=2e-3)


def test_a_slip_in_the_eighth_digit_is_seen_against_the_method_itself():
    found = marginals(Sampler(_Miscounted(1 - 1e-8), 1, 20), Sampler("ddim", 1, 20))
    assert not found.same
    assert 1e-9 < found.found.wasserstein < 1e-7


def test_an_order_that_is_claimed_but_not_had_is_seen():
    flow, sde = (marginals(Sampler(_Boastful(), eta, 20), None) for eta in (0, 0.5))
    # on the flow its order is asked for, on the SDE its weak order
    assert (flow.found.expected, sde.found.expected) == (1, 2)
    assert (flow.same, sde.same) == (True, False)
    assert re.match(r"not shown to be one distribution: W2 falls at order (0.9|1.0)\d, not 2, ", sde.verdict)
    # of two orders the lower one
    assert marginals(Sampler(_Boastful(), 0.5, 20), Sampler("ddim", steps=20)).same


def test_a_function_that_declares_nothing_is_held_to_order_one():
    def euler(denoise, x, grid):
        schedule = sd.VPLinear()
        for t, s in grid.pairs():
            data, eps = denoise(t, x)
            x = x + (s - t) * (schedule.d_alpha(t) * data + schedule.d_sigma(t) * eps)
        return x

    found = marginals(Sampler(euler, steps=20), Sampler(sd.solvers.Euler(), steps=40, grid="time"))
    assert found.same
    assert str(found).startswith("euler (20 steps) and euler (40 steps): one distribution: W2 falls at order 1.0")
    assert "at 320 and 640 steps" in str(found)


def test_with_a_tolerance_only_the_given_steps_count():
    a, b = Sampler("ddim", 0.3, 20), Sampler("dpm++2m", steps=20)
    distance = marginals(a, b, tolerance=1).found.wasserstein
    above, below = (marginals(a, b, tolerance=factor * distance) for factor in (0.99, 1.01))
    assert (above.same, below.same) == (False, True)
    assert len(below.found.points) == 1
    assert "at 20 steps, above the tolerance" in above.verdict
    assert marginals(Sampler(_Miscounted(), 0.3, 20), None, tolerance=1.0).same


def test_a_wrong_noise_factor_is_another_distribution_on_a_mixture():
    found = marginals(Sampler(_Miscounted(0.8), 1.0, 40), Sampler("ddim", 1.0, 40), MIXTURE, n=1000)
    assert not found.same
    assert found.found.smallest.name.startswith("variance")
    assert found.verdict.startswith("different distributions: corrected p")


def test_right_samplers_show_no_difference_on_a_mixture_and_the_power_is_stated():
    found = marginals("rk45", Sampler("sde-dpm++2m", 1.0, 40), MIXTURE, n=1000, alternative=scaled(1.15))
    assert found.same
    assert "rk45 and sde-dpm++2m (eta = 1, 40 steps): no difference found: smallest corrected p" in str(found)
    assert "a standard deviation 15 % larger would be found with probability" in str(found)
    assert "at a false-alarm rate of 0.001" in str(found)
    assert found.found.power > 0.9
    assert found.found.sizes == (1000, 1000)


def test_the_two_samplers_are_given_different_starts_and_noises():
    # where the output is nearly all noise of the sampler, and where it is none
    for eta in (1.0, 0.0):
        solver = Sampler("sde-dpm++2m" if eta else "dpm++2m", eta, 30)
        energies = [
            marginals(solver, solver, LINE, n=200, alpha=0.05, seed=seed, t_start=0.999, t_end=0.01).found.energy
            for seed in range(4)
        ]
        # the mean over independent samples is 2 E|x - x'| / n
        expected = 2 * float(torch.pdist(LINE.sample(1000)).mean()) / 200
        assert 0.25 < np.mean(energies) / expected < 3


def test_a_data_set_and_the_exact_marginal_are_tested_too_and_an_alternative_may_be_named():
    options = {"n": 300, "alpha": 0.01, "alternative": shifted(0.5)}
    found = marginals("dpm++2m", None, sd.targets.Empirical(), **options)
    assert found.same
    assert str(found).startswith("dpm++2m (50 steps) and the exact marginal: no difference found")
    assert found.found.power > 0.9
    assert found.found.alternative == "a mean shifted by 0.5 standard deviations"
    assert marginals("dpm++2m", None, sd.targets.Empirical(), **options) == found
    assert marginals("dpm++2m", None, sd.targets.Empirical(), **options, seed=1) != found


def test_no_difference_is_found_where_there_is_none_but_at_the_false_alarm_rate():
    alpha, count = 0.05, 200
    found = [two_sample(x, y, alpha=alpha, seed=k) for k, (x, y) in enumerate(pairs(MIXTURE, 60, count))]
    least, most = stats.binom(count, alpha).ppf([0.001, 0.999])
    assert max(least, 1) <= sum(not test.same for test in found) <= most
    # the energy distance has half of it, and is exact
    p_values = np.array([p_of(test, "energy distance") for test in found])
    least, most = stats.binom(count, alpha / 2).ppf([0.001, 0.999])
    assert max(least, 1) <= (p_values <= alpha / 2).sum() <= most
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("target", "n", "change"),
    [
        pytest.param(MIXTURE, 150, scaled(1.25), marks=pytest.mark.nightly),
        pytest.param(LINE, 80, shifted(-0.5), marks=pytest.mark.nightly),
        # mean and variance are those of the target: the energy distance alone finds it
        (NORMAL, 26, Alternative("two points", torch.sign)),
    ],
    ids=["scaled", "shifted", "two points"],
)
def test_the_stated_power_is_the_rate_at_which_the_alternative_is_found(target, n, change):
    count, alpha = 150, 0.05
    stated = power(target.sample, change, n, alpha=alpha, replicates=count)
    rate = np.mean([not two_sample(x, change(y), alpha=alpha).same for x, y in pairs(target, n, count)])
    assert 0.2 < stated < 0.95
    assert abs(stated - rate) < 3 * math.sqrt(2 * rate * (1 - rate) / count)


def test_power_grows_with_the_samples_and_with_the_difference():
    few, many, far = (
        power(LINE.sample, scaled(by), n, alpha=0.05, replicates=40) for by, n in ((1.1, 100), (1.1, 900), (1.4, 100))
    )
    assert few < 0.5 < many
    assert few < far
    assert power(LINE.sample, Alternative("nothing", lambda x: x), 100, alpha=0.05, replicates=40) < 0.2


def test_the_energy_test_is_that_of_relabellings_one_by_one():
    x, y = normals(30, 2), 0.3 + normals(40, 2, seed=1)

    def energy(a, b):
        def mean(u, v):
            return float(np.linalg.norm(u[:, None] - v[None], axis=-1).mean())

        return 2 * mean(a, b) - mean(a, a) - mean(b, b)

    found, rng, pooled = two_sample(x, y), np.random.default_rng(5), np.concatenate((x, y))
    assert found.energy == pytest.approx(energy(x.numpy(), y.numpy()), rel=1e-7)
    shuffled = [rng.permutation(pooled) for _ in range(1000)]
    p = np.mean([energy(v[:30], v[30:]) >= found.energy for v in shuffled])
    assert 0.01 < p < 0.5
    assert p_of(found, "energy distance") == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 1000))
    assert two_sample(x, y).permutations == 1999


def test_the_energy_test_finds_what_two_moments_do_not_show():
    x, y = normals(400, 1), torch.sign(normals(400, 1, seed=1))
    found = two_sample(x, y)
    assert not found.same
    assert found.smallest.name == "energy distance"
    # the least p-value that 1999 relabellings can give, corrected, is the false-alarm rate
    assert found.smallest.corrected == pytest.approx(1e-3)


def test_the_moments_are_tested_by_welchs_test_about_the_common_mean():
    x, y = 3 + normals(50, 2), 3.1 + 1.2 * normals(80, 2, seed=1)
    found, centre = two_sample(x, y), torch.cat((x, y)).mean(0)
    a, b = (x - centre).numpy(), (y - centre).numpy()
    for name, u, v in (
        ("mean of entry 2", a[:, 1], b[:, 1]),
        ("variance of entry 1", a[:, 0] ** 2, b[:, 0] ** 2),
        ("covariance of entries 1 and 2", a[:, 0] * a[:, 1], b[:, 0] * b[:, 1]),
    ):
        assert p_of(found, name) == pytest.approx(stats.ttest_ind(u, v, equal_var=False).pvalue, rel=1e-9)
    corrected = {test.name: test.corrected for test in found.p_values}
    # half of the rate among five tests of moments, half for the energy distance
    for test in found.p_values:
        assert corrected[test.name] == min(1, test.p * (2 if test.name == "energy distance" else 10))


def test_a_correlation_alone_is_found():
    x, y = normals(1000, 3), normals(1000, 3, seed=1)
    y[:, 2] = 0.4 * y[:, 0] + math.sqrt(1 - 0.4**2) * y[:, 2]
    assert two_sample(x, y).smallest.name == "covariance of entries 1 and 3"


@pytest.mark.parametrize(("shape", "tests"), [((1,), 3), ((10,), 66), ((11,), 23), ((2, 3, 4), 49)])
def test_all_products_are_tested_up_to_ten_entries_and_squares_beyond(shape, tests):
    found = two_sample(normals(40, *shape), normals(30, *shape, seed=1).float())
    assert len(found.p_values) == tests
    assert found.sizes == (40, 30)


def test_an_entry_that_is_constant_raises_no_alarm_until_it_differs():
    x, y = (torch.cat((normals(50, 1, seed=k), torch.full((50, 1), 0.1)), 1) for k in (0, 1))
    assert two_sample(x, y + torch.tensor([0.0, 1e-16])).same
    assert two_sample(x, y + torch.tensor([0.0, 1e-3])).smallest.name == "mean of entry 2"


@pytest.mark.nightly
def test_more_samples_than_the_energy_distance_holds_are_used_by_the_moments():
    x, y = normals(5000, 1), 1.1 * normals(5000, 1, seed=1)
    found = two_sample(x, y, alpha=0.01)
    assert found.smallest.name == "variance of entry 1"
    assert found.smallest.p == pytest.approx(stats.ttest_ind(x**2, y**2, equal_var=False).pvalue.item(), rel=0.1)
    # which of them the energy distance sees is random, as are its relabellings
    assert p_of(found, "energy distance") != p_of(two_sample(x, y, alpha=0.01, seed=1), "energy distance")


def test_ready_alternatives_do_what_their_names_say():
    x = normals(100, 2) + 1
    y, z = scaled(0.9)(x), shifted(0.1)(x)
    torch.testing.assert_close(y.std(0), 0.9 * x.std(0))
    torch.testing.assert_close(y.mean(0), x.mean(0))
    torch.testing.assert_close(z.mean(0), x.mean(0) + 0.1 * x.std(0))
    assert scaled(0.9).name == "a standard deviation 10 % smaller"


X = normals(30, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: marginals(None, "ddim"), TypeError, "None is not a solver"),
        (lambda: marginals("ddim", sd.DDIM), TypeError, r"write DDIM\(\)"),
        (lambda: marginals("dimm", None), ValueError, "did you mean 'ddim'"),
        (lambda: marginals("ddim", None, "normal"), TypeError, "target = 'normal': give a Gaussian"),
        (lambda: marginals("rk45", None), ValueError, "chooses its steps from values.*GaussianMixture"),
        (
            lambda: marginals("ddim", None, n=100),
            TypeError,
            "n = 100: distributions on a Gaussian are known without samples",
        ),
        (lambda: marginals("ddim", None, alpha=0.1), TypeError, "alpha = 0.1.*drop alpha="),
        (lambda: marginals("ddim", None, tolerance=-1.0), ValueError, "tolerance = -1.0"),
        (lambda: marginals("ddim", None, MIXTURE, tolerance=0.1), TypeError, "tolerance = 0.1: only on a Gaussian"),
        (lambda: marginals("ddim", None, MIXTURE, n=5), ValueError, "n = 5: give 20 or more"),
        (lambda: marginals("ddim", None, MIXTURE, n=50.0), TypeError, "n = 50.0: give a whole number"),
        (lambda: marginals("ddim", None, MIXTURE, seed=-1), ValueError, "seed = -1"),
        (lambda: marginals("ddim", None, MIXTURE, alpha=1e-9), ValueError, "alpha = 1e-09: .* between 1e-4 and 0.5"),
        (lambda: marginals("ddim", None, MIXTURE, alternative=1.05), TypeError, r"such as scaled\(1.05\)"),
        (lambda: marginals("ddim", None, t_start=0.1, t_end=0.5), ValueError, "t_end < t_start"),
        (lambda: marginals(Sampler("ddpm", 0.5), None), ValueError, "eta = 0.5: use DDIM"),
        (lambda: marginals(Sampler("heun", 0.5), None), TypeError, "solves ProbabilityFlow, not ReverseSDE"),
        (lambda: marginals(Sampler("rk45", grid="karras"), None, MIXTURE), TypeError, "drop steps= and spacing="),
        (lambda: Sampler(3), TypeError, "3 is not a solver"),
        (lambda: Sampler("ddim", -0.5), ValueError, "eta = -0.5"),
        (lambda: Sampler("ddim", float("nan")), ValueError, "eta = nan"),
        (lambda: Sampler("ddim", steps=0), ValueError, "steps = 0: give 1 or more"),
        (lambda: Sampler("ddim", steps=2.5), TypeError, "steps = 2.5: give a whole number"),
        (lambda: Sampler("ddim", grid=[1.0, 0.5]), TypeError, "its ends are t_start= and t_end="),
        (lambda: two_sample(X, X[:10]), ValueError, r"y has shape \(10, 2\): give at least 20 samples"),
        (lambda: two_sample(X, X[:, :1]), ValueError, r"samples of shape \(2,\), y of \(1,\)"),
        (lambda: two_sample(X, X.long()), TypeError, "y wants a floating tensor.*int64"),
        (lambda: two_sample(X.numpy(), X), TypeError, "x wants a floating tensor.*ndarray"),
        (lambda: two_sample(X, X * torch.nan), ValueError, "sample 0 of y is not finite"),
        (lambda: two_sample(X, X, alpha=0.9), ValueError, "alpha = 0.9"),
        (lambda: two_sample(X, X, seed=0.5), TypeError, "seed = 0.5"),
        (lambda: power(LINE.sample, scaled(), 50, replicates=0), ValueError, "replicates = 0"),
        (lambda: power(LINE.sample, Alternative("less", lambda x: x[:1]), 50), ValueError, "'less' makes"),
        (lambda: scaled(1), ValueError, "factor = 1"),
        (lambda: shifted(0), ValueError, "by = 0"),
    ],
)
def test_it_is_refused_with_the_reason(call, error, words):
    with pytest.raises(error, match=words):
        call()
