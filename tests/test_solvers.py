"""The solvers: which samplers are one sampler, what their numbers are, and what each claims of its start and its end.

Nodes are drawn in the log-SNR; equality is that of all coefficients, whatever the network.
"""

import functools
import math

import numpy as np
import pytest
import torch
from discovery import OURS, SCHEDULES, TERMINALS, by_day, examples, label, within
from engines import stand_ins
from hypothesis import given
from hypothesis import strategies as st

import scorediff as sd
from scorediff import testing
from scorediff.linear_parts import ExponentialKernel, phi
from scorediff.solvers.exponential.multistep import lagrange_weights
from scorediff.solvers.solve import resolve

RAMP, RK = sd.solvers.LowerOrderStart(), sd.solvers.RungeKuttaStart()
MIXTURE = sd.targets.GaussianMixture((0.3, 0.7), ((1.0, -0.5), (-0.6, 0.8)), (0.1, 0.3))


def distance(one, other, schedule, log_snr, eta):
    grid = sd.Grid(schedule.time_at(log_snr))
    a, b = (sd.verify.coefficients(s, grid, schedule=schedule, eta=eta) for s in (one, other))
    return a.distance(b)


ONE_SAMPLER = [
    # (one, other, eta, tolerance)
    (sd.solvers.ExponentialAdamsBashforth(1), sd.DPMSolverPP(1), 0.0, 1e-12),
    (sd.solvers.ExponentialAdamsBashforth(3, start=RK), sd.DPMSolverPP(3, start=RK), 0.0, 1e-12),
    (
        sd.solvers.ExponentialAdamsBashforth(3, RK, part=sd.linear_parts.NoisePart()),
        sd.solvers.DPMSolver(3, RK),
        0.0,
        1e-12,
    ),
    (sd.solvers.SASolver(k=3, corrector_k=3), sd.solvers.ExponentialAdamsMoulton(3), 0.0, 1e-12),
    (sd.solvers.SASolver(k=1, corrector_k=0), sd.SDEDPMSolverPP(1), 0.6, 1e-12),
    (sd.solvers.ERSDE(1), sd.SDEDPMSolverPP(1), 0.6, 1e-12),
    (sd.solvers.ERSDE(1), sd.DDPM(), 1.0, 1e-12),
    (sd.solvers.DEIS(1), sd.DDIM(), 0.0, 1e-10),
    (sd.solvers.LMS(1), sd.DDIM(), 0.0, 1e-10),
    (sd.solvers.PNDM(1), sd.DDIM(), 0.0, 1e-10),
    (sd.solvers.DPMSolverSinglestep(k=3), sd.solvers.RES(k=3), 0.0, 1e-12),
    (sd.solvers.RK2(alpha=1.0), sd.Heun(), 0.0, 1e-12),
    (sd.solvers.Churn(sd.DDIM(), s_churn=0.0), sd.DDIM(), 0.0, 1e-12),
    (sd.solvers.Restart(sd.Heun(), repeats=0, s_min=1e-9, s_max=1e9), sd.Heun(), 0.0, 1e-12),
]


# by day on one schedule, since what is invariant is so on every other (test_coefficients.py), and on one that is not
# variance preserving
@pytest.mark.parametrize("schedule", by_day(SCHEDULES, (sd.VPLinear(), sd.RectifiedFlow())), ids=label)
@pytest.mark.parametrize(("one", "other", "eta", "tolerance"), ONE_SAMPLER)
@examples(4)
@given(log_snr=testing.log_snr_grids(max_steps=7))
def test_two_names_of_one_sampler_have_the_same_coefficients(schedule, one, other, eta, tolerance, log_snr):
    assert distance(one, other, schedule, within(schedule, log_snr), eta) < tolerance


