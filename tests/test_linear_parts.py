"""One linear part for every exponential integrator: what it is exact on, and what it leaves of an order."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from discovery import LINEAR_PARTS, OURS, engines_by_day, eta_of, label
from scipy.integrate import quad

import scorediff as sd
from scorediff.linear_parts import (
    DataPart,
    GaussianPart,
    IsotropicPart,
    NoiseLevel,
    NoisePart,
    Preconditioned,
    VarianceKernel,
)
from scorediff.solvers import AdaptiveSDE, Exact, ExponentialRungeKutta32, ExponentialRungeKutta43
from scorediff.solvers.exponential.engine import ExponentialIntegrator

SCHEDULE = sd.VPLinear()
#: Every fixed-grid exponential integrator that takes a part.
TAKES_PART = [
    s for s in OURS if isinstance(s, ExponentialIntegrator) and "part" in {f.name for f in fields(s) if f.init}
]
ISOTROPIC = [part for part in LINEAR_PARTS if isinstance(part, IsotropicPart)]
MIXTURE = sd.targets.GaussianMixture((0.5, 0.5), ((1.0, 0.0, 0.0), (-1.0, 0.5, 0.0)), (0.1, 0.3))


def with_variance(solver, std=0.7):
    return replace(solver, part=Preconditioned(std))


def levels(*log_snr):
    return (NoiseLevel.at(SCHEDULE, SCHEDULE.time_at(np.array([value]))) for value in log_snr)


# --- exact on its own Gaussian ---


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("schedule", [sd.VPLinear(), sd.EDM(), sd.RectifiedFlow()], ids=label)
def test_ddpm_in_the_part_of_a_gaussian_has_its_distribution_at_any_number_of_steps(schedule, steps):
    target = sd.targets.Gaussian((0.0, 0.0), 0.49)
    posed = {"schedule": schedule, "steps": steps, "t_start": 0.9 * schedule.t_start}
    found = sd.verify.moments(sd.DDPM(part=Preconditioned(0.7)), target, **posed)
    assert found.wasserstein < 1e-12
    # and without the part it has not
    usual = sd.verify.moments(sd.DDPM(), target, **posed)
    assert usual.wasserstein > 1e-3


@pytest.mark.parametrize("solver", TAKES_PART, ids=label)
def test_every_exponential_integrator_is_exact_on_the_gaussian_of_its_part(solver):
    solver = with_variance(solver)
    assert Exact.OWN_GAUSSIAN in solver.exact_on
    etas = [1.0] if "ddpm" in solver.name else [0.4, 1.0, 1.5]
    for eta in etas if sd.ReverseSDE in solver.solves else [0.0]:
        assert Exact.OWN_GAUSSIAN in sd.verify.exactness(solver, eta=eta)


@pytest.mark.parametrize(
    "solver", [sd.DPMSolverPP(2), sd.UniPC(3), sd.solvers.Krogstad(), sd.solvers.LMS(3)], ids=label
)
def test_a_part_of_several_variances_solves_their_gaussian_in_one_step(solver):
    covariance = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.25, 0.0], [0.1, 0.0, 0.5]], dtype=torch.float64)
    mean = torch.tensor([0.5, -0.5, 1.0])
    variances, directions = torch.linalg.eigh(covariance)
    part = GaussianPart(mean, directions[:, 1:], variances[1:], float(variances[0]))
    target = sd.targets.Gaussian(mean, covariance)
    x = target.at(SCHEDULE, 1.0).sample(5)
    found = sd.solve(target.denoiser(SCHEDULE), x, replace(solver, part=part), steps=1).x
    torch.testing.assert_close(found, target.flow(SCHEDULE, 1.0, SCHEDULE.t_end, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "solver", [ExponentialRungeKutta32(1e-3), ExponentialRungeKutta43(1e-3), AdaptiveSDE(1e-2)], ids=label
)
def test_adaptive_solvers_take_a_part_of_several_variances(solver):
    covariance = torch.diag(torch.tensor([1.0, 0.25, 0.5], dtype=torch.float64))
    mean = torch.tensor([0.5, -0.5, 1.0])
    part = GaussianPart(mean, torch.eye(3)[:, 1:], torch.tensor([0.25, 0.5]), 1.0)
    target = sd.targets.Gaussian(mean, covariance)
    x = target.at(SCHEDULE, 0.9).sample(5)
    found = sd.solve(target.denoiser(SCHEDULE), x, replace(solver, part=part), t_start=0.9).check()
    # nothing is left to be wrong about, and steps grow as fast as they may
    assert found.error.max() < 1e-9
    assert found.evaluations.sum() < sd.solve(target.denoiser(SCHEDULE), x, solver, t_start=0.9).evaluations.sum()
    if eta_of(solver) == 0:
        torch.testing.assert_close(found.x, target.flow(SCHEDULE, 0.9, SCHEDULE.t_end, x), rtol=1e-10, atol=1e-10)
    # and equal variances are one
    several = GaussianPart(torch.zeros(3), torch.eye(3)[:, :1], [0.49], 0.49)
    one, other = (
        sd.solve(MIXTURE.denoiser(SCHEDULE), x, replace(solver, part=p), t_start=0.9, seed=1).x
        for p in (several, Preconditioned(0.7))
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


# --- one family ---


@pytest.mark.parametrize(
    "solver", [sd.DPMSolverPP(3), sd.SDEDPMSolverPP(2), sd.UniPC(2), sd.solvers.SEEDS(k=3)], ids=label
)
def test_a_small_variance_is_the_data_form_and_a_large_one_the_noise_form(solver):
    problem = (sd.ReverseSDE if eta_of(solver) else sd.ProbabilityFlow)(MIXTURE.denoiser(SCHEDULE))
    x = sd.prior(SCHEDULE, (3, 3), dtype=torch.float64)

    def run(part):
        return sd.solve(problem, x, replace(solver, part=part), steps=12, seed=1).x

    torch.testing.assert_close(run(Preconditioned(1e-7)), run(DataPart()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(Preconditioned(1e7)), run(NoisePart()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [sd.DPMSolverPP(3), sd.DDPM(), sd.solvers.SEEDS(k=3), sd.UniPC(2)], ids=label)
def test_several_equal_variances_are_one(solver):
    problem = (sd.ReverseSDE if eta_of(solver) else sd.ProbabilityFlow)(MIXTURE.denoiser(SCHEDULE))
    x = sd.prior(SCHEDULE, (3, 3), dtype=torch.float64)
    several = GaussianPart(torch.zeros(3), torch.eye(3)[:, :1], [0.49], 0.49)
    one, other = (sd.solve(problem, x, replace(solver, part=p), steps=10).x for p in (several, Preconditioned(0.7)))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("part", ISOTROPIC, ids=label)
def test_two_steps_are_one_step(part, eta):
    # the propagator is a semigroup, the noises of two steps make that of the whole, and so do the integrals
    a, b, c = levels(-1.5, 0.2, 1.1)
    eta = np.array([eta])
    to_b, to_c, whole = (part.propagator(*ends, eta) for ends in ((a, b), (b, c), (a, c)))
    assert to_b * to_c == pytest.approx(whole, rel=1e-13)
    std_b, std_c, std = (part.noise_std(*ends, eta) for ends in ((a, b), (b, c), (a, c)))
    assert (std_b * to_c) ** 2 + std_c**2 == pytest.approx(std**2, rel=1e-12, abs=1e-15)

    def integral(start, end):
        return part.integral_weight(end, eta) * part.kernel(end, eta).h_phi_1(end.log_snr - start.log_snr)

    assert integral(a, b) * to_c + integral(b, c) == pytest.approx(integral(a, c), rel=1e-12)


@pytest.mark.parametrize("part", ISOTROPIC, ids=label)
def test_a_constant_is_integrated_as_the_drift_says(part):
    # the drift of an SDE is dx/dlambda = (dlog alpha/dlambda) x - (1 + eta^2) sigma E: at E = on_noise-th part of x
    a, b = levels(-0.3, -0.3 + 1e-6)
    eta, x, data = np.array([0.8]), 0.7, 0.4
    noise = (x - a.alpha * data) / a.sigma
    on_data, on_noise = part.on(a)
    output, h = on_data * data + on_noise * noise, b.log_snr - a.log_snr
    step = part.propagator(a, b, eta) * x + part.integral_weight(b, eta) * part.kernel(b, eta).h_phi_1(h) * output
    log_alpha_rate = (np.log(b.alpha) - np.log(a.alpha)) / h
    drift = log_alpha_rate * x - (1 + eta**2) * a.sigma * noise
    assert (step - x) / h == pytest.approx(drift, rel=1e-5)


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("sine", [0.05, 0.6, 0.999])
def test_moments_of_a_kernel_are_those_of_quadrature(sine, q):
    kernel, h = VarianceKernel(np.array([sine]), np.array([np.sqrt(1 - sine**2)]), np.array([q])), np.array([0.8])

    def k(tau):
        return float(kernel(np.array([[tau]]))[0, 0])

    assert kernel.h_phi_1(h) == pytest.approx(quad(k, 0, 0.8, epsabs=1e-13)[0], rel=1e-11)
    assert kernel.h_phi_1(np.array([np.inf])) == pytest.approx(quad(k, 0, np.inf, epsabs=1e-13)[0], rel=1e-7)
    for length in (0.4, 0.8):
        exact = quad(lambda u, end=length: k(end - u) * u / end**2, 0, length, epsabs=1e-13)[0]
        assert kernel.phi(2, length / 0.8, h) == pytest.approx(exact, rel=1e-11)


# --- what it leaves of an order ---


@pytest.mark.parametrize("solver", engines_by_day([s for s in TAKES_PART if sd.ProbabilityFlow in s.solves]), ids=label)
def test_no_order_is_lost_with_another_part(solver):
    # on a mixture: on the Gaussian of its part every one of them is exact
    measured = sd.verify.step_order(with_variance(solver, 1.0))
    assert measured.ok, measured


# --- in the wrong place ---


def test_what_is_not_a_part_is_named():
    with pytest.raises(TypeError, match=r"part = 'data' of DPMSolverPP: give a LinearPart, such as NoisePart\(\)"):
        sd.DPMSolverPP(part="data")
    with pytest.raises(ValueError, match=r"data_std = -1: give the data's standard deviation, a positive number"):
        Preconditioned(-1)
    assert sd.sample(MIXTURE.denoiser(SCHEDULE), (2, 3), "dpm++2m:part=preconditioned", steps=3).ok
