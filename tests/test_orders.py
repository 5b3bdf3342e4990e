"""Every declared order is the measured one: the proofs of `scorediff.verify` on our own solvers, and what is beside."""

import numpy as np
import pytest
import torch
from discovery import FIRST, OURS, label

import scorediff as sd
from scorediff import testing, verify

FIXED = [s for s in OURS if not s.adaptive]
ODE = [s for s in FIXED if sd.ProbabilityFlow in s.solves and s.order]
ADAPTIVE = [s for s in OURS if s.adaptive and s.order]
SDE = [s for s in FIXED if sd.ReverseSDE in s.solves and s.weak_order]
ONE_ODE, ONE_SDE = ([s for s in solvers if s in FIRST] for solvers in (ODE, SDE))


# of each class one; `scorediff order --all` measures every variant, with every claim
@pytest.mark.parametrize("solver", [s for s in [*ODE, *ADAPTIVE] if s in FIRST], ids=label)
def test_a_solver_has_the_order_it_declares(solver):
    testing.assert_order(solver)


def assert_at_least(solver, **where):
    """The declared order or more: on one problem alone a method may have more than its own."""
    report = verify.order(solver, **where)
    assert report.ok or "it has more" in report.verdict, report.table()


@pytest.mark.parametrize("solver", ONE_ODE, ids=label)
def test_it_has_that_order_on_a_grid_that_stays_uneven(solver):
    # the ratio of neighbouring steps is 2 or 1/2 throughout: what a multistep method makes of it shows
    assert_at_least(solver, grid=verify.ROUGH, target=verify.GAUSSIAN, schedule=sd.VPLinear())


@pytest.mark.parametrize("schedule", [sd.VPCosine(), sd.VPDiscrete(), sd.SubVP()], ids=label)
@pytest.mark.parametrize("solver", ONE_ODE, ids=label)
def test_it_has_that_order_on_other_schedules_too(solver, schedule):
    assert_at_least(solver, target=verify.GAUSSIAN, schedule=schedule)


@pytest.mark.parametrize("solver", ONE_SDE, ids=label)
def test_a_solver_of_the_sde_has_the_weak_order_it_declares(solver):
    testing.assert_order(solver, eta=1.0)


@pytest.mark.parametrize("solver", [s for s in ONE_SDE if s.weak_order > 1], ids=label)
def test_it_has_that_weak_order_on_a_grid_that_stays_uneven(solver):
    testing.assert_order(solver, eta=1.0, grid=verify.ROUGH, target=verify.GAUSSIAN, schedule=sd.VPLinear())


@pytest.mark.parametrize("eta", [0.1, 0.5])
@pytest.mark.parametrize("solver", [s for s in ONE_SDE if not s.name.startswith("ddpm")], ids=label)
def test_it_has_that_weak_order_at_any_eta(solver, eta):
    testing.assert_order(solver, eta=eta, target=verify.GAUSSIAN)


@pytest.mark.parametrize("name", ["ddim", "ddpm-large", "sde-dpm-2m", "euler-maruyama"])
def test_a_solver_of_the_sde_has_the_strong_order_it_declares(name):
    report = verify.strong_order(name, steps=(8, 16, 32, 64, 128))
    assert report.ok, report.table()


@pytest.mark.parametrize("n", [7, 13, 30, 64, 160, 320])
def test_subsequences_of_a_thousand_step_model_keep_ddims_order(n):
    schedule = sd.VPDiscrete()
    target = sd.Gaussian((0.5,), (0.25,))
    flow = sd.ProbabilityFlow(target.denoiser(schedule))
    x = target.at(schedule, 1.0).sample(8)
    error = float(
        (sd.solve(flow, sd.DDIM(), x, steps=n, spacing=sd.Subsequence()).x - target.flow(schedule, 1.0, 1e-3, x))
        .abs()
        .max()
    )
    # order 1 without a floor: whatever the stride, divisor of 1000 or not
    assert 0.1 < error * n < 10


@pytest.mark.parametrize("schedule", [sd.EDM(sigma_min=1e-2), sd.VPLinear(), sd.SubVP()], ids=label)
def test_the_terminal_maps_leave_what_they_say(schedule):
    target, variance = sd.Gaussian((0.3,), (0.5,)), 0.5
    flow = sd.ProbabilityFlow(target.denoiser(schedule))
    left = {}
    for s in (0.05, 0.1):
        t = schedule.time_at(-np.log(s))
        x = target.at(schedule, t).sample(9)
        # the flow's own limit at sigma = 0, where alpha = 1
        exact = 0.3 + np.sqrt(variance / (variance + s**2)) * (x / schedule.alpha(t) - 0.3)
        for terminal in (None, sd.Denoise(), sd.HalfStep()):
            got = sd.solve(flow, sd.DDIM(), x, grid=[t * (1 + 1e-9), t], terminal=terminal)
            scale = schedule.alpha(t) if terminal is None else 1.0
            left[terminal, s] = float((got.x / scale - exact).abs().max())
            assert got.evaluations.tolist() == [1 + (terminal is not None)] * 9
            assert terminal is None or not torch.equal(got.x, got.x_end)
    for terminal, order in ((None, 2), (sd.Denoise(), 2), (sd.HalfStep(), 4)):
        assert np.log2(left[terminal, 0.1] / left[terminal, 0.05]) == pytest.approx(order, abs=0.1)