@given(log_snr=testing.log_snr_grids(min_steps=4, max_steps=7))
def test_unipc_is_the_exponential_adams_pair_where_its_system_is_solved(log_snr):
    # with three outputs in every step; the first steps at lower orders have the paper's weight 1/2
    one, other = sd.UniPC(3, RK), sd.solvers.ExponentialAdamsMoulton(3, RK)
    assert distance(one, other, sd.VPLinear(), log_snr, 0.0) < 1e-10
    assert distance(sd.UniPC(3, RK, b=1), sd.UniPC(3, RK, b=2), sd.VPLinear(), log_snr, 0.0) < 1e-10
    assert distance(sd.UniPC(2, b=1), sd.UniPC(2, b=2), sd.VPLinear(), log_snr, 0.0) > 1e-5


@given(log_snr=testing.log_snr_grids(min_steps=2, max_steps=7))
def test_the_predictor_of_unipc_2_is_dpm_solver_2m(log_snr):
    # both weigh the difference by 1/2; in data form with B_2 that is the whole of 2M
    schedule = sd.VPLinear()
    grid = sd.Grid(schedule.time_at(log_snr))
    predicted = sd.verify.coefficients(sd.UniPC(2, start=RAMP), grid, schedule=schedule)
    plain = sd.verify.coefficients(sd.DPMSolverPP(2), grid, schedule=schedule)
    # the second evaluation is at the first predicted state, which is DDIM's for both
    assert np.abs(predicted.array[1] - plain.array[1]).max() < 1e-12


@given(step=st.floats(0.05, 0.5), steps=st.integers(2, 7))
def test_ipndm_2_is_dpm_solver_2m_on_even_log_snr_steps_to_second_order_alone(step, steps):
    # y_1 = y_0 + (s_1 - s_0)(3 E_0 - E_-1)/2: the weights of 2M with r = 1
    log_snr = -1 + step * np.arange(steps + 1)
    assert distance(sd.solvers.PNDM(2), sd.solvers.DPMSolver(2), sd.VPLinear(), log_snr, 0.0) < 1e-10


MUST_DIFFER = [
    (sd.solvers.SDEDPMSolver(1), sd.DDPM(), 1.0, 1e-2),
    (sd.solvers.DEIS(3), sd.solvers.LMS(3), 0.0, 1e-4),
    (
        sd.solvers.ExponentialAdamsBashforth(3),
        sd.solvers.ExponentialAdamsBashforth(3, part=sd.linear_parts.NoisePart()),
        0.0,
        1e-4,
    ),
    (sd.solvers.DPMSolverSinglestep(k=2), sd.solvers.RES(k=2), 0.0, 1e-4),
    (sd.solvers.ERSDE(2), sd.SDEDPMSolverPP(2), 1.0, 1e-4),
    (sd.solvers.SASolver(k=2, corrector_k=0), sd.SDEDPMSolverPP(2), 1.0, 1e-4),
]


@pytest.mark.parametrize(("one", "other", "eta", "least"), MUST_DIFFER)
def test_samplers_that_are_not_one_differ(one, other, eta, least):
    assert distance(one, other, sd.VPLinear(), np.linspace(-2, 2, 9), eta) > least


def test_ancestral_sampling_with_ddim_is_ddim_but_for_the_last_step():
    schedule = sd.RectifiedFlow()
    log_snr = np.linspace(-2, schedule.log_snr(schedule.t_end), 9)
    grid = sd.Grid([*schedule.time_at(log_snr[:-1]), schedule.t_end])
    for eta in (0.3, 1.0):
        a, b = (
            sd.verify.coefficients(s, grid, schedule=schedule, eta=eta)
            for s in (sd.solvers.Ancestral(sd.DDIM()), sd.DDIM())
        )
        # the states at which both are asked agree up to the step whose noise the end of the schedule cuts
        same = int(np.sum(2 * log_snr[1:] - log_snr[:-1] <= log_snr[-1])) if eta == 1 else len(log_snr) - 3
        kept = [*range(a.times.size + 1), *range(a.times.size + 1, a.times.size + 1 + same)]
        assert np.abs(a.array[: same + 1, kept] - b.array[: same + 1, kept]).max() < 1e-9


