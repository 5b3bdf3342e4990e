"""What holds for every solver found by discovery, on problems that hypothesis draws: by day for one solver of each
engine and each branch in it, by night for all.

What follows from the coefficients of linear solvers stands in test_coefficients.py, for all of them by day; here it is
seen in samples, and for what is not linear.
"""

import dataclasses

import numpy as np
import pytest
import torch
from discovery import (
    OURS,
    SCHEDULES,
    SOLVERS,
    SPACINGS,
    TERMINALS,
    by_day,
    engines_by_day,
    eta_of,
    examples,
    label,
    nodes_for,
    takes_even_steps_alone,
)
from engines import STEPS, stand_ins
from hypothesis import assume, given
from hypothesis import strategies as st

import scorediff as sd
from scorediff import testing, verify
from scorediff.backends import TorchDiffEqAdamsMoulton

# torchdiffeq's implicit Adams says so on coarse grids, and goes on
pytestmark = pytest.mark.filterwarnings("ignore:Functional iteration did not converge")

FIXED = [s for s in SOLVERS if not s.adaptive]
# a Gaussian of a given variance around 0 knows where the data lies, and how far it reaches
UNBOUND = [s for s in FIXED if s.invariant and s.own_variance is None]
ODE = [s for s in FIXED if sd.ProbabilityFlow in s.solves]
SDE = [s for s in FIXED if sd.ReverseSDE in s.solves]
# torchsde's reversible Heun is unstable at the steps that these proofs can afford
SETTLED = [s for s in FIXED if s.weak_order and s.linear and s.name != "torchsde-reversible-heun"]
# the others want more steps than most proofs here can afford
FREE = [s for s in FIXED if not takes_even_steps_alone(s)]
# third-party solvers are asked for each node by itself; what is left is their rounding of the integration variable
ROUNDING = 1e-9


def posed(solver, denoiser, eta=None):
    eta = eta_of(solver) if eta is None else eta
    return sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)


def run(solver, target, schedule, grid, x, **options):
    return sd.solve(posed(solver, target.denoiser(schedule)), x, solver, grid=grid, progress=False, **options).check()


def apart(a, b):
    return float((a - b).abs().max() / (1 + b.abs().max()))


@pytest.mark.parametrize("solver", [s for s in FREE if s.linear], ids=label)
@examples(1)
@given(schedule=testing.schedules(), log_snr=testing.log_snr_grids(min_steps=2), eta=testing.etas())
def test_a_solver_is_exact_on_what_it_claims(solver, schedule, log_snr, eta):
    eta = eta if sd.ReverseSDE in solver.solves and not solver.name.startswith("ddpm") else eta_of(solver)
    log_snr = testing.within(schedule, log_snr)
    # a restart wants its interval to be in the run
    assume(not isinstance(solver, sd.solvers.Restart) or np.exp(-log_snr[-1]) < solver.s_max)
    found = verify.exactness(solver, eta=eta, schedule=schedule, log_snr=log_snr)
    assert solver.exact_on <= found
    for claim in found - solver.exact_on:
        print(f"{solver.name} at eta = {eta:.2g}: exact on {claim.value} on this grid, which is not claimed")


@pytest.mark.parametrize("solver", engines_by_day(SETTLED), ids=label)
@examples(3)
@given(target=testing.gaussians(min_size=2), eta=testing.etas(), data=st.data())
def test_every_eta_has_the_marginals_of_the_flow_at_the_weak_rate(solver, target, eta, data):
    eta = 1.0 if solver.name.startswith("ddpm") else eta if solver in SDE else 0.0
    schedule = data.draw(st.sampled_from([sd.VPLinear(), sd.RectifiedFlow()]))
    least, most = data.draw(st.floats(-2.0, -1.0)), data.draw(st.floats(1.0, 2.0))
    t_start, t_end = schedule.time_at(least), schedule.time_at(most)

    def error(n):
        return verify.moments(
            solver, target, schedule=schedule, steps=n, eta=eta, t_start=t_start, t_end=t_end
        ).wasserstein

    # where leading errors cancel they fall faster for a while, then slower; the limit is the flow's distribution
    for n in (40, 160, 640):
        coarse, fine = error(n), error(4 * n)
        if fine < 1e-5 or np.log2(coarse / fine) / 2 > solver.weak_order - 0.2:
            break
    else:
        pytest.fail(f"from {n} to {4 * n} steps the error falls from {coarse:.3g} to {fine:.3g}")


@pytest.mark.parametrize("solver", engines_by_day([s for s in ODE if s in FREE and s.order]), ids=label)
@examples(3)
@given(target=testing.gaussians(), seed=testing.seeds())
def test_encoding_and_sampling_come_back_at_the_solvers_order(solver, target, seed):
    schedule = sd.VPLinear()
    flow = sd.ProbabilityFlow(target.denoiser(schedule))
    span = {"t_start": schedule.time_at(-1.5), "t_end": schedule.time_at(1.5)}
    x = target.at(schedule, span["t_end"]).sample(4, seed)

    def error(n):
        latent = sd.encode(flow, x, solver, steps=n, **span).x
        return apart(sd.solve(flow, latent, solver, steps=n, **span).x, x)

    # a symmetric pair may do better than either way alone, or have leading errors that cancel for a while
    for n in (20, 80):
        coarse, fine = error(n), error(4 * n)
        if fine < 1e-9 or np.log2(coarse / fine) / 2 > solver.order - 0.3:
            break
    else:
        pytest.fail(f"from {n} to {4 * n} steps the error falls from {coarse:.3g} to {fine:.3g}")


