"""The two problems, in time and in every other coordinates."""

import numpy as np
import pytest
import torch
from discovery import COORDINATES, SCHEDULES, label

import scorediff as sd
from scorediff.coordinates import Field

TARGET = sd.targets.Gaussian((0.3, -1.0), (0.5, 2.0))


def middle_times(schedule, n=5):
    return [schedule.time_at(value) for value in np.linspace(-2.5, 2.5, n)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_drift_is_f_x_minus_g2_score_with_its_weight(schedule, eta):
    denoiser = TARGET.denoiser(schedule)
    problem = sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)
    for t in middle_times(schedule):
        x = TARGET.at(schedule, t).sample(3)
        variances = torch.as_tensor(schedule.alpha(t) ** 2 * np.array([0.5, 2.0]) + schedule.sigma(t) ** 2)
        score = -(x - schedule.alpha(t) * torch.tensor([0.3, -1.0], dtype=torch.float64)) / variances
        drift = schedule.f(t) * x - (1 + eta**2) / 2 * schedule.g2(t) * score
        torch.testing.assert_close(problem.drift(t, x), drift, rtol=1e-10, atol=1e-10 * schedule.g2(t))
        assert problem.diffusion(t) == pytest.approx(eta * np.sqrt(schedule.g2(t)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_every_eta_keeps_the_marginals(schedule, eta):
    # Backwards in time the variance V of a direction follows dV/dt = 2 a V - eta^2 g^2 for the drift a (x - mean);
    # that of the marginal, alpha^2 v + sigma^2, must solve it, and its mean alpha m the linear part.
    denoiser = TARGET.denoiser(schedule)
    problem = sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)
    v, m = np.array([0.5, 2.0]), np.array([0.3, -1.0])
    for t in middle_times(schedule):
        mean = torch.as_tensor(schedule.alpha(t) * m)[None]
        at_mean = problem.drift(t, mean)[0].numpy()
        slope = problem.drift(t, mean + 1)[0].numpy() - at_mean
        variance = schedule.alpha(t) ** 2 * v + schedule.sigma(t) ** 2
        moves = 2 * schedule.alpha(t) * schedule.d_alpha(t) * v + 2 * schedule.sigma(t) * schedule.d_sigma(t)
        np.testing.assert_allclose(at_mean, schedule.d_alpha(t) * m, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(2 * slope * variance - problem.diffusion(t) ** 2, moves, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("coordinates", [*COORDINATES, sd.coordinates.Angle(data_std=0.5)], ids=label)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_coordinates_are_an_exact_change_of_variables(schedule, coordinates, eta):
    denoiser = TARGET.denoiser(schedule)
    problem = sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)
    moved = Field(problem, coordinates)
    for t in middle_times(schedule):
        x = TARGET.at(schedule, t).sample(3)
        s, h = moved.value(t), 1e-5 * t
        # y = m x, so dy/ds = (m dx/dt + m' x) dt/ds
        m = coordinates.scale(schedule, t)
        m_slope = (coordinates.scale(schedule, t + h) - coordinates.scale(schedule, t - h)) / (2 * h)
        s_slope = (moved.value(t + h) - moved.value(t - h)) / (2 * h)
        expected = (problem.drift(t, x) * m + x * m_slope) / s_slope
        torch.testing.assert_close(moved.drift(s, moved.enter(t, x)), expected, rtol=2e-6, atol=1e-6)
        assert moved.diffusion_at(t) == pytest.approx(problem.diffusion(t) * m / np.sqrt(abs(s_slope)), rel=1e-6)
        assert moved.time(s) == pytest.approx(t, rel=1e-12)
        torch.testing.assert_close(moved.leave(t, moved.enter(t, x)), x, rtol=1e-14, atol=1e-14)


def test_angle_is_regular_from_alpha_zero_to_sigma_zero():
    schedule = sd.RectifiedFlow()
    flow = sd.ProbabilityFlow(TARGET.denoiser(schedule))
    x = torch.randn(5, 2, dtype=torch.float64)
    exact = TARGET.flow(schedule, 1.0, 0.0, x)
    grids = [sd.spacings.UniformAngle()(schedule, n, t_start=1.0, t_end=0.0) for n in (20, 40)]
    errors = [
        float((sd.solve(flow, x, sd.solvers.RK4(sd.coordinates.Angle()), grid=grid).x - exact).abs().max())
        for grid in grids
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize(
    ("coordinates", "schedule", "t_end"),
    [(sd.coordinates.Time(), sd.VPLinear(), 0.0), (sd.coordinates.LogSNR(), sd.RectifiedFlow(), 0.0)],
)
def test_coordinates_that_are_infinite_at_an_end_are_refused(coordinates, schedule, t_end):
    flow = sd.ProbabilityFlow(TARGET.denoiser(schedule))
    with pytest.raises(ValueError, match=r"infinite at t = 0.*Angle"):
        sd.solve(flow, torch.zeros(1, 2), sd.Heun(coordinates), grid=[0.9, 0.5, t_end])


@pytest.mark.parametrize("eta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_reverse_sde_wants_a_positive_eta(eta):
    with pytest.raises(ValueError, match=f"eta = {eta}"):
        sd.ReverseSDE(TARGET.denoiser(sd.VPLinear()), eta)