# --- numbers ---


@given(z=st.floats(-30, 5), k=st.integers(0, 5))
def test_a_phi_function_is_its_integral(z, k):
    # phi_k(z) = INT_0^1 e^((1-u) z) u^(k-1) / (k-1)! du
    x, w = np.polynomial.legendre.leggauss(60)
    u = (1 + x) / 2
    wanted = np.exp(z) if k == 0 else np.sum(w / 2 * np.exp((1 - u) * z) * u ** (k - 1)) / math.factorial(k - 1)
    assert phi(k, z) == pytest.approx(wanted, rel=2e-13)


@given(
    kappa=st.sampled_from([-2.0, -1.0, 1.0]),
    h=st.floats(1e-6, 3.0),
    gaps=st.lists(st.floats(0.3, 3.0), min_size=0, max_size=5),
)
def test_adams_weights_integrate_every_polynomial_of_their_degree(kappa, h, gaps):
    nodes = -h * np.concatenate([[0.0], np.cumsum(gaps)])
    weights = lagrange_weights(ExponentialKernel(np.array([kappa])), np.array([h]), nodes[None])[0]
    for degree in range(len(nodes)):
        # INT_0^h e^(kappa (h-u)) (u/h)^n du = h n! phi_(n+1)(kappa h)
        exact = h * math.factorial(degree) * phi(degree + 1, kappa * h)
        size = np.abs(weights * (nodes / h) ** degree).sum() + abs(exact)
        assert abs(weights @ (nodes / h) ** degree - exact) < 1e-13 * size


# --- starts and ends ---


def test_a_lower_order_start_caps_the_order_and_substeps_do_not():
    for solver, order in (
        (sd.DPMSolverPP(3, start=RAMP), 2),
        (sd.DPMSolverPP(3), 3),
        (sd.solvers.ExponentialAdamsMoulton(3, start=RAMP), 3),
        (sd.solvers.ExponentialAdamsMoulton(3), 4),
        (sd.solvers.ExponentialAdamsBashforth(4, lower_order_final=True), 2),
    ):
        assert solver.order == order
        if solver.corrects:
            continue  # the error of a corrected method's first steps is so small that 640 do not show its order yet
        assert sd.verify.order(solver, target=MIXTURE, schedule=sd.VPLinear()).ok


def test_the_profile_of_orders_and_the_cost_of_a_start_are_in_the_solution():
    flow = sd.ProbabilityFlow(MIXTURE.denoiser(sd.VPLinear()))

    def run(solver):
        return sd.sample(flow, (2, 2), solver, steps=6).check()

    assert run(sd.DPMSolverPP(3, start=RAMP)).orders_used.tolist() == [1, 2, 3, 3, 3, 3]
    assert run(sd.DPMSolverPP(3, start=RAMP, lower_order_final=True)).orders_used.tolist() == [1, 2, 3, 3, 2, 1]
    solver = sd.solvers.ExponentialAdamsBashforth(4, start=sd.solvers.RungeKuttaStart())
    started = run(solver)
    assert started.orders_used.tolist() == [3, 3, 3, 4, 4, 4]
    assert started.calls == 3 * 3 + 3 == solver.evaluations(6)
    assert started.settings["solver"]["start"] == {"type": "RungeKuttaStart"}
    assert run(sd.UniPC(2)).orders_used.tolist() == [2, 3, 3, 3, 3, 2]
    assert run(sd.Heun()).orders_used is None


@pytest.mark.parametrize("steps", [5, 8, 16, 64])
def test_substeps_are_counted_and_seen_by_nobody_else(steps):
    flow, solver = sd.ProbabilityFlow(MIXTURE.denoiser(sd.VPLinear())), sd.solvers.ExponentialAdamsBashforth(4)
    more = {5: 0, 8: 0, 16: 2, 64: 5}[steps]  # 3/2 log2(N / 8), rounded up
    found = sd.sample(flow, (2, 2), solver, steps=steps, save=True).check()
    assert found.calls == solver.evaluations(steps) == steps + more
    assert np.all(found.accepted == steps) and len(found.orders_used) == steps and len(found.times) == steps + 1
    assert found.orders_used[0] == min(more + 1, 4)


