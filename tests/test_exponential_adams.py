"""Exponential Adams of variable step and order: errors that follow the tolerance, samples that know of no other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from discovery import CONTROLLERS, SCHEDULES, by_day, label
from scipy.integrate import quad
from shared import shared

import scorediff as sd
from scorediff.denoiser import PairOutput, Rescheduled
from scorediff.linear_parts import DataPart, GaussianPart, NoisePart, Preconditioned
from scorediff.solvers import ExponentialRungeKutta32, ExponentialRungeKutta43
from scorediff.solvers.adaptive.newton import Integrals
from scorediff.study import reference

SCHEDULE = sd.VPLinear()
ANGLES = 2 * np.pi * np.arange(8) / 8
RING = sd.targets.GaussianMixture(
    np.arange(1.0, 9.0) / 36, 1.5 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1), np.geomspace(0.01, 0.1, 8)
)
MODES = sd.targets.GaussianMixture(
    np.full(12, 1 / 12), np.random.default_rng(0).standard_normal((12, 64)), np.full(12, 0.1)
)
NARROW = sd.targets.GaussianMixture(
    (0.5, 0.5),
    np.pad([[2.0, -1.0], [-1.0, 3.0]], ((0, 0), (0, 30))),
    np.pad([[1.0, 0.3], [0.2, 2.0]], ((0, 0), (0, 30)), constant_values=4e-4),
)
PARTS = [
    Preconditioned(),
    DataPart(),
    NoisePart(),
    GaussianPart.fit(RING.sample(1000), 2),
]


TARGETS = {"ring": RING, "modes": MODES, "narrow": NARROW}


def posed(target, n, schedule=SCHEDULE):
    flow = sd.ProbabilityFlow(target.denoiser(schedule))
    x = target.at(schedule, schedule.t_start).sample(n)
    known = next((name for name, known in TARGETS.items() if known is target), None)
    return flow, x, reference(flow, x).x if known is None else truth(known, n, schedule)


@shared
def truth(name, n, schedule):
    flow = sd.ProbabilityFlow(TARGETS[name].denoiser(schedule))
    return reference(flow, TARGETS[name].at(schedule, schedule.t_start).sample(n)).x


def rms(v):
    return v.flatten(1).square().mean(1).sqrt().numpy()


@pytest.mark.parametrize(
    ("target", "part"),
    [
        (RING, Preconditioned(1.04)),
        pytest.param(MODES, Preconditioned(), marks=pytest.mark.nightly),
        pytest.param(RING, GaussianPart.fit(RING.sample(2000), 1), marks=pytest.mark.nightly),
        (NARROW, GaussianPart.fit(NARROW.sample(2000), 2)),
    ],
    ids=["ring", "modes", "ring, Gaussian", "narrow, Gaussian"],
)
def test_the_error_stays_within_ten_tolerances_and_falls_in_proportion_and_is_known(target, part):
    flow, x, truth = posed(target, 48)
    found, below = [], []
    for rtol in 10.0 ** -np.arange(2, 9):
        solution = sd.solve(flow, x, sd.ExponentialAdams(rtol, part=part)).check()
        error = rms(solution.x - truth)
        assert np.sqrt(np.mean(error**2)) < 10 * rtol * part.data_std
        assert np.quantile(error, 0.95) < 10 * rtol * part.data_std
        below.append(np.mean(error > solution.error))
        found.append(np.sqrt(np.mean(error**2)))
    assert np.mean(below) < 0.05 and max(below) < 0.15
    slope = np.polyfit(-np.arange(2, 9), np.log10(found), 1)[0]
    assert 0.8 < slope < 1.25


@pytest.mark.parametrize(
    ("target", "wanted"), [(RING, (12, 18, 27, 52)), (MODES, (15, 22, 33, 69))], ids=["ring", "modes"]
)
def test_so_few_evaluations_are_enough(target, wanted):
    flow, x, truth = posed(target, 48)
    scale = float(target.sample(256, 1).square().mean().sqrt())
    for most, error in zip(wanted, (1e-2, 1e-3, 1e-4, 1e-6), strict=True):
        solution = sd.solve(flow, x, sd.ExponentialAdams(error))
        assert solution.evaluations.mean() < most
        assert np.sqrt(np.mean(rms(solution.x - truth) ** 2)) < 2 * error * scale


@pytest.mark.parametrize("part", PARTS, ids=label)
@pytest.mark.parametrize("schedule", by_day(SCHEDULES, (sd.schedules.SubVP(),)), ids=label)
def test_every_linear_part_converges_on_every_schedule(schedule, part):
    flow, x, truth = posed(RING, 16, schedule)
    solution = sd.solve(flow, x, sd.ExponentialAdams(1e-7, part=part)).check()
    assert np.median(rms(solution.x - truth)) < 1e-5


def test_a_gaussian_is_solved_exactly_with_its_own_part():
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    variances = np.concatenate([[9.0, 4.0, 0.25], np.full(9, 1e-3)])
    target = sd.targets.Gaussian(rng.standard_normal(12), basis * variances @ basis.T)
    part = GaussianPart(target.mean, basis[:, :3], variances[:3], 1e-3)
    flow = sd.ProbabilityFlow(target.denoiser(SCHEDULE))
    x = target.at(SCHEDULE, 1.0).sample(5)
    solution = sd.solve(flow, x, sd.ExponentialAdams(1e-3, part=part)).check()
    torch.testing.assert_close(solution.x, target.flow(SCHEDULE, 1.0, 1e-3, x), rtol=1e-9, atol=1e-9)
    assert solution.evaluations.max() < 12


def test_fit_finds_the_mean_the_wide_directions_and_the_rest():
    part = GaussianPart.fit(NARROW.sample(20_000), 2)
    data = NARROW.sample(20_000, 1).flatten(1)
    kept = data @ part.directions
    assert kept.var(0).sum() == pytest.approx(float(part.variances.sum()), rel=0.05)
    assert part.rest == pytest.approx(4e-4, rel=0.05)
    assert part.data_std == pytest.approx(float(data.var(0).mean().sqrt()), rel=0.05)
    torch.testing.assert_close(part.directions.T @ part.directions, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("part", PARTS, ids=label)
def test_the_integrals_of_a_step_are_those_of_quadrature(part):
    solver = sd.ExponentialAdams(part=part)
    tau = solver.polynomials_in
    nodes = np.array([[0.9, 1.1, 1.25]]) * float(tau.of(1.0, 2.0))
    start, stop = nodes[:, 0], nodes[:, 0] * 0.8
    found = Integrals.over(part, tau, solver.scale, start, stop, nodes)
    for i in range(4):

        def integrand(s, i=i):
            return part.slope(np.array([[s]]))[0][0, 0] * np.prod(tau.of(1.0, s) - nodes[0, :i])

        exact = quad(integrand, tau.ratio(start[0]), tau.ratio(stop[0]), epsabs=1e-13, epsrel=1e-12)[0]
        assert found.g[0][0, i, 0] == pytest.approx(exact, rel=1e-9)
        assert found.products[0, i] == pytest.approx(np.prod(stop[0] - nodes[0, :i]))


@pytest.mark.parametrize("part", by_day(PARTS[:3], PARTS[:1]), ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hard_sample_among_easy_ones_costs_them_nothing_bit_for_bit(part, dtype):
    # rows apart: what the network makes of one does not depend on the others
    def net(x, t, hard):
        # by sums and products alone: torch's tanh differs in the last digits in another batch
        u = (2 * t - 1) ** 2
        wave = (((128 * u - 256) * u + 160) * u - 32) * u + 1
        return 0.2 * x + torch.where(hard[:, None], 0.3, 0.0) * wave[:, None] * x

    flow = sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))
    x, hard = sd.prior(SCHEDULE, (64, 5), dtype=dtype), torch.arange(64) == 17
    solver = sd.ExponentialAdams(1e-4, part=part)

    def run(rows):
        return sd.solve(flow, x[rows], solver, cond={"hard": hard[rows]}).check()

    together, order = run(torch.arange(64)), torch.randperm(64, generator=torch.manual_seed(0))
    others = torch.arange(64)[~hard]
    without, shuffled = run(others), run(order)
    assert together.evaluations[17] > 1.3 * together.evaluations[others.numpy()].max()
    assert torch.equal(together.x[others], without.x)
    assert np.array_equal(together.evaluations[others.numpy()], without.evaluations)
    assert torch.equal(together.x[order], shuffled.x)
    for i in (0, 17, 40):
        alone = run(torch.tensor([i]))
        assert torch.equal(together.x[i : i + 1], alone.x)
        assert together.evaluations[i] == alone.evaluations[0] and together.error[i] == alone.error[0]
    # finished samples leave the batch
    assert together.rows == together.evaluations.sum() < 64 * together.calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gaussian_part_is_bit_for_bit_too(dtype):
    # 17 directions: products of a matrix and a row, whose sizes are not multiples of anything
    target, part = NARROW, GaussianPart.fit(NARROW.sample(500), 17)
    flow = sd.ProbabilityFlow(
        sd.Denoiser(lambda x, t: x / (1 + x * x) * (1 + t[:, None]), SCHEDULE, sd.NoisePrediction())
    )
    x, solver = target.at(SCHEDULE, 1.0).sample(9).to(dtype), sd.ExponentialAdams(0.1, part=part)
    together = sd.solve(flow, x, solver).check()
    for i in range(9):
        assert torch.equal(sd.solve(flow, x[i : i + 1], solver).x, together.x[i : i + 1])
    assert sd.solve(flow, x[:0], solver).x.shape == (0, 32)


def test_the_gaussian_part_takes_images():
    images = sd.targets.GaussianMixture((0.5, 0.5), torch.randn(2, 1, 4, 4, generator=torch.manual_seed(2)), 0.1)
    flow, x, truth = posed(images, 4)
    solution = sd.solve(flow, x, sd.ExponentialAdams(1e-6, part=GaussianPart.fit(images.sample(200), 5))).check()
    assert np.median(rms(solution.x - truth)) < 1e-5


def test_save_times_are_met_by_the_polynomial_and_cost_nothing():
    flow, x, _ = posed(RING, 8)
    times = [1.0, 0.83, 0.5, 0.49, 0.1, 0.02, SCHEDULE.t_end]
    plain = sd.solve(flow, x, sd.ExponentialAdams(1e-7)).check()
    saved = sd.solve(flow, x, sd.ExponentialAdams(1e-7), save=times).check()
    exact = sd.solve(flow, x, sd.RK45(1e-10, 1e-10), save=times).check()
    assert np.array_equal(plain.evaluations, saved.evaluations) and torch.equal(plain.x, saved.x)
    for t, state, truth in zip(times, saved.states, exact.states, strict=True):
        assert rms(state - truth).max() < 1e-5, t
    torch.testing.assert_close(saved.states[-1], saved.x)


CLOSE = [
    sd.ExponentialAdams(1e-7), ExponentialRungeKutta32(1e-5), sd.RK45(1e-8, 1e-8), ExponentialRungeKutta43(1e-6),
    sd.solvers.RK23(1e-6, 1e-6),
]  # fmt: skip


@pytest.mark.parametrize("solver", by_day(CLOSE, CLOSE[:3]), ids=label)
def test_a_break_is_stepped_to_and_never_over(solver):
    class Guided(sd.DenoiserBase):
        """Twice the noise inside an interval of time."""

        schedule, discontinuities = SCHEDULE, (0.3, 0.6)

        def __init__(self):
            self.ring, self.asked = RING.denoiser(SCHEDULE), []

        def evaluate(self, t, x, cond):
            self.asked.append(np.broadcast_to(t, (len(x),)))
            data, noise = self.ring(t, x)
            inside = torch.from_numpy(
                np.broadcast_to((np.asarray(t) >= 0.3) & (np.asarray(t) <= 0.6), (len(x),)).copy()
            )
            extra = torch.where(inside[:, None], 0.3, 0.0) * torch.tanh(x)
            ratio = torch.as_tensor(np.exp(-np.asarray(SCHEDULE.log_snr(t)))).reshape(-1, 1)
            return PairOutput(x, data - extra * ratio, noise + extra)

    guided = Guided()
    flow = sd.ProbabilityFlow(guided)
    x = RING.at(SCHEDULE, 1.0).sample(6)
    solution = sd.solve(flow, x, solver, save=[0.6, 0.45]).check()
    asked = np.concatenate(guided.asked)
    # every sample asks on either side; a method that has no stage at the end of its step on the far one alone
    sides = (-1,) if isinstance(solver, ExponentialRungeKutta32) else (1, -1)
    for b in guided.discontinuities:
        for side in sides:
            assert np.sum(asked == np.nextafter(b, side * 9)) >= 6
    assert not np.any(np.isin(asked, guided.discontinuities))
    # within each segment nothing jumps
    y = x
    for a, b in (
        (1.0, np.nextafter(0.6, 1)),
        (np.nextafter(0.6, 0), np.nextafter(0.3, 1)),
        (np.nextafter(0.3, 0), 1e-3),
    ):
        y = sd.solve(flow, y, sd.RK45(1e-11, 1e-11), t_start=a, t_end=b).check().x
    assert np.median(rms(solution.x - y)) < 2e-5
    assert torch.isfinite(solution.states).all()


@pytest.mark.parametrize("part", by_day(PARTS, PARTS[:2]), ids=label)
def test_encode_then_sample_comes_back(part):
    flow, x = sd.ProbabilityFlow(RING.denoiser(SCHEDULE)), RING.at(SCHEDULE, SCHEDULE.t_end).sample(8)
    solver = sd.ExponentialAdams(1e-9, part=part)
    latent = sd.encode(flow, x, solver).check()
    assert np.all(latent.t == SCHEDULE.t_start)
    torch.testing.assert_close(sd.solve(flow, latent.x, solver).x, x, rtol=1e-5, atol=1e-5)


def test_it_starts_where_alpha_is_zero():
    schedule = sd.RectifiedFlow()
    flow = sd.ProbabilityFlow(RING.denoiser(schedule))
    x = torch.randn(16, 2, dtype=torch.float64, generator=torch.manual_seed(1))
    from_zero = sd.solve(flow, x, sd.ExponentialAdams(1e-7), t_start=1.0).check().x
    near = sd.solve(flow, x, sd.ExponentialAdams(1e-7), t_start=1 - 1e-9).check().x
    assert np.median(rms(from_zero - near)) < 1e-6


def test_the_noise_alone_does_not():
    flow = sd.ProbabilityFlow(RING.denoiser(sd.RectifiedFlow()))
    with pytest.raises(ValueError, match=r"log-SNR, which is infinite at t = 1"):
        sd.sample(flow, (2, 2), sd.ExponentialAdams(part=NoisePart()), t_start=1.0)


@pytest.mark.parametrize("part", PARTS, ids=label)
def test_the_end_may_lie_close_to_the_data(part):
    target = sd.targets.GaussianMixture((0.5, 0.5), ((1.0, -0.5), (-0.6, 0.8)), (0.3, 0.4))
    flow = sd.ProbabilityFlow(target.denoiser(SCHEDULE))
    x = target.at(SCHEDULE, 1.0).sample(16)
    truth = sd.solve(flow, x, sd.RK45(1e-10, 1e-10), t_end=1e-7).check().x
    solution = sd.solve(flow, x, sd.ExponentialAdams(1e-2, part=part), t_end=1e-7).check()
    assert np.quantile(rms(solution.x - truth), 0.8) < 0.1


ADAPTIVE = [
    sd.ExponentialAdams(1e-3), ExponentialRungeKutta43(1e-3), ExponentialRungeKutta32(1e-3), sd.RK45(1e-4, 1e-4),
    sd.solvers.RK23(1e-3, 1e-3),
]  # fmt: skip


@pytest.mark.parametrize("solver", ADAPTIVE, ids=label)
def test_what_a_denoiser_is_given_is_left_alone_and_what_it_returns_may_be_written_over(solver):
    class Reusing:
        schedule = SCHEDULE

        def __init__(self):
            self.inner, self.kept, self.buffers = RING.denoiser(SCHEDULE), [], {}

        def __call__(self, t, x, **cond):
            self.kept.append((x, x.clone()))
            data, noise = self.buffers.setdefault(len(x), (torch.empty_like(x), torch.empty_like(x)))
            for buffer, value in zip((data, noise), self.inner(t, x), strict=True):
                buffer.copy_(value)
            return data, noise

    reusing = Reusing()
    x = RING.at(SCHEDULE, 1.0).sample(5)
    found = sd.solve(sd.ProbabilityFlow(reusing), x, solver).check()
    assert torch.equal(found.x, sd.solve(sd.ProbabilityFlow(reusing.inner), x, solver).x)
    assert all(torch.equal(given, copy) for given, copy in reusing.kept)


@pytest.mark.parametrize("solver", by_day(ADAPTIVE, ADAPTIVE[:2]), ids=label)
def test_a_budget_is_never_exceeded_and_a_short_first_segment_costs_little(solver):
    class Broken(sd.DenoiserBase):
        schedule, discontinuities = SCHEDULE, (0.9, 0.6, 0.6 - 1e-16, 0.3, float(np.nextafter(1, 0)))

        def evaluate(self, t, x, cond):
            return RING.denoiser(SCHEDULE)(t, x)

    x = RING.at(SCHEDULE, 1.0).sample(3)
    flow = sd.ProbabilityFlow(Broken())
    needed = sd.solve(flow, x, solver).check().evaluations
    for budget in (*range(10, 20), int(needed.min()), int(needed.max()) - 1):
        assert sd.solve(flow, x, solver, max_evaluations=budget).evaluations.max() <= budget
    flow = sd.ProbabilityFlow(RING.denoiser(SCHEDULE))
    plain = sd.solve(flow, x, solver).check()
    short = sd.solve(flow, x, solver, save=[1 - 1e-9, np.nextafter(1.0, 0)]).check()
    assert np.all(short.evaluations <= plain.evaluations + 25)


def test_a_break_is_known_on_another_schedule():
    class Jumping(sd.DenoiserBase):
        schedule, discontinuities = SCHEDULE, (0.5,)

        def evaluate(self, t, x, cond):
            return RING.denoiser(SCHEDULE)(t, x)

    (found,) = Rescheduled(Jumping(), sd.VPCosine()).discontinuities
    assert sd.VPCosine().log_snr(found) == pytest.approx(SCHEDULE.log_snr(0.5))


def test_orders_rise_and_stay_within_what_is_allowed():
    flow, x, _ = posed(RING, 4)
    for largest in (1, 3, 8):
        orders = []
        sd.solve(
            flow, x, sd.ExponentialAdams(1e-5, largest_k=largest), callback=lambda s, seen=orders: seen.append(s.order)
        ).check()
        assert np.max(orders) == largest + 1


def test_what_goes_wrong_is_a_status_and_a_state():
    flow, x, _ = posed(RING, 3)
    short = sd.solve(flow, x, sd.ExponentialAdams(1e-9), max_evaluations=20)
    assert np.all(short.status == sd.Status.BUDGET_EXHAUSTED) and np.all(short.evaluations == 20)
    assert np.all(short.t > SCHEDULE.t_end) and torch.isfinite(short.x).all()

    def net(x, t):
        return torch.where((x[:, :1] > 50) & (t[:, None] < 0.5), torch.nan, torch.tanh(x))

    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    x[3] = 100.0
    flow = sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))
    solution = sd.solve(flow, x, sd.ExponentialAdams(1e-4))
    assert solution.status.tolist() == [0, 0, 0, sd.Status.NON_FINITE, 0, 0, 0, 0] and torch.isfinite(solution.x).all()

    def jumps(x, t):
        return torch.where(t[:, None] < 0.5, 10.0, -10.0) * torch.ones_like(x)

    flow = sd.ProbabilityFlow(sd.Denoiser(jumps, SCHEDULE, sd.NoisePrediction()))
    solution = sd.sample(flow, (2, 2), sd.ExponentialAdams(1e-12), dtype=torch.float64, max_evaluations=3000)
    assert set(solution.status.tolist()) <= set(map(int, sd.Status)) - {sd.Status.RUNNING}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_carries_its_history_in_float32(dtype):
    flow = sd.ProbabilityFlow(sd.Denoiser(lambda x, t: 0.5 * x, SCHEDULE, sd.NoisePrediction()))
    x = torch.randn(4, 8, generator=torch.manual_seed(0))
    half = sd.solve(flow, x.to(dtype), sd.ExponentialAdams(0.1)).check()
    assert half.x.dtype == dtype
    full = sd.solve(flow, x, sd.ExponentialAdams(1e-4)).check()
    assert ((half.x.float() - full.x) / full.x.std()).abs().max() < 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sd.ExponentialAdams(part="data"), r"part = 'data' of ExponentialAdams: give a LinearPart"),
        (lambda: sd.ExponentialAdams(largest_k=0), r"largest_k = 0: 1 to 12"),
        (lambda: Preconditioned(0.0), r"data_std = 0.0: give the data's standard deviation"),
        (lambda: GaussianPart.fit(torch.randn(1, 3), 1), r"give two samples or more"),
        (lambda: GaussianPart.fit(torch.randn(5, 3), 4), r"rank = 4: 5 samples of 3 entries tell of 1 to 3"),
        (lambda: GaussianPart([0.0, 0.0], [[1.0], [0.0]], [-1.0]), r"variances\[0\] is -1"),
        (lambda: GaussianPart([0.0, 0.0], [[1.0]], [1.0]), r"directions has shape \(1, 1\); it wants \(2, 1\)"),
        (lambda: sd.solvers.IController(safety=2.0), r"safety = 2.0 of the controller"),
        (lambda: sd.solvers.IController(grow=0.5), r"grow = 0.5 of the controller"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_the_mean_of_the_data_must_have_the_shape_of_a_sample():
    flow, x, _ = posed(RING, 2)
    with pytest.raises(ValueError, match=r"the mean of the data"):
        sd.solve(flow, x, sd.ExponentialAdams(part=GaussianPart.fit(torch.randn(9, 3), 1)))


# --- the controller, and pairs without a history ---


def test_the_controller_keeps_its_limits():
    c, one, no = sd.solvers.IController(safety=0.9), np.ones(1), np.zeros(1, dtype=bool)
    assert c.step_factor(np.array([1e-5]), 5, (one, one)) == pytest.approx(9.0)
    assert c.within(np.array([9.0]), ~no, no, np.array([7])) == 5.0
    assert c.within(np.array([9.0]), ~no, no, np.array([0])) == 9.0  # the first steps may grow faster
    assert c.within(np.array([9.0]), ~no, ~no, np.array([7])) == 1.0  # not after a rejection
    assert c.within(np.array([9.0]), no, no, np.array([7])) == 0.9  # a rejected step is always shorter
    assert c.within(np.array([1e-9]), no, no, np.array([7])) == 0.2
    # errors that rise are answered before they are too large, the sooner the faster they do
    half, tenth, hundredth = np.array([0.5]), np.array([0.1]), np.array([0.01])
    for smooth in (sd.solvers.PIController(), sd.solvers.PIDController()):
        assert smooth.step_factor(half, 5, (tenth, tenth)) < smooth.step_factor(half, 5, (half, half))
    pid = sd.solvers.PIDController()
    assert pid.step_factor(half, 5, (tenth, half)) < pid.step_factor(half, 5, (tenth, hundredth))


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("solver", [sd.ExponentialAdams(1e-4), sd.RK45(1e-5, 1e-5)], ids=label)
def test_every_controller_holds_the_tolerance(solver, controller):
    flow, x, truth = posed(RING, 16)
    usual = sd.solve(flow, x, solver).check()
    limits = {"safety": solver.controller.safety, "shrink": solver.controller.shrink, "grow": solver.controller.grow}
    found = sd.solve(flow, x, replace(solver, controller=replace(controller, **limits))).check()
    assert np.quantile(rms(found.x - truth), 0.9) < 100 * solver.rtol
    # one that answers errors late costs a method dear whose order rises with its step
    assert found.evaluations.mean() < (1.5 if solver.order else 4) * usual.evaluations.mean()


@pytest.mark.parametrize("solver", [ExponentialRungeKutta32, ExponentialRungeKutta43], ids=lambda s: s.__name__)
@pytest.mark.parametrize(
    "part", by_day([DataPart(), NoisePart(), Preconditioned()], (NoisePart(), Preconditioned())), ids=label
)
def test_exponential_pairs_hold_their_tolerance(solver, part):
    flow, x, truth = posed(RING, 16)
    # two evaluations that agree where both are wrong deceive the pair of order 4 at loose tolerances
    loose = solver is ExponentialRungeKutta43 and isinstance(part, Preconditioned)
    for rtol in (1e-5,) if loose else (1e-3, 1e-5):
        solution = sd.solve(flow, x, solver(rtol, part=part)).check()
        assert np.quantile(rms(solution.x - truth), 0.9) < 10 * rtol
        assert np.mean(rms(solution.x - truth) > solution.error) < 0.1


# --- the SDE ---


@pytest.mark.parametrize("n", by_day([25, 150, 2000], (25,)))
def test_rejected_steps_leave_the_distribution_as_it_is(n):
    # 2000 samples see a standard deviation that is 6 % off
    target = sd.targets.Gaussian((0.5, -1.0), (0.05, 2.0))
    sde = sd.ReverseSDE(target.denoiser(SCHEDULE), eta=1.0)
    x = target.at(SCHEDULE, 0.6).sample(n, 1)
    solution = sd.solve(sde, x, sd.solvers.AdaptiveSDE(1e-2), t_start=0.6, t_end=0.2, seed=3).check()
    exact = target.at(SCHEDULE, 0.2)
    assert solution.rejected.mean() > 0.5
    mean, std = solution.x.mean(0), solution.x.std(0)
    exact_std = torch.tensor([exact.covariance[i, i] for i in range(2)]).sqrt()
    assert ((mean - exact.mean).abs() < 4 * exact_std / np.sqrt(n)).all()
    assert ((std / exact_std - 1).abs() < 4 / np.sqrt(2 * n)).all()


@pytest.mark.nightly
def test_along_one_path_samples_converge_as_the_tolerance_falls():
    sde = sd.ReverseSDE(RING.denoiser(SCHEDULE))
    x = RING.at(SCHEDULE, 1.0).sample(3)
    ends = [sd.solve(sde, x, sd.solvers.AdaptiveSDE(rtol), seed=1).check() for rtol in (3e-2, 3e-3, 1e-3)]
    first, second = (float(np.median(rms(e.x - ends[-1].x))) for e in ends[:2])
    assert second < first / 2 and second < 0.05
    # alone and in a batch, the path of a sample is its own
    alone = sd.solve(sde, x[1:2], sd.solvers.AdaptiveSDE(3e-2), seed=1, ids=[1])
    torch.testing.assert_close(alone.x, ends[0].x[1:2], rtol=1e-9, atol=1e-9)


def test_noise_without_a_path_is_refused():
    sde = sd.ReverseSDE(RING.denoiser(SCHEDULE))
    with pytest.raises(ValueError, match=r"adaptive-sde takes a rejected step again in parts, .* give BrownianPath"):
        sd.sample(sde, (2, 2), sd.solvers.AdaptiveSDE(), noise=sd.noise.IndependentNoise)


def test_settings_are_plain_data_and_make_the_solver_again():
    part = GaussianPart.fit(RING.sample(100), 2)
    flow, x, _ = posed(RING, 2)
    solution = sd.solve(flow, x, sd.ExponentialAdams(1e-4, part=part))
    again = sd.Solver.from_dict(json.loads(json.dumps(solution.settings["solver"])))
    assert torch.equal(sd.solve(flow, x, again).x, solution.x)
    assert "added up" in solution.settings["error"]
    with pytest.raises(TypeError, match=r"controller = 5 of ExponentialAdams"):
        sd.solve(flow, x, sd.ExponentialAdams(controller=5))
    with pytest.raises(ValueError, match=r"unknown controller '5'; known: .*\bpid\b"):
        sd.solve(flow, x, "exponential-adams:controller=5")
    fine = sd.solve(flow, x, "exponential-adams:rtol=1e-4,part=noise")
    assert fine.settings["solver"]["part"]["type"] == "NoisePart"
