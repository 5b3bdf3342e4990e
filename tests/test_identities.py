"""Samplers that are one sampler give one number, on every schedule and any grid; those that differ, differ.

Nodes are drawn in the log-SNR, where the identities live; errors are relative to the size of the state.
"""

import numpy as np
import pytest
import torch
from discovery import OURS, SCHEDULES, by_day, engines_by_day, eta_of, examples, label, within
from hypothesis import given
from hypothesis import strategies as st

import scorediff as sd
from scorediff.verify import coefficients

MEAN, VARIANCES = (0.7, -1.5, 0.1), (0.03, 0.8, 4.0)
MIXTURE = sd.targets.GaussianMixture(
    weights=(0.2, 0.5, 0.3), means=((2.0, 0.0, 0.5), (-1.0, 1.5, 0.0), (0.0, -2.0, -0.5)), covariances=(0.05, 0.2, 0.4)
)


@st.composite
def log_snr_grids(draw, max_steps=12):
    """Falling log-SNR nodes within [-3.9, 3.9], neighbouring steps at most 1 : 4."""
    steps = draw(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=max_steps))
    first, last = draw(st.floats(-3.9, -0.5)), draw(st.floats(0.5, 3.9))
    nodes = np.concatenate([[0.0], np.cumsum(steps)])
    return first + (last - first) * nodes / nodes[-1]


def grid_at(schedule, log_snr):
    return sd.Grid(schedule.time_at(log_snr))


def run(solver, schedule, log_snr, eta=0.0, target=MIXTURE, seed=5, dtype=torch.float64):
    denoiser = target.denoiser(schedule)
    grid = grid_at(schedule, log_snr)
    x = sd.prior(schedule, (4, 3), t_start=grid.start, seed=seed, dtype=dtype)
    problem = sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)
    return sd.solve(problem, x, solver, grid=grid, seed=seed).check().x / schedule.alpha(grid.end)


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


def rounding(solver, log_snr):
    """What rounding may make of a run: 64 units in the last place of every output, times its largest coefficient; an
    order of 6 that extrapolates over uneven steps in the noise form weighs the data with weights that sum to 2000.
    """
    unrolled = coefficients(solver, grid_at(sd.EDM(), log_snr), schedule=sd.EDM()).array
    return 64 * np.finfo(float).eps * np.abs(unrolled).sum(1).max()


#: By day one that preserves variance and one that does not: invariant coefficients are the same on the others.
over_schedules = pytest.mark.parametrize("schedule", by_day(SCHEDULES, (sd.VPLinear(), sd.RectifiedFlow())), ids=label)
EULER_DDIM = sd.solvers.Euler(sd.coordinates.DDIMCoordinates())
SAME = [
    # (one, other, eta, tolerance in float64, in float32): the noise form loses digits at a large log-SNR
    (sd.DDIM(), sd.DPMSolverPP(1), 0.0, 1e-13, 3e-5),
    (sd.DDIM(), sd.solvers.DPMSolver(1), 0.0, 1e-12, 1e-4),
    (sd.DDIM(), EULER_DDIM, 0.0, 1e-12, 1e-4),
    (sd.DDIM(), sd.DDPM(), 1.0, 1e-13, 3e-5),
    (sd.DDPM(), sd.SDEDPMSolverPP(1), 1.0, 1e-13, 3e-5),
]


@over_schedules
@pytest.mark.parametrize(("one", "other", "eta", "double", "single"), SAME)
@examples(5)
@given(log_snr=log_snr_grids(), seed=st.integers(0, 1000))
def test_one_sampler_under_two_names_gives_one_number(schedule, one, other, eta, double, single, log_snr, seed):
    log_snr = within(schedule, log_snr)
    for dtype, tolerance in ((torch.float64, double), (torch.float32, single)):
        a, b = (run(solver, schedule, log_snr, eta, seed=seed, dtype=dtype) for solver in (one, other))
        assert distance(a, b) < tolerance


@over_schedules
@examples(5)
@given(log_snr=log_snr_grids())
def test_the_sde_2m_with_vanishing_eta_is_the_ode_2m(schedule, log_snr):
    log_snr = within(schedule, log_snr)
    for sde, ode in ((sd.SDEDPMSolverPP(2), sd.DPMSolverPP(2)), (sd.solvers.SDEDPMSolver(2), sd.solvers.DPMSolver(2))):
        # eta enters the coefficients squared, and the noise linearly
        assert distance(run(sde, schedule, log_snr, eta=1e-10), run(ode, schedule, log_snr)) < 1e-6


