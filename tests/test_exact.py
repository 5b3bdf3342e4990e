"""The exact targets: their denoisers against automatic differentiation, their flow against scipy, their moments."""

import math
import pickle
from itertools import pairwise

import discovery
import numpy as np
import pytest
import torch
from discovery import by_day
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from torch import Tensor

from scorediff.lab.data import digits, digits_labels
from scorediff.schedules import EDM, RectifiedFlow, Schedule, VPCosine, VPLinear
from scorediff.targets import Empirical, ExactDenoiser, Gaussian, GaussianMixture, Spectrum, Target

F64 = torch.float64
RNG = np.random.default_rng(7)


def _covariance(size: int, *batch: int) -> Tensor:
    factor = torch.from_numpy(RNG.standard_normal((*batch, size, size)))
    return factor @ factor.mT / size + 0.05 * torch.eye(size, dtype=F64)


def _numbers(*shape: int) -> Tensor:
    return torch.from_numpy(RNG.standard_normal(shape))


GAUSSIANS = {
    "isotropic": Gaussian(_numbers(2, 3), 0.4),
    "diagonal": Gaussian(_numbers(2, 3), _numbers(2, 3).square() + 0.1),
    "full": Gaussian(_numbers(2, 3), _covariance(6)),
}
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
KNOWN = (Gaussian, GaussianMixture, Empirical)
KINDS: dict[str, Target] = {type(target).__name__: target for target in discovery.TARGETS}
TARGETS: dict[str, Target] = {
    **{f"{name}-default": target for name, target in KINDS.items()},
    **{f"gaussian-{name}": target for name, target in GAUSSIANS.items()},
    "mixture-isotropic": GaussianMixture(WEIGHTS, _numbers(3, 2, 2), [0.05, 0.3, 1.0]),
    "mixture-diagonal": GaussianMixture(WEIGHTS, _numbers(3, 2, 2), _numbers(3, 2, 2).square() + 0.1),
    "mixture-full": GaussianMixture(WEIGHTS, _numbers(3, 2, 2), _covariance(4, 3)),
    "empirical": Empirical(_numbers(30, 1, 2, 2), 0.3, chunk=7),
}
over_targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
# what a target makes of a schedule is its alpha and its sigma: by day two of them
over_schedules = pytest.mark.parametrize(
    "schedule", by_day(discovery.SCHEDULES, (VPLinear(), RectifiedFlow())), ids=discovery.label
)


def _middle(schedule: Schedule, log_snr: float = 0.3) -> float:
    return float(schedule.time_at(log_snr))


def _state(target: Target, schedule: Schedule, t: float, n: int = 5, seed: int = 3) -> Tensor:
    return target.at(schedule, t).sample(n, seed)


# The denoiser against second routes


@over_targets
@over_schedules
def test_noise_is_minus_sigma_times_the_gradient_of_the_marginal_log_density(target, schedule):
    for log_snr in (-1.5, 0.4, 2.0):
        t = _middle(schedule, log_snr)
        x = _state(target, schedule, t).requires_grad_()
        (score,) = torch.autograd.grad(target.at(schedule, t).log_prob(x).sum(), x)
        sigma_t = schedule.sigma(t)
        _, noise = target.denoiser(schedule)(t, x.detach())
        torch.testing.assert_close(noise, -sigma_t * score, rtol=1e-8, atol=1e-9)


