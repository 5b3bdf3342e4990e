"""Every schedule is two functions, and all the rest agrees with them."""

import discovery
import numpy as np
import pytest
from discovery import label

import scorediff as sd

SCHEDULES = [*discovery.SCHEDULES, sd.RectifiedFlow(shift=3.0)]
SQUARED_COSINE = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
CAPPED = tuple(np.minimum(1 - SQUARED_COSINE[1:] / SQUARED_COSINE[:-1], 0.999))
SQUARED = tuple(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
TABLES = {
    "capped cosine": sd.VPDiscrete(CAPPED),
    "squares": sd.VPDiscrete(SQUARED),
    "squares to pure noise": sd.schedules.ZeroTerminalSNR(SQUARED),
    "short": sd.VPDiscrete(tuple(np.linspace(1e-3, 0.2, 50))),
    "rough": sd.VPDiscrete(tuple(np.where(np.arange(100) % 2, 1e-4, 0.05))),
}
NAMED = [*((label(s), s) for s in SCHEDULES), *TABLES.items()]
every_schedule = pytest.mark.parametrize("schedule", [s for _, s in NAMED], ids=[name for name, _ in NAMED])


def times(schedule, n=400):
    lo, hi = schedule.domain
    near = (hi - lo) * np.logspace(-5, -1, n)
    return np.unique(np.concatenate([lo + near, hi - near, np.linspace(lo, hi, n)[1:-1]]))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_time_at_inverts_log_snr(schedule):
    t = times(schedule)
    log_snr = schedule.log_snr(t)
    error = np.abs(schedule.time_at(log_snr) - t) / t
    assert error.max() < 1e-9
    assert error[np.abs(log_snr) <= 4].max() < 1e-13


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_the_generic_bisection_is_the_inverse_too(schedule):
    t = times(schedule, 50)
    error = np.abs(sd.schedules.Schedule._invert(schedule, schedule.log_snr(t)) - t) / t
    assert error[np.abs(schedule.log_snr(t)) <= 4].max() < 1e-13


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_f_and_g2_are_derivatives_of_alpha_and_sigma(schedule):
    lo, hi = schedule.domain
    t = np.linspace(lo, hi, 43)[1:-1]
    h = 1e-3 * np.minimum(t - lo, hi - t)

    def slope(fn):  # a central difference of order 6
        return sum(w * (fn(t + k * h) - fn(t - k * h)) for k, w in ((1, 0.75), (2, -0.15), (3, 1 / 60))) / h

    f = slope(lambda u: np.log(schedule.alpha(u)))
    g2 = slope(lambda u: schedule.sigma(u) ** 2) - 2 * f * schedule.sigma(t) ** 2
    np.testing.assert_allclose(schedule.f(t), f, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(schedule.g2(t), g2, rtol=1e-7)
    np.testing.assert_allclose(schedule.d_alpha(t), slope(schedule.alpha), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(schedule.d_sigma(t), slope(schedule.sigma), rtol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_g2_is_minus_twice_sigma_squared_times_the_slope_of_the_log_snr(schedule):
    lo, hi = schedule.domain
    t = np.linspace(lo, hi, 43)[1:-1]
    h = 1e-4 * np.minimum(t - lo, hi - t)
    slope = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    np.testing.assert_allclose(schedule.g2(t), -2 * schedule.sigma(t) ** 2 * slope, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_a_float_and_an_array_give_the_same_number(schedule):
    t = schedule.t_end + 0.3 * (schedule.t_start - schedule.t_end)
    for fn in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.f, schedule.g2, schedule.prior_std):
        assert isinstance(fn(t), float)
        np.testing.assert_allclose(fn(np.array([t, t])), fn(t), rtol=1e-15)
    assert isinstance(schedule.time_at(schedule.log_snr(t)), float)


@every_schedule
def test_every_value_of_an_array_is_the_one_found_alone_bit_for_bit(schedule):
    lo, hi = schedule.t_end, schedule.t_start
    # halves too, and what lies right below them: there floats are twice as dense
    halves = 2.0 ** -np.arange(1, 9) * (1 - 2.0**-53 * np.arange(5)[:, None])
    t = np.concatenate([np.random.default_rng(0).uniform(lo, hi, 150), halves[(halves > lo) & (halves < hi)]])
    plain = [(schedule.alpha, t), (schedule.sigma, t), (schedule.log_snr, t), (schedule.time_at, schedule.log_snr(t))]
    slopes = [(fn, t) for fn in (schedule.d_alpha, schedule.d_sigma, schedule.f, schedule.g2)]
    for i, (fn, values) in enumerate(plain + slopes):
        found = fn(values)
        assert np.array_equal(found, np.concatenate([fn(values[n : n + 1]) for n in range(len(t))])), fn
        assert np.array_equal(found[::-3], fn(values[::-3])) and np.array_equal(found[:7], fn(values[:7])), fn
        # numpy multiplies complex numbers by other instructions where they are not in an array
        alone = np.array([fn(float(v)) for v in values])
        np.testing.assert_allclose(alone, found, rtol=0 if i < len(plain) else 1e-12)


@pytest.mark.parametrize("schedule", [sd.VPLinear(), sd.VPCosine(), sd.VPDiscrete()], ids=label)
def test_variance_preserving_means_alpha_squared_plus_sigma_squared_is_one(schedule):
    t = times(schedule)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-14)


@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.1])
def test_small_sigmas_keep_their_digits(t):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        u, k = mpmath.mpf(t), mpmath.pi / 2 / (1 + mpmath.mpf(0.008))
        linear = mpmath.sqrt(1 - mpmath.exp(-(u**2) * (20 - mpmath.mpf(0.1)) / 2 - u * mpmath.mpf(0.1)))
        cosine = mpmath.sqrt(1 - (mpmath.cos((u + mpmath.mpf(0.008)) * k) / mpmath.cos(mpmath.mpf(0.008) * k)) ** 2)
    assert sd.VPLinear().sigma(t) == pytest.approx(float(linear), rel=1e-14)
    assert sd.VPCosine().sigma(t) == pytest.approx(float(cosine), rel=1e-13)


def test_the_ddpm_table_is_met_at_its_rows():
    schedule = sd.VPDiscrete()
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    rows = (np.arange(1000) + 1) / 1000
    np.testing.assert_allclose(schedule.alpha(rows) ** 2, alphas_cumprod, rtol=1e-12)
    np.testing.assert_allclose(schedule.index(rows), np.arange(1000), atol=1e-9)
    assert schedule.smoothness == 4
    again = sd.VPDiscrete.from_alphas_cumprod(alphas_cumprod)
    np.testing.assert_allclose(again.log_snr(rows), schedule.log_snr(rows), rtol=1e-9)


def test_a_rough_table_stays_monotone_and_says_how_smooth_it_is():
    betas = np.where(np.arange(100) % 2, 1e-4, 0.05)
    schedule = sd.VPDiscrete(tuple(betas))
    assert schedule.smoothness == 1
    assert np.all(np.diff(schedule.log_snr(np.linspace(*schedule.domain, 5000))) < 0)


def test_the_cosine_table_with_its_clipped_betas_works():
    schedule = sd.VPDiscrete(CAPPED)
    assert np.all(np.diff(schedule.log_snr(np.linspace(*schedule.domain, 5000))) < 0)
    assert np.all(np.diff(sd.spacings.Karras()(schedule, 50).times) < 0)


def test_zero_terminal_snr_is_the_rescaled_table_of_its_paper():
    root = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    schedule, rows = sd.schedules.ZeroTerminalSNR(), (np.arange(1000) + 1) / 1000
    np.testing.assert_allclose(schedule.alpha(rows), rescaled, atol=1e-14)
    np.testing.assert_allclose(schedule.sigma(rows), np.sqrt(1 - rescaled**2), rtol=1e-11)
    assert schedule.alpha(1.0) == 0.0
    assert schedule.log_snr(1.0) == -np.inf
    assert schedule.t_start == 0.999
    np.testing.assert_allclose(schedule.index(rows), np.arange(1000), atol=1e-9)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: sd.EDM(sigma_min=2.0, sigma_max=1.0), "empty time domain"),
        (lambda: sd.VE(sigma_min=1.0, sigma_max=1.0), "does not fall"),
        (lambda: sd.VPLinear(beta_min=-1.0, beta_max=0.5), "not finite"),
        (lambda: sd.RectifiedFlow(shift=-1.0), "t = "),
        (lambda: sd.VPDiscrete((0.1, 0.2, 0.3, 0.4, 0.5, 1.0)), r"beta\[5\] = 1 is outside"),
        (lambda: sd.VPDiscrete((0.1,)), "at least 2"),
        (
            lambda: sd.schedules.CustomSchedule(alpha=lambda t: 1 - t, sigma=lambda t: t * (1 - t), domain=(0.0, 1.0)),
            "log-SNR",
        ),
        (lambda: sd.schedules.CustomSchedule(domain=(1.0, 0.0)), "empty time domain"),
        (lambda: sd.schedules.CustomSchedule(sigma=lambda t: np.abs(t)), "complex step"),
        (lambda: sd.schedules.CustomSchedule(alpha=lambda t: __import__("math").cos(t)), "numpy functions"),
    ],
)
def test_a_schedule_that_cannot_be_one_is_refused_with_the_reason(make, word):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=word):
        make()


def test_a_log_snr_that_the_domain_does_not_reach_is_refused():
    with pytest.raises(ValueError, match="log-SNR 9 is outside"):
        sd.EDM().time_at(9.0)