@given(log_snr=log_snr_grids())
def test_the_flow_on_a_rectified_flow_stepped_by_euler_in_time_is_ddim(log_snr):
    schedule = sd.RectifiedFlow()
    assert (
        distance(run(sd.solvers.Euler(sd.coordinates.Time()), schedule, log_snr), run(sd.DDIM(), schedule, log_snr))
        < 1e-10
    )


@given(log_snr=log_snr_grids())
def test_heun_in_ddim_coordinates_is_edms_written_out(log_snr):
    schedule = sd.EDM(sigma_min=1e-3)
    denoiser, sigma = MIXTURE.denoiser(schedule), np.exp(-log_snr)
    x = sd.prior(schedule, (4, 3), t_start=float(sigma[0]), seed=5, dtype=torch.float64)
    for s, r in zip(sigma[:-1].tolist(), sigma[1:].tolist(), strict=True):
        slope = (x - denoiser(s, x)[0]) / s
        euler = x + (r - s) * slope
        x = x + (r - s) * (slope + (euler - denoiser(r, euler)[0]) / r) / 2
    assert distance(run(sd.Heun(sd.coordinates.DDIMCoordinates()), schedule, log_snr), x) < 1e-10


def noise_of_ddim(schedule, grid, eta):
    """The standard deviation of the noise of every step."""
    made = sd.verify.coefficients("ddim", grid, schedule=schedule, eta=eta)
    # a noise falls on the state after its step, which is that of the next evaluation, or the result
    return np.array([made.noises[n + 1, n] for n in range(grid.steps)])


@pytest.mark.parametrize("schedule", [sd.VPLinear(), sd.VPCosine(), sd.VPDiscrete()], ids=label)
@given(log_snr=log_snr_grids(), eta=st.floats(0.05, 1.0))
def test_ddims_noise_on_vp_is_the_papers(schedule, log_snr, eta):
    # arXiv:2010.02502, eq. 16: sigma = eta sqrt((1 - a_1)/(1 - a_0)) sqrt(1 - a_0/a_1), a = alpha^2
    grid = grid_at(schedule, log_snr)
    alpha, sigma = schedule.alpha(grid.times), schedule.sigma(grid.times)
    paper = eta * sigma[1:] / sigma[:-1] * np.sqrt(1 - (alpha[:-1] / alpha[1:]) ** 2)
    np.testing.assert_allclose(noise_of_ddim(schedule, grid, eta), paper, rtol=1e-7)


@pytest.mark.parametrize("schedule", [sd.EDM(), sd.RectifiedFlow()], ids=label)
def test_ddims_noise_written_for_vp_is_wrong_elsewhere(schedule):
    grid = grid_at(schedule, np.linspace(-2, 2, 9))
    alpha, sigma = schedule.alpha(grid.times), schedule.sigma(grid.times)
    vp_only = sigma[1:] / sigma[:-1] * np.sqrt(1 - (alpha[:-1] / alpha[1:]) ** 2)
    ours = noise_of_ddim(schedule, grid, 1.0)
    assert np.abs(vp_only / ours - 1).min() > 0.05


@over_schedules
@examples(10)
@given(log_snr=log_snr_grids())
def test_ddpm_is_the_written_out_posterior(schedule, log_snr):
    log_snr = within(schedule, log_snr)
    # q(x_1 | x_0, D) of the forward chain D -> x_1 -> x_0, by Gaussian conditioning
    grid = grid_at(schedule, log_snr[:2])
    t, s = grid.start, grid.end
    x = sd.prior(schedule, (4, 3), t_start=t, dtype=torch.float64)
    data, _ = MIXTURE.denoiser(schedule)(t, x)
    a = schedule.alpha(t) / schedule.alpha(s)
    prior_mean, prior_variance = schedule.alpha(s) * data, schedule.sigma(s) ** 2
    step_variance = schedule.sigma(t) ** 2 * -np.expm1(2 * (log_snr[0] - log_snr[1]))
    gain = a * prior_variance / (a**2 * prior_variance + step_variance)
    mean = prior_mean + gain * (x - a * prior_mean)
    std = np.sqrt(prior_variance * (1 - gain * a))
    z = sd.noise.IndependentNoise(5, x)(schedule.log_snr(t), schedule.log_snr(s))
    got = sd.solve(sd.ReverseSDE(MIXTURE.denoiser(schedule)), x, sd.DDPM(), grid=grid, seed=5).x
    assert distance(got, mean + std * z) < 1e-9


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_samplers_that_are_not_the_same_differ(schedule):
    log_snr = np.linspace(-2, 2, 9)
    assert (
        distance(run(sd.solvers.SDEDPMSolver(1), schedule, log_snr, 1.0), run(sd.DDPM(), schedule, log_snr, 1.0)) > 1e-2
    )
    assert distance(run(sd.SDEDPMSolverPP(1), schedule, log_snr, 0.5), run(sd.DDIM(), schedule, log_snr, 0.5)) > 1e-3
    assert (
        distance(run(sd.solvers.DDPMLargeVariance(), schedule, log_snr, 1.0), run(sd.DDPM(), schedule, log_snr, 1.0))
        > 1e-2
    )
    assert distance(run(sd.solvers.DPMSolver(2), schedule, log_snr), run(sd.DPMSolverPP(2), schedule, log_snr)) > 1e-4