@pytest.mark.parametrize("start", [sd.solvers.GradedStart(), sd.solvers.RungeKuttaStart()], ids=label)
def test_both_starts_keep_the_order(start):
    for solver in (sd.DPMSolverPP(3, start=start), sd.solvers.ExponentialAdamsMoulton(4, start=start)):
        assert sd.verify.order(solver, target=MIXTURE, schedule=sd.VPLinear()).ok


# a terminal map sees no solver: by day those that choose their steps, and one that does not
@pytest.mark.parametrize("terminal", TERMINALS, ids=label)
@pytest.mark.parametrize("solver", by_day(OURS, [sd.DDPM(), *stand_ins([s for s in OURS if s.adaptive])]), ids=label)
def test_every_solver_takes_every_terminal_map(solver, terminal):
    denoiser = MIXTURE.denoiser(sd.VPLinear())
    problem = sd.ProbabilityFlow(denoiser) if sd.ProbabilityFlow in solver.solves else sd.ReverseSDE(denoiser)
    options = {} if solver.adaptive else {"steps": 6}
    plain = sd.sample(problem, (2, 2), solver, dtype=torch.float64, **options).check()
    ended = sd.sample(problem, (2, 2), solver, dtype=torch.float64, terminal=terminal, **options).check()
    assert torch.equal(ended.x_end, plain.x) and ended.calls == plain.calls + 1
    assert torch.isfinite(ended.x).all() and not torch.equal(ended.x, plain.x)


# --- noise ---


def test_an_eta_that_changes_with_time_leaves_the_distribution_alone():
    schedule, target = sd.VPLinear(), sd.targets.Gaussian((0.5, -1.0), (0.05, 2.0))

    def tau(t):
        return 1.0 if 0.2 < schedule.sigma(t) < 0.9 else 0.0

    def errors(solver):
        for steps in (40, 80):
            grid = sd.spacings.UniformLogSNR()(schedule, steps, t_start=schedule.time_at(-2), t_end=schedule.time_at(2))
            x = target.at(schedule, grid.start).sample(1500, 3)
            out = (
                sd.solve(sd.ReverseSDE(target.denoiser(schedule), tau), x, solver, grid=grid, progress=False).check().x
            )
            exact = target.at(schedule, grid.end)
            found = (out.std(0) / exact.covariance.diagonal().sqrt()).numpy()
            yield np.abs(found - 1).max()

    # a sampling error of 1/sqrt(2 n) = 1.8 %, and the bias of 40 steps
    assert max(errors(sd.solvers.SASolver())) < 0.05 and max(errors(sd.SDEDPMSolverPP(2))) < 0.05


def test_an_eta_that_is_not_a_number_at_some_time_is_named():
    problem = sd.ReverseSDE(MIXTURE.denoiser(sd.VPLinear()), lambda t: t - 0.5)
    with pytest.raises(ValueError, match=r"eta\(t\) = -0\.\d+ at t = 0\.\d+"):
        sd.sample(problem, (2, 2), sd.solvers.SASolver(), steps=5)


def test_the_noise_function_of_er_sde_is_its_logarithmic_slope():
    schedule = sd.EDM()

    def log_fn(s):
        return np.log(s) + np.log(np.exp(s**0.3) + 10)

    for s in (0.01, 0.3, 2.0, 40.0):
        slope = s * (log_fn(s * (1 + 1e-6)) - log_fn(s * (1 - 1e-6))) / (2e-6 * s)
        assert sd.solvers.ERNoise(schedule)(s) ** 2 == pytest.approx(slope - 1, rel=1e-5)


