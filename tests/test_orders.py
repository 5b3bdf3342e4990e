"""Every declared order is the measured one: the proofs of `scorediff.verify`, and what is beside.

The recorded table has the orders of all variants (`make orders`, orders.py). By day they are measured again for one
solver of each engine and each branch in it, and for what has no line in the table yet.
"""

import numpy as np
import pytest
import torch
from discovery import OURS, SCHEDULES, UNRECORDED, by_day, engines_by_day, label
from engines import stand_ins
from shared import shared

import scorediff as sd
from scorediff import testing, verify

FIXED = [s for s in OURS if not s.adaptive]
ODE = [s for s in FIXED if sd.ProbabilityFlow in s.solves and s.order]
ADAPTIVE = [s for s in OURS if s.adaptive and s.order]
SDE = [s for s in FIXED if sd.ReverseSDE in s.solves and s.weak_order]
OTHERS = [s for s in SCHEDULES if s not in (sd.VPLinear(), sd.RectifiedFlow())]
ANY_ETA = [s for s in SDE if not s.name.startswith("ddpm")]


@pytest.mark.recorded
@pytest.mark.parametrize("solver", stand_ins(ODE), ids=label)
def test_a_solver_has_the_order_it_declares(solver):
    # that on a mixture of those that evaluate more than once a step is in the table
    testing.assert_order(solver, **({} if solver.nfe == 1 else {"target": verify.GAUSSIAN}))


@pytest.mark.recorded
@pytest.mark.parametrize("solver", [s for s in stand_ins(ADAPTIVE) if s.order < 4], ids=label)
def test_an_adaptive_solver_has_the_order_it_declares_in_the_mean_number_of_its_steps(solver):
    # a ladder of tolerances is long where the order is high
    testing.assert_order(solver, target=sd.targets.Gaussian((0.3, -0.5), (0.1, 1.5)), schedule=sd.VPLinear())


@pytest.mark.recorded
@pytest.mark.parametrize("solver", stand_ins([s for s in SDE if s not in ANY_ETA]), ids=label)
def test_a_solver_of_the_sde_has_the_weak_order_it_declares(solver):
    # on a Gaussian, where the distribution is soon computed; that on a mixture is in the table
    testing.assert_order(solver, eta=1.0, target=verify.GAUSSIAN)


@pytest.mark.recorded
@pytest.mark.parametrize("solver", UNRECORDED, ids=label)
def test_a_solver_without_a_line_in_the_table_has_all_that_it_claims(solver):
    for row in verify.audit(solver):
        assert row.ok, row.report.table()


@shared
def step_order(name):
    return verify.step_order(name)


@pytest.mark.parametrize("solver", ODE, ids=label)
def test_one_step_has_its_order_where_neighbouring_steps_differ(solver):
    assert step_order(solver.name).ok, str(step_order(solver.name))


@pytest.mark.parametrize("solver", [s for s in ODE if s.one_step], ids=label)
def test_a_step_that_remembers_nothing_has_the_order_of_the_run(solver):
    # one that starts from a corrected state is of one less, as verify.step_order says
    found = step_order(solver.name)
    assert min(found.even, found.uneven) > solver.order - 0.2, str(found)


@pytest.mark.parametrize("schedule", by_day(OTHERS, OTHERS[:2]), ids=label)
@pytest.mark.parametrize("solver", engines_by_day([s for s in ODE if not s.invariant]), ids=label)
def test_it_has_that_order_on_other_schedules_too(solver, schedule):
    # of what is invariant the coefficients are the same on every schedule: test_coefficients.py
    report = verify.order(solver, target=verify.GAUSSIAN, schedule=schedule)
    # on one problem alone a method may have more than what it declares
    assert report.ok or "it has more" in report.verdict, report.table()


@pytest.mark.parametrize("eta", by_day([0.1, 0.5], (0.5,)))
@pytest.mark.parametrize("solver", engines_by_day(ANY_ETA), ids=label)
def test_it_has_that_weak_order_at_any_eta(solver, eta):
    # no farther than slopes need, since the distribution takes the more time the more noises there are
    testing.assert_order(solver, eta=eta, target=verify.GAUSSIAN, steps=(28, 40, 57, 80, 113, 160))


@pytest.mark.recorded
@pytest.mark.parametrize("solver", stand_ins([s for s in SDE if s.strong_order and s.nfe == 1]), ids=label)
def test_a_solver_of_the_sde_has_the_strong_order_it_declares(solver):
    report = verify.strong_order(solver, target=verify.LINE, steps=(8, 16, 32, 64, 128))
    assert report.ok, report.table()


@pytest.mark.parametrize("n", [7, 13, 30, 64, 160, 320])
def test_subsequences_of_a_thousand_step_model_keep_ddims_order(n):
    schedule = sd.VPDiscrete()
    target = sd.targets.Gaussian((0.5,), (0.25,))
    flow = sd.ProbabilityFlow(target.denoiser(schedule))
    x = target.at(schedule, 1.0).sample(8)
    error = float(
        (
            sd.solve(flow, x, sd.DDIM(), steps=n, spacing=sd.spacings.Subsequence()).x
            - target.flow(schedule, 1.0, 1e-3, x)
        )
        .abs()
        .max()
    )
    # order 1 without a floor: whatever the stride, divisor of 1000 or not
    assert 0.1 < error * n < 10


@pytest.mark.parametrize("schedule", [sd.EDM(sigma_min=1e-2), sd.VPLinear(), sd.schedules.SubVP()], ids=label)
def test_the_terminal_maps_leave_what_they_say(schedule):
    target, variance = sd.targets.Gaussian((0.3,), (0.5,)), 0.5
    flow = sd.ProbabilityFlow(target.denoiser(schedule))
    left = {}
    for s in (0.05, 0.1):
        t = schedule.time_at(-np.log(s))
        x = target.at(schedule, t).sample(9)
        # the limit of the flow at sigma = 0, where alpha = 1
        exact = 0.3 + np.sqrt(variance / (variance + s**2)) * (x / schedule.alpha(t) - 0.3)
        for terminal in (None, sd.solvers.Denoise(), sd.solvers.HalfStep()):
            got = sd.solve(flow, x, sd.DDIM(), grid=[t * (1 + 1e-9), t], terminal=terminal)
            scale = schedule.alpha(t) if terminal is None else 1.0
            left[terminal, s] = float((got.x / scale - exact).abs().max())
            assert got.evaluations.tolist() == [1 + (terminal is not None)] * 9
            assert terminal is None or not torch.equal(got.x, got.x_end)
    for terminal, order in ((None, 2), (sd.solvers.Denoise(), 2), (sd.solvers.HalfStep(), 4)):
        assert np.log2(left[terminal, 0.1] / left[terminal, 0.05]) == pytest.approx(order, abs=0.1)