@pytest.mark.parametrize("solver", engines_by_day([s for s in OURS if s.invariant]), ids=label)
@examples(3)
@given(log_snr=log_snr_grids())
def test_an_invariant_solver_gives_the_same_x_over_alpha_on_every_schedule(solver, log_snr):
    eta = eta_of(solver)
    noisy = eta or solver.order is None
    results = []
    for schedule in (sd.VPLinear(), sd.EDM(), sd.RectifiedFlow()):
        grid = grid_at(schedule, log_snr)
        # the same y = x / alpha at the start, and noise identified by its interval of log-SNR, rounded alike
        y = sd.prior(sd.EDM(), (4, 3), t_start=float(np.exp(-log_snr[0])), dtype=torch.float64)
        denoiser = MIXTURE.denoiser(schedule)
        problem = sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)
        x = sd.solve(
            problem,
            y * schedule.alpha(grid.start),
            solver,
            grid=grid,
            noise=sd.noise.BrownianPath if noisy else sd.noise.IndependentNoise,
        ).x
        results.append(x / schedule.alpha(grid.end))
    found = max(distance(results[0], other) for other in results[1:])
    # a path is asked at nodes that differ in their last bits, and is rough
    tolerance = 1e-6 if noisy else 1e-11 if (solver.order or 0) >= 3 else 1e-12
    assert found < tolerance or found < rounding(solver, log_snr)


@pytest.mark.parametrize("solver", engines_by_day([s for s in OURS if not s.invariant and not s.adaptive]), ids=label)
def test_a_solver_that_claims_no_invariance_has_none_or_is_reported(solver, capsys):
    eta = eta_of(solver)
    log_snr = np.linspace(-2, 2, 9)
    a, b = (run_from_y(solver, schedule, log_snr, eta) for schedule in (sd.VPLinear(), sd.RectifiedFlow()))
    if distance(a, b) < 1e-10:
        print(f"{solver.name}: the property 'invariant' holds on this grid and is not claimed")


def run_from_y(solver, schedule, log_snr, eta):
    grid = grid_at(schedule, log_snr)
    y = sd.prior(sd.EDM(), (4, 3), t_start=float(np.exp(-log_snr[0])), dtype=torch.float64)
    denoiser = MIXTURE.denoiser(schedule)
    problem = sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)
    return sd.solve(problem, y * schedule.alpha(grid.start), solver, grid=grid).x / schedule.alpha(grid.end)


@over_schedules
@pytest.mark.parametrize(
    "solver", [sd.DDIM(), sd.DPMSolverPP(1), sd.DPMSolverPP(2), sd.SDEDPMSolverPP(2), sd.DDPM()], ids=label
)
@examples(4)
@given(log_snr=log_snr_grids())
def test_a_data_form_method_is_exact_on_a_point_mass(solver, schedule, log_snr):
    log_snr = within(schedule, log_snr)
    # all that is left of the start is its noise, and the mean of the output is alpha_1 m whatever the grid
    eta = eta_of(solver)
    point = sd.targets.Gaussian((0.4, -1.0, 2.0), 0.0)
    a = run(solver, schedule, log_snr, eta, target=point)
    expected = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    if eta == 0.0:
        grid = grid_at(schedule, log_snr)
        z = sd.prior(schedule, (4, 3), t_start=grid.start, seed=5, dtype=torch.float64) / schedule.sigma(grid.start)
        expected = expected + (z - schedule.alpha(grid.start) / schedule.sigma(grid.start) * expected) * np.exp(
            -log_snr[-1]
        )
        assert distance(a, expected) < 1e-12
    else:
        assert (a - expected).abs().max() < 6 * np.exp(-log_snr[-1])