@over_targets
@over_schedules
def test_data_is_tweedies_formula_and_recombines_with_noise_to_the_state(target, schedule):
    for log_snr in (-1.5, 0.4, 2.0):
        t = _middle(schedule, log_snr)
        x = _state(target, schedule, t).requires_grad_()
        (score,) = torch.autograd.grad(target.at(schedule, t).log_prob(x).sum(), x)
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        data, noise = target.denoiser(schedule)(t, x.detach())
        torch.testing.assert_close(data, ((x + sigma_t**2 * score) / alpha_t).detach(), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(alpha_t * data + sigma_t * noise, x.detach(), rtol=1e-12, atol=1e-12)


def test_the_posterior_mean_is_the_integral_over_the_data():
    target, schedule, t, x = GaussianMixture((0.6, 0.4), (-1.0, 1.5), (0.2, 0.5)), VPLinear(), 0.4, 0.3
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)

    def joint(x0: float) -> float:
        prior = target.log_prob(torch.tensor([x0], dtype=F64)).exp().item()
        return prior * math.exp(-0.5 * ((x - alpha_t * x0) / sigma_t) ** 2)

    wanted = quad(lambda x0: x0 * joint(x0), -9, 9, epsabs=1e-13)[0] / quad(joint, -9, 9, epsabs=1e-13)[0]
    data, noise = target.denoiser(schedule)(t, torch.tensor([x], dtype=F64))
    assert data.item() == pytest.approx(wanted, rel=1e-9)
    assert noise.item() == pytest.approx((x - alpha_t * wanted) / sigma_t, rel=1e-8)


# The flow