def test_churn_with_too_much_noise_declares_nothing_and_keeps_a_bias():
    target = sd.targets.Gaussian((0.0,), (0.25,))
    assert sd.solvers.Churn(s_noise=1.007).weak_order is None
    biased, plain = (
        sd.verify.moments(sd.solvers.Churn(s_noise=s), target, steps=200, eta=0.0).wasserstein for s in (1.007, 1.0)
    )
    assert biased > 3 * plain


def test_langevin_corrections_pull_a_wrong_distribution_towards_the_right_one():
    # many entries: the norms of few scatter, and with them the length of a step
    schedule, target = sd.VPLinear(), sd.targets.Gaussian(np.linspace(-1, 1, 40), np.geomspace(0.3, 2, 40))
    flow = sd.ProbabilityFlow(target.denoiser(schedule))
    # started far too wide
    x = 3 * sd.prior(schedule, (300, 40), t_start=0.5, seed=1, dtype=torch.float64)
    exact = target.at(schedule, 0.05).covariance.diagonal().sqrt()

    def off(corrections):
        solver = sd.solvers.PredictorCorrector(sd.DDIM(), snr=0.16, corrections=corrections)
        return float((sd.solve(flow, x, solver, steps=20, t_start=0.5, t_end=0.05).x.std(0) / exact - 1).abs().max())

    assert off(8) < 0.4 * off(0)


def test_options_are_read_as_what_they_are():
    for text, value in (("true", True), ("False", False)):
        assert resolve(f"dpm++2m:lower_order_final={text}") == sd.DPMSolverPP(2, lower_order_final=value)
    with pytest.raises(ValueError, match="'no' is neither true nor false"):
        resolve("dpm++2m:lower_order_final=no")
    assert resolve("krogstad-a:solver=dpm++3s").solver == sd.solvers.DPMSolverSinglestep(3)


def test_any_callable_may_be_eta():
    eta = functools.partial(lambda level, t: level, 0.5)
    sde = sd.ReverseSDE(MIXTURE.denoiser(sd.VPLinear()), eta)
    a = sd.sample(sde, (2, 2), sd.solvers.SASolver(), steps=5)
    b = sd.sample(sd.ReverseSDE(sde.denoiser, 0.5), (2, 2), sd.solvers.SASolver(), steps=5)
    assert torch.equal(a.x, b.x) and a.settings["problem"]["eta"] == "functools.partial"


WRONG = [
    (lambda: sd.DPMSolverPP(4), "k = 4: DPMSolverPP takes 1 to 3"),
    (lambda: sd.solvers.ExponentialAdamsBashforth(0), "k = 0: ExponentialAdamsBashforth takes 1 to 6"),
    (lambda: sd.UniPC(2, b=3), "b = 3: UniPC has B_1 and B_2"),
    (lambda: sd.solvers.SASolver(corrector_k=5), "corrector_k = 5"),
    (lambda: sd.solvers.RK2(alpha=0.0), r"alpha = 0.0: the second stage lies in \(0, 1\]"),
    (lambda: sd.solvers.Ancestral(sd.DPMSolverPP(2)), "remembers the steps before"),
    (lambda: sd.solvers.Ancestral(sd.DDPM()), "takes steps of the flow on a fixed grid"),
    (lambda: sd.solvers.Churn(sd.RK45()), "takes steps of the flow on a fixed grid"),
    (lambda: sd.solvers.Churn(s_churn=-1.0), "s_churn = -1.0"),
    (lambda: sd.solvers.Restart(s_min=2.0, s_max=1.0), "s_min = 2.0"),
    (lambda: sd.solvers.PredictorCorrector(snr=0.0), "snr = 0.0"),
    (lambda: sd.solvers.PredictorCorrector(sd.DPMSolverPP(2)), "not a one-step method"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_cannot_be_is_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_restart_outside_the_run_is_refused():
    flow = sd.ProbabilityFlow(MIXTURE.denoiser(sd.VPLinear()))
    with pytest.raises(ValueError, match="take more steps or another interval"):
        sd.sample(flow, (1, 2), sd.solvers.Restart(s_min=200.0, s_max=300.0), steps=5)