# torchdiffeq's adaptive methods and its iterations stop for the whole batch at once, as their docstrings say
ALONE = [s for s in SOLVERS if s in OURS or (s in FIXED and not isinstance(s, TorchDiffEqAdamsMoulton))]
# a path for every sample takes its time
ALONE_BY_DAY = stand_ins([s for s in ALONE if not s.needs_path])


@pytest.mark.parametrize("solver", by_day(ALONE, ALONE_BY_DAY), ids=label)
@examples(1)
@given(
    seed=testing.seeds(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    shape=st.sampled_from([(5,), (35,)]),
    eta=testing.etas(),
)
def test_a_sample_is_bit_for_bit_the_same_in_any_batch_and_order(solver, seed, dtype, shape, eta):
    eta = eta if sd.ReverseSDE in solver.solves and not solver.name.startswith("ddpm") else None
    testing.assert_batch_invariant(solver, seed=seed, dtype=dtype, eta=eta, shape=shape, steps=STEPS)


@pytest.mark.parametrize("solver", engines_by_day(FIXED), ids=label)
@examples(3)
@given(log_snr=testing.log_snr_grids(), seed=testing.seeds())
def test_the_shape_of_an_event_does_not_matter(solver, log_snr, seed):
    schedule = sd.VPLinear()
    mean, variances = torch.linspace(-1, 1, 12), torch.linspace(0.1, 2, 12)
    flat, square = (
        sd.targets.Gaussian(mean, variances),
        sd.targets.Gaussian(mean.reshape(1, 3, 4), variances.reshape(1, 3, 4)),
    )
    grid = nodes_for(solver, schedule, log_snr)
    x = sd.prior(schedule, (2, 12), t_start=grid.start, seed=seed)
    a = run(solver, flat, schedule, grid, x, seed=seed).x
    b = run(solver, square, schedule, grid, x.reshape(2, 1, 3, 4), seed=seed).x
    assert torch.equal(a.reshape(b.shape), b)


class _Turned:
    """The driving noise, turned with the data."""

    def __init__(self, basis):
        self.basis = basis

    def __call__(self, seed, x, ids):
        outer = self

        class Noise(sd.noise.IndependentNoise):
            def _as_state(self, values):
                return super()._as_state(values) @ outer.basis.T

        return Noise(seed, x, ids)


@pytest.mark.parametrize("solver", engines_by_day(FIXED), ids=label)
@examples(3)
@given(
    target=testing.gaussians(min_size=3, max_size=3),
    basis=testing.rotations(3),
    log_snr=testing.log_snr_grids(),
    seed=testing.seeds(),
)
def test_turning_the_data_turns_the_samples(solver, target, basis, log_snr, seed):
    schedule = sd.RectifiedFlow()
    turned = sd.targets.Gaussian(basis @ target.mean, basis @ target.covariance @ basis.T)
    grid = nodes_for(solver, schedule, log_snr / 2)
    x = target.at(schedule, grid.start).sample(3, seed)
    a = run(solver, target, schedule, grid, x, seed=seed).x
    b = run(solver, turned, schedule, grid, x @ basis.T, seed=seed, noise=_Turned(basis)).x
    tolerance = 1e-5 if isinstance(solver, TorchDiffEqAdamsMoulton) else ROUNDING  # it iterates to a tolerance
    assert apart(a @ basis.T, b) < tolerance


@pytest.mark.parametrize("solver", engines_by_day(UNBOUND), ids=label)
@examples(3)
@given(target=testing.mixtures(), log_snr=testing.log_snr_grids(), shift=st.floats(-3, 3), seed=testing.seeds())
def test_shifting_the_data_shifts_the_samples_of_an_invariant_solver(solver, target, log_snr, shift, seed):
    schedule = sd.VPLinear()
    shifted = sd.targets.GaussianMixture(target.weights, target.means + shift, target.spectrum)
    grid = sd.Grid(schedule.time_at(log_snr))
    x = target.at(schedule, grid.start).sample(3, seed)
    a = run(solver, target, schedule, grid, x, seed=seed).x
    b = run(solver, shifted, schedule, grid, x + schedule.alpha(grid.start) * shift, seed=seed).x
    assert apart(a + schedule.alpha(grid.end) * shift, b) < ROUNDING


@pytest.mark.parametrize("solver", engines_by_day(UNBOUND), ids=label)
@examples(3)
@given(target=testing.mixtures(), log_snr=testing.log_snr_grids(), factor=st.floats(0.3, 3), seed=testing.seeds())
def test_scaling_the_data_and_moving_the_nodes_scales_the_samples(solver, target, log_snr, factor, seed):
    # y = x / alpha and s = sigma / alpha both scale by c, and the log-SNR moves by -log c: seen on EDM, where x = y
    schedule = sd.EDM(sigma_min=1e-3, sigma_max=500.0)
    scaled = sd.targets.GaussianMixture(
        target.weights, factor * target.means, sd.targets.Spectrum(factor**2 * target.spectrum.values)
    )
    here, there = (sd.Grid(schedule.time_at(log_snr - shift)) for shift in (0.0, np.log(factor)))
    x = target.at(schedule, here.start).sample(3, seed)
    noise = sd.noise.IndependentNoise(seed, x)

    class Numbered:
        """The k-th interval asked for, whatever its ends."""

        def __init__(self):
            self.asked = 0

        def __call__(self, seed, x, ids):
            self.seed, self.ids = seed, range(3)
            return self._next

        def _next(self, a, b, tag=0):
            self.asked += 1
            return noise(float(self.asked), float(self.asked + 1), tag)

    results = []
    for data, grid, start in ((target, here, x), (scaled, there, factor * x)):
        body = solver.run(posed(solver, data.denoiser(schedule)), start, grid, Numbered()(seed, x, None))
        results.append([step[1] for step in body][-1])
    assert apart(factor * results[0], results[1]) < 1e-8


@pytest.mark.parametrize("solver", engines_by_day([s for s in FREE if s.one_step]), ids=label)
@examples(3)
@given(
    target=testing.mixtures(),
    log_snr=testing.log_snr_grids(min_steps=2),
    where=st.integers(1, 11),
    seed=testing.seeds(),
)
def test_splitting_a_run_at_a_node_changes_nothing_for_a_one_step_method(solver, target, log_snr, where, seed):
    assume(where < len(log_snr) - 1)
    schedule = sd.VPLinear()
    times = schedule.time_at(log_snr)
    x = target.at(schedule, float(times[0])).sample(3, seed)
    whole = run(solver, target, schedule, sd.Grid(times), x, seed=seed).x
    half = run(solver, target, schedule, sd.Grid(times[: where + 1]), x, seed=seed).x
    assert apart(run(solver, target, schedule, sd.Grid(times[where:]), half, seed=seed).x, whole) < 1e-12


class _Watched:
    """An exact denoiser that notes when it was asked."""

    def __init__(self, target, schedule):
        self.schedule, self.times, self._exact = schedule, [], target.denoiser(schedule)

    def __call__(self, t, x):
        self.times.extend(np.broadcast_to(t, (x.shape[0],)).tolist())
        return self._exact(t, x)


@pytest.mark.parametrize("solver", engines_by_day(SOLVERS), ids=label)
@examples(2)
@given(schedule=testing.schedules(), target=testing.gaussians(), steps=st.integers(1, 12), seed=testing.seeds())
def test_evaluations_counted_are_those_declared_and_none_is_outside_the_run(solver, schedule, target, steps, seed):
    watched = _Watched(target, schedule)
    x = sd.prior(schedule, (3, *target.event_shape), seed=seed)
    options = {} if solver.adaptive else {"steps": steps}
    solution = sd.solve(posed(solver, watched), x, solver, seed=seed, progress=False, **options).check()
    assert min(watched.times) >= schedule.t_end and max(watched.times) <= schedule.t_start
    assert np.all(solution.t == schedule.t_end)
    assert solution.evaluations.sum() == solution.rows == len(watched.times)
    if not solver.adaptive:
        assert np.all(solution.accepted == steps)
        declared = solver.evaluations(steps, eta_of(solver))
        assert declared is None or np.all(solution.evaluations == declared)


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
@pytest.mark.parametrize("solver", engines_by_day(FREE), ids=label)
@examples(3)
@given(data=st.data(), steps=st.integers(1, 13).map(lambda n: n if n < 13 else 1000), seed=testing.seeds())
def test_a_handful_of_steps_and_a_thousand_are_finite_on_every_schedule_and_grid(solver, data, steps, seed):
    schedule = data.draw(st.sampled_from(SCHEDULES), label="schedule")
    spacing = data.draw(st.sampled_from(SPACINGS), label="spacing")
    terminal = data.draw(st.sampled_from([None, *TERMINALS]), label="terminal")
    if isinstance(spacing, sd.spacings.Times):
        spacing = dataclasses.replace(
            spacing, inner=tuple(np.linspace(schedule.t_start, schedule.t_end, steps + 1)[1:-1].tolist())
        )
    if isinstance(spacing, sd.spacings.Subsequence):
        steps = min(steps, 900)
    problem = posed(solver, sd.targets.Gaussian((0.3, -1.0, 0.2), (0.5, 2.0, 0.1)).denoiser(schedule))
    options = {"steps": steps, "spacing": spacing, "terminal": terminal, "seed": seed, "progress": False}
    assert torch.isfinite(sd.sample(problem, (2, 3), solver, **options).check().x).all()