@pytest.mark.parametrize("target", GAUSSIANS.values(), ids=GAUSSIANS.keys())
@over_schedules
def test_the_flow_map_is_what_scipy_integrates(target, schedule):
    t, s = _middle(schedule, -1.0), _middle(schedule, 1.5)
    x, denoise = _state(target, schedule, t, 2), target.denoiser(schedule)

    def drift(time: float, flat: np.ndarray) -> np.ndarray:
        data, noise = denoise(time, torch.from_numpy(flat).reshape(x.shape))
        return (schedule.d_alpha(time) * data + schedule.d_sigma(time) * noise).flatten().numpy()

    end = solve_ivp(drift, (t, s), x.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-11).y[:, -1]
    torch.testing.assert_close(target.flow(schedule, t, s, x).flatten(), torch.from_numpy(end), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("target", GAUSSIANS.values(), ids=GAUSSIANS.keys())
@over_schedules
def test_the_flow_back_undoes_the_flow_and_two_segments_make_one(target, schedule):
    t, u, s = (_middle(schedule, log_snr) for log_snr in (-1.5, 0.0, 2.0))
    x = _state(target, schedule, t)
    torch.testing.assert_close(target.flow(schedule, s, t, target.flow(schedule, t, s, x)), x, rtol=1e-11, atol=1e-11)
    in_two = target.flow(schedule, u, s, target.flow(schedule, t, u, x))
    torch.testing.assert_close(in_two, target.flow(schedule, t, s, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("target", GAUSSIANS.values(), ids=GAUSSIANS.keys())
def test_the_flow_carries_one_marginal_into_the_other(target):
    schedule, size = VPLinear(), math.prod(target.event_shape)
    t, s = 0.8, 0.1
    # an affine map is known by what it does to the origin and the unit vectors
    points = torch.cat([torch.zeros(1, size, dtype=F64), torch.eye(size, dtype=F64)]).reshape(-1, *target.event_shape)
    image = target.flow(schedule, t, s, points).reshape(size + 1, size)
    offset, slope = image[0], (image[1:] - image[0]).T
    before, after = target.at(schedule, t), target.at(schedule, s)
    torch.testing.assert_close(slope @ before.mean.flatten() + offset, after.mean.flatten(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope @ before.covariance @ slope.T, after.covariance, rtol=1e-11, atol=1e-12)


def test_the_flow_takes_one_time_per_sample_and_reaches_both_ends():
    target, schedule, x = GAUSSIANS["full"], RectifiedFlow(), _numbers(3, 2, 3)
    t, s = np.array([1.0, 0.7, 0.0]), np.array([0.0, 0.2, 1.0])
    together = target.flow(schedule, t, s, x)
    assert torch.isfinite(together).all()
    for i in range(3):
        alone = target.flow(schedule, float(t[i]), float(s[i]), x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-13)


# The targets against one another


@pytest.mark.parametrize("covariance", [0.3, (0.2, 0.7, 1.5), _covariance(3)], ids=["isotropic", "diagonal", "full"])
def test_a_mixture_of_one_component_is_a_gaussian(covariance):
    mean, schedule, x = _numbers(3), VPLinear(), _numbers(6, 3)
    one = GaussianMixture([1.0], mean[None], torch.as_tensor(covariance, dtype=F64)[None])
    gaussian = Gaussian(mean, covariance)
    torch.testing.assert_close(one.log_prob(x), gaussian.log_prob(x), rtol=1e-12, atol=1e-12)
    for got, wanted in zip(one.denoiser(schedule)(0.3, x), gaussian.denoiser(schedule)(0.3, x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_isotropic_diagonal_and_full_covariances_of_equal_meaning_are_equal():
    mean, means, x, eye = _numbers(2, 2), _numbers(3, 2, 2), _numbers(5, 2, 2), torch.eye(4, dtype=F64)
    gaussians = [Gaussian(mean, 0.3), Gaussian(mean, torch.full((2, 2), 0.3, dtype=F64)), Gaussian(mean, 0.3 * eye)]
    v = torch.tensor([0.1, 0.3, 0.9], dtype=F64)
    diagonal, full = v[:, None, None].expand(3, 2, 2), v[:, None, None] * eye
    mixtures = [GaussianMixture(WEIGHTS, means, c) for c in (v, diagonal, full)]
    shared = [GaussianMixture(WEIGHTS, means, c) for c in (0.3, [0.3] * 3)]
    for family in (gaussians, mixtures, shared):
        for one, other in pairwise(family):
            torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=1e-12, atol=1e-12)
            for got, wanted in zip(one.denoiser(EDM())(0.5, x), other.denoiser(EDM())(0.5, x), strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


@over_schedules
def test_an_empirical_distribution_is_the_mixture_with_one_component_per_datum(schedule):
    data, h = _numbers(40, 3), 0.25
    empirical, mixture = Empirical(data, h, chunk=16), GaussianMixture([1 / 40] * 40, data, h**2)
    for log_snr in (-3.0, 0.0, 3.0):
        t = _middle(schedule, log_snr)
        x = _state(empirical, schedule, t, 20)
        for got, wanted in zip(empirical.denoiser(schedule)(t, x), mixture.denoiser(schedule)(t, x), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(empirical.log_prob(data), mixture.log_prob(data), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
@pytest.mark.parametrize("bandwidth", [0.0, 0.2])
def test_chunks_do_not_change_the_answer(chunk, bandwidth):
    data, schedule, x = _numbers(100, 2, 2), VPLinear(), _numbers(50, 2, 2)
    for t in (1e-3, 0.2, 1.0, np.linspace(0.0, 1.0, 50)):
        whole = Empirical(data, bandwidth, chunk=100).denoiser(schedule)(t, x)
        parts = Empirical(data, bandwidth, chunk=chunk).denoiser(schedule)(t, x)
        for got, wanted in zip(parts, whole, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


def test_a_mixture_of_many_components_is_summed_in_blocks(monkeypatch):
    target, x = GaussianMixture([1 / 9] * 9, _numbers(9, 4), _covariance(4, 9)), _numbers(8, 4)
    t = np.linspace(0.1, 0.9, 8)
    whole, density = target.denoiser(VPLinear())(t, x), target.log_prob(x)
    monkeypatch.setattr("scorediff.targets.mixture._BLOCK", 9)
    monkeypatch.setattr("scorediff.targets.mixture._PASS", 27)
    torch.testing.assert_close(target.log_prob(x), density, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(target.denoiser(VPLinear())(t, x), whole, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


# Marginals, densities, samples


@pytest.mark.parametrize(
    "target",
    [
        Gaussian((0.4,), 0.3),
        GaussianMixture((0.7, 0.3), ((-1.0,), (1.0,)), (0.04, 0.3)),
        Empirical(((-1.0,), (0.5,)), 0.2),
    ],
    ids=["gaussian", "mixture", "empirical"],
)
@pytest.mark.parametrize("t", [0.05, 0.5])
def test_a_density_integrates_to_one(target, t):
    def density(x: float, of: Target) -> float:
        return of.log_prob(torch.tensor([[x]], dtype=F64)).exp().item()

    for of in (target, target.at(VPLinear(), t)):
        assert quad(density, -8, 8, args=(of,), limit=300, points=[-1, 0, 1])[0] == pytest.approx(1.0, abs=1e-7)


@over_targets
def test_samples_have_the_moments_of_the_distribution(target):
    n, size = 40_000, math.prod(target.event_shape)
    x = target.sample(n, seed=11).reshape(n, size)
    mean, covariance = _moments(target)
    std = covariance.diagonal().sqrt()
    z_mean = (x.mean(0) - mean) / std * n**0.5
    assert z_mean.abs().max() < 4.5
    centred = (x - mean) / std
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    z_covariance = (products.mean(0) - covariance / std / std[:, None]) / products.std(0) * n**0.5
    assert z_covariance.abs().max() < 4.5


def _moments(target: Target) -> tuple[Tensor, Tensor]:
    """In closed form where that is known here; of a target that is new, by its density, or in many dimensions by
    samples.
    """
    if not isinstance(target, KNOWN):
        return _moments_by_density(target) if math.prod(target.event_shape) < 3 else _moments_by_samples(target)
    if isinstance(target, Gaussian):
        return target.mean.flatten(), target.covariance
    if isinstance(target, GaussianMixture):
        weights, means, covariances = target.weights, target.means.flatten(1), target.covariances
    else:
        n, size = len(target.data), math.prod(target.event_shape)
        weights, means = torch.full((n,), 1 / n, dtype=F64), target.data.flatten(1)
        covariances = (target.bandwidth**2 * torch.eye(size, dtype=F64)).expand(n, size, size)
    mean = weights @ means
    centred = means - mean
    return mean, torch.einsum("k,kij->ij", weights, covariances + centred.unsqueeze(-1) * centred.unsqueeze(-2))


def _moments_by_density(target: Target) -> tuple[Tensor, Tensor]:
    """By the trapezoidal rule on a grid of one or two dimensions, whose error falls faster than any power."""
    size, line = math.prod(target.event_shape), torch.linspace(-12, 12, 1201, dtype=F64)
    x = torch.cartesian_prod(*[line] * size).reshape(-1, size)
    weights = target.log_prob(x.reshape(-1, *target.event_shape)).exp() * (line[1] - line[0]) ** size
    mean = weights @ x
    return mean, torch.einsum("n,ni,nj->ij", weights, x - mean, x - mean)


def _moments_by_samples(target: Target) -> tuple[Tensor, Tensor]:
    x = target.sample(10**6, seed=1).flatten(1)
    return x.mean(0), torch.cov(x.T)


@pytest.mark.parametrize(
    "target", [target for target in KINDS.values() if isinstance(target, KNOWN)], ids=discovery.label
)
def test_the_moments_of_a_default_are_the_integrals_of_its_density(target):
    noised = target.at(VPLinear(), 0.2)  # wide enough for the grid
    for by_density, closed in zip(_moments_by_density(noised), _moments(noised), strict=True):
        torch.testing.assert_close(by_density, closed, rtol=1e-10, atol=1e-10)


@over_targets
def test_the_marginals_moments_are_those_of_alpha_x0_plus_sigma_eps(target):
    schedule, t = VPCosine(), 0.4
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    (mean, covariance), (mean_t, covariance_t) = _moments(target), _moments(target.at(schedule, t))
    torch.testing.assert_close(mean_t, alpha_t * mean, rtol=1e-12, atol=1e-13)
    wanted = alpha_t**2 * covariance + sigma_t**2 * torch.eye(len(mean), dtype=F64)
    torch.testing.assert_close(covariance_t, wanted, rtol=1e-12, atol=1e-13)
    assert type(target.at(schedule, t)) is type(target)


@over_targets
def test_samples_are_a_function_of_the_seed_and_more_of_them_begin_with_the_fewer(target):
    x = target.sample(20, 5)
    assert x.shape == (20, *target.event_shape) and x.dtype == F64
    assert torch.equal(x, target.sample(20, seed=5))
    assert not torch.equal(x, target.sample(20, seed=6))
    torch.testing.assert_close(target.sample(50, 5)[:20], x, rtol=1e-14, atol=1e-15)
    assert target.sample(3, 5, dtype=torch.float32).dtype == torch.float32
    assert target.sample(0).shape == (0, *target.event_shape)


# Times, batches, ends, dtypes


@over_targets
def test_one_time_per_sample_equals_a_loop_over_floats(target):
    schedule, times = VPLinear(), np.array([1e-3, 0.1, 0.4, 0.9, 1.0])
    x, denoise = _numbers(5, *target.event_shape), target.denoiser(schedule)
    data, noise = denoise(times, x)
    for i, t in enumerate(times.tolist()):
        for together, alone in zip((data, noise), denoise(t, x[i : i + 1]), strict=True):
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["isotropic", "diagonal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_elementwise_gaussian_treats_each_row_alone_bit_for_bit(name, dtype):
    target, times = GAUSSIANS[name], RNG.uniform(0.01, 1.0, 64)
    x, denoise = _numbers(64, 2, 3).to(dtype), target.denoiser(VPLinear())
    together, same = denoise(times, x), denoise(0.3, x)
    for i in range(0, 64, 7):
        row = x[i : i + 1]
        for k in (0, 1):
            assert torch.equal(together[k][i : i + 1], denoise(times[i : i + 1], row)[k])
            assert torch.equal(together[k][i : i + 1], denoise(float(times[i]), row)[k])
            assert torch.equal(same[k][i : i + 1], denoise(0.3, row)[k])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(denoise(times[order.numpy()], x[order])[0], together[0][order])


@over_targets
def test_a_row_that_is_not_finite_spoils_no_other(target):
    x, denoise = _numbers(6, *target.event_shape), target.denoiser(VPLinear())
    clean = denoise(0.3, x)
    x[2] = torch.nan
    keep = [0, 1, 3, 4, 5]
    for got, wanted in zip(denoise(0.3, x), clean, strict=True):
        torch.testing.assert_close(got[keep], wanted[keep], rtol=1e-12, atol=1e-13)
        assert got[2].isnan().all()


SINGULAR: dict[str, Target] = {
    "point": Gaussian((0.5, -1.0), 0.0),
    "line": Gaussian((0.5, -1.0), ((1.0, 1.0), (1.0, 1.0))),
    "points": GaussianMixture(WEIGHTS, _numbers(3, 2), 0.0),
    "data": Empirical(_numbers(12, 2), 0.0, chunk=5),
}


@pytest.mark.parametrize("target", [*TARGETS.values(), *SINGULAR.values()], ids=[*TARGETS, *SINGULAR])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_finite_and_are_what_they_should_be(target, dtype):
    schedule, denoise = RectifiedFlow(), target.denoiser(RectifiedFlow())
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    z = _numbers(5, *target.event_shape).to(dtype)
    data, noise = denoise(1.0, z)
    mean = _moments(target)[0].reshape(target.event_shape).to(dtype)
    torch.testing.assert_close(data, mean.expand_as(z), **close)
    torch.testing.assert_close(noise, z, **close)
    x0 = target.sample(5, dtype=dtype)
    data, noise = denoise(0.0, x0)
    torch.testing.assert_close(data, x0, **close)
    assert torch.equal(noise, torch.zeros_like(x0))
    ends = denoise(np.array([0.0, 1.0, 0.0, 1e-9, 1.0]), z)
    assert all(torch.isfinite(part).all() for part in ends)
    assert schedule.sigma(0.0) == 0 and schedule.alpha(1.0) == 0


def test_near_the_data_noise_keeps_its_digits():
    # eps = (x - alpha D) / sigma would lose log10(1 / sigma) of them
    schedule, t = RectifiedFlow(), 1e-9
    target = Gaussian((0.0,), 1.0)
    x = torch.tensor([[0.7]], dtype=F64)
    alpha_t, sigma_t = 1 - t, t
    wanted = sigma_t * 0.7 / (alpha_t**2 + sigma_t**2)
    for one in (target, GaussianMixture([1.0], [[0.0]], 1.0), Empirical([[0.0]], 1.0)):
        assert one.denoiser(schedule)(t, x)[1].item() == pytest.approx(wanted, rel=1e-13)


def test_on_its_own_data_an_empirical_distribution_of_no_bandwidth_returns_the_nearest():
    images = digits()
    x = images[:50] + 1e-3 * torch.from_numpy(RNG.standard_normal((50, 1, 8, 8))).float()
    data, noise = Empirical(images, 0.0).denoiser(EDM(sigma_min=1e-6))(1e-3, x)
    torch.testing.assert_close(data, images[:50], rtol=0, atol=1e-5)
    torch.testing.assert_close(noise, (x - images[:50]) / 1e-3, rtol=1e-2, atol=1e-2)


@over_targets
def test_float32_agrees_with_float64(target):
    for schedule in (VPLinear(), EDM()):
        for log_snr in (-3.0, 0.0, 2.0):
            t = _middle(schedule, log_snr)
            x = _state(target, schedule, t, 64).float()
            scale = 1e-5 * max(1.0, x.abs().max().item())
            for got, wanted in zip(
                target.denoiser(schedule)(t, x), target.denoiser(schedule)(t, x.double()), strict=True
            ):
                assert got.dtype == torch.float32
                torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=30 * scale)


@over_targets
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_are_computed_in_float32(target, dtype):
    x = _state(target, VPLinear(), 0.3).to(dtype)
    for got, wanted in zip(
        target.denoiser(VPLinear())(0.3, x), target.denoiser(VPLinear())(0.3, x.float()), strict=True
    ):
        assert got.dtype == dtype
        assert torch.equal(got, wanted.to(dtype))
    assert target.log_prob(x).dtype == dtype


@over_targets
def test_a_target_first_used_in_inference_mode_still_has_gradients(target):
    denoise = target.at(VPLinear(), 0.0).denoiser(VPLinear())  # an object nobody has used yet
    x = _numbers(3, *target.event_shape).float()
    with torch.inference_mode():
        denoise(0.3, x)
    x.requires_grad_()
    denoise(0.3, x)[0].sum().backward()
    assert torch.isfinite(x.grad).all()


@over_targets
def test_the_jacobian_of_the_noise_is_symmetric(target):
    # it is minus sigma times the Hessian of a log-density
    size, denoise = math.prod(target.event_shape), target.denoiser(VPLinear())
    x = _state(target, VPLinear(), 0.2, 1)
    jacobian = torch.autograd.functional.jacobian(lambda y: denoise(0.2, y)[1], x).reshape(size, size)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-9, atol=1e-10)


@over_targets
def test_nothing_is_computed_off_the_device_of_the_state(target):
    x = torch.empty(4, *target.event_shape, device="meta")
    for t in (0.3, np.full(4, 0.3)):
        assert all(part.device.type == "meta" and part.shape == x.shape for part in target.denoiser(VPLinear())(t, x))


def test_an_empty_batch_gives_an_empty_answer():
    for target in TARGETS.values():
        x = torch.empty(0, *target.event_shape)
        assert all(part.shape == x.shape for part in target.denoiser(VPLinear())(0.3, x))
        assert target.log_prob(x).shape == (0,)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    log_snr=st.floats(-5.0, 5.0),
    variance=st.floats(0.0, 4.0),
    mean=st.floats(-2.0, 2.0),
    x=st.floats(-3.0, 3.0),
)
def test_gaussian_data_and_noise_recombine_at_any_log_snr(log_snr, variance, mean, x):
    schedule = RectifiedFlow()
    t = float(schedule.time_at(log_snr))
    data, noise = Gaussian((mean,), variance).denoiser(schedule)(t, torch.tensor([[x]], dtype=F64))
    assert schedule.alpha(t) * data.item() + schedule.sigma(t) * noise.item() == pytest.approx(x, rel=1e-13, abs=1e-13)


# Construction


@pytest.mark.parametrize("kind", [*map(type, discovery.TARGETS), Spectrum, ExactDenoiser])
def test_every_class_has_defaults(kind):
    assert kind() is not None


def test_parameters_may_be_numbers_arrays_and_tensors_and_are_kept_in_float64():
    x = _numbers(3, 2)
    given_as = [(0.1, 0.2), [0.1, 0.2], np.array([0.1, 0.2]), torch.tensor([0.1, 0.2], dtype=F64)]
    wanted = Gaussian(given_as[0], 0.5).log_prob(x)
    for mean in given_as:
        assert Gaussian(mean, np.float64(0.5)).mean.dtype == F64
        assert torch.equal(Gaussian(mean, 0.5).log_prob(x), wanted)


def test_a_target_does_not_change_with_the_tensor_it_was_made_from():
    mean = torch.zeros(2, dtype=F64)
    target = Gaussian(mean, 1.0)
    mean += 1
    assert torch.equal(target.mean, torch.zeros(2, dtype=F64))


@over_targets
def test_a_target_survives_pickling(target):
    denoise, x = target.denoiser(VPLinear()), _numbers(3, *target.event_shape)
    again = pickle.loads(pickle.dumps(denoise))
    assert all(torch.equal(got, wanted) for got, wanted in zip(again(0.3, x), denoise(0.3, x), strict=True))
    assert torch.equal(again.target.sample(4), target.sample(4))


def test_a_spectrum_is_the_covariance_it_was_taken_from():
    covariance = _covariance(4)
    spectrum = Gaussian(_numbers(4), covariance).spectrum
    torch.testing.assert_close(spectrum.matrix(4), covariance, rtol=1e-12, atol=1e-13)
    assert spectrum.basis is not None
    torch.testing.assert_close(Gaussian(_numbers(4), spectrum).covariance, covariance, rtol=1e-12, atol=1e-13)


def test_the_digits_are_what_the_file_says():
    images, labels = digits(), digits_labels()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert set(((images + 1) * 8).unique().tolist()) <= set(range(17))
    assert labels.shape == (1797,) and labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))
    images.zero_()
    assert digits().abs().max() == 1


# Bad input: each error names what was given


NAN = float("nan")
BAD = {
    "negative eigenvalue": (lambda: Gaussian((0.0, 0.0), ((1.0, 2.0), (2.0, 1.0))), ValueError, "eigenvalue -1"),
    "asymmetric": (lambda: Gaussian((0.0, 0.0), ((1.0, 0.5), (0.0, 1.0))), ValueError, "not symmetric.*0.5"),
    "negative variance": (lambda: Gaussian((0.0, 0.0), (1.0, -0.25)), ValueError, r"covariance\[1\] is -0.25"),
    "negative isotropic": (lambda: Gaussian((0.0, 0.0), -2.0), ValueError, "covariance is -2"),
    "covariance shape": (lambda: Gaussian((0.0, 0.0), (1.0, 1.0, 1.0)), ValueError, r"\(3,\).*\(2,\).*\(2, 2\)"),
    "nan mean": (lambda: Gaussian((0.0, NAN)), ValueError, r"mean\[1\] is nan"),
    "infinite covariance": (lambda: Gaussian((0.0, 0.0), math.inf), ValueError, "covariance is inf"),
    "words": (lambda: Gaussian("zero"), TypeError, "mean wants an array of real numbers, got 'zero'"),
    "complex": (lambda: Gaussian((1j, 0.0), 1.0), TypeError, "complex"),
    "bad spectrum": (lambda: Gaussian((0.0, 0.0), Spectrum(torch.ones(3))), ValueError, r"\(3,\).*\(2,\)"),
    "bad basis": (lambda: Spectrum(torch.ones(3), torch.eye(2)), ValueError, r"\(2, 2\).*\(3, 3\)"),
    "negative weight": (
        lambda: GaussianMixture((1.5, -0.5), ((0.0,), (1.0,)), 1.0),
        ValueError,
        r"weights\[1\] is -0.5",
    ),
    "weights of sum 2": (lambda: GaussianMixture((1.0, 1.0), ((0.0,), (1.0,)), 1.0), ValueError, "sum to 2"),
    "weights shape": (lambda: GaussianMixture((1.0,), ((0.0,), (1.0,)), 1.0), ValueError, r"\(1,\).*\(2,\)"),
    "mixture covariance": (
        lambda: GaussianMixture((0.5, 0.5), ((0.0, 0.0), (1.0, 0.0)), (1.0, 1.0, 1.0)),
        ValueError,
        r"\(3,\).*\(2,\).*\(2, 2\).*\(2, 2, 2\)",
    ),
    "scalar means": (lambda: GaussianMixture((1.0,), 0.0, 1.0), ValueError, r"means has shape \(\)"),
    "empty data": (lambda: Empirical(torch.zeros(0, 3)), ValueError, r"\(0, 3\)"),
    "nan datum": (lambda: Empirical(((0.0, 1.0), (NAN, 0.0))), ValueError, r"data\[1, 0\] is nan"),
    "negative bandwidth": (lambda: Empirical(bandwidth=-0.1), ValueError, "bandwidth is -0.1"),
    "chunk 0": (lambda: Empirical(chunk=0), ValueError, "chunk is 0"),
    "negative n": (lambda: Gaussian().sample(-1), ValueError, "n is -1"),
    "density of points": (lambda: Empirical(bandwidth=0.0).log_prob(torch.zeros(1, 2)), ValueError, "bandwidth 0"),
    "density of a point": (lambda: Gaussian((0.0,), 0.0).log_prob(torch.zeros(1, 1)), ValueError, "no density"),
    "density of atoms": (
        lambda: GaussianMixture((1.0,), ((0.0,),), 0.0).log_prob(torch.zeros(1, 1)),
        ValueError,
        "no density",
    ),
    "flow from a point": (
        lambda: Gaussian((0.0,), 0.0).flow(RectifiedFlow(), 0.0, 0.5, torch.zeros(1, 1)),
        ValueError,
        r"sigma = 0 \(t = 0.0\)",
    ),
    "state shape": (lambda: Gaussian().denoiser(VPLinear())(0.3, torch.zeros(4, 3)), ValueError, r"\(4, 3\).*2\)"),
    "state of no batch": (lambda: Gaussian().log_prob(torch.zeros(())), ValueError, r"\(\)"),
    "integers": (lambda: Gaussian().denoiser(VPLinear())(0.3, torch.zeros(4, 2).long()), TypeError, "int64"),
    "an array": (lambda: Gaussian().log_prob(np.zeros((4, 2))), TypeError, "ndarray"),
    "times": (lambda: Gaussian().denoiser(VPLinear())(np.zeros(3), torch.zeros(4, 2)), ValueError, r"\(3,\).*\(4,\)"),
    "condition": (lambda: Gaussian().denoiser(VPLinear())(0.3, torch.zeros(4, 2), label=1), TypeError, "label"),
}


@pytest.mark.parametrize(("act", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_a_covariance_estimated_in_float32_from_few_samples_is_accepted():
    x = torch.from_numpy(RNG.standard_normal((5, 20))).float()
    assert Gaussian(x.mean(0), torch.cov(x.T)).spectrum.values.min() == 0
