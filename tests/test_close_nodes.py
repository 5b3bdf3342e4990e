"""Nodes that lie close together, and steps that grow fast, cost accuracy at most: no weight grows without bound."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from discovery import BY_NIGHT, OURS, engines_by_day, eta_of, label, takes_even_steps_alone

import scorediff as sd
from scorediff.solvers.exponential.engine import GridSteps
from scorediff.solvers.exponential.multistep import Multistep
from scorediff.verify import uneven

TARGET = sd.targets.GaussianMixture((0.5, 0.5), [(1.0, 0.5), (-1.0, -0.5)], (0.1, 0.2))
SCHEDULES = [sd.VPLinear(), sd.RectifiedFlow(), sd.EDM()]
FIXED = [s for s in OURS if not s.adaptive and not takes_even_steps_alone(s)]
MULTISTEP = [s for s in FIXED if isinstance(s, Multistep)]
#: How far a node lies from its neighbour, in units of the time; one unit in the last place where it is 0.
DISTANCES = (1e-3, 1e-5, 1e-7, 1e-11, 0.0) if BY_NIGHT else (1e-5, 0.0)


def posed(solver, schedule):
    denoiser = TARGET.denoiser(schedule)
    return sd.ReverseSDE(denoiser, 1.0) if eta_of(solver) else sd.ProbabilityFlow(denoiser)


def with_a_node_close_to(times, n, distance):
    near = times[n] * (1 - distance) if distance else np.nextafter(times[n], 0)
    return np.insert(times, n + 1, near)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("solver", engines_by_day(FIXED), ids=label)
def test_a_node_close_to_another_leaves_the_result_about_where_it_is(solver, schedule):
    times = schedule.time_at(np.linspace(-3.0, 3.0, 13))
    start = TARGET.at(schedule, float(times[0])).sample(8, seed=1)
    for dtype in (torch.float64, torch.float32):
        x = start.to(dtype)
        plain, other = (sd.solve(posed(solver, schedule), x, solver, grid=times, seed=k).check().x for k in (0, 1))
        for distance in DISTANCES:
            for n in (0, 6, 11):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    grid = with_a_node_close_to(times, n, distance)
                    found = sd.solve(posed(solver, schedule), x, solver, grid=grid).check().x
                if torch.equal(plain, other):
                    # a step of order 1 where the nodes meet is off by as much
                    assert (found - plain).abs().max() < 0.2, (n, distance, dtype)
                else:  # by noise of its own
                    assert found.abs().max() < 5, (n, distance, dtype)


@pytest.mark.parametrize("solver", [s for s in MULTISTEP if sd.ProbabilityFlow in s.solves and s.k > 1], ids=label)
def test_several_close_nodes_too(solver):
    schedule = sd.VPLinear()
    times = schedule.time_at(np.linspace(-3.0, 3.0, 13))
    x = TARGET.at(schedule, float(times[0])).sample(8, seed=1)
    plain = sd.solve(posed(solver, schedule), x, solver, grid=times).check().x
    crowd = np.sort(
        np.concatenate([times, times[5] * (1 - 1e-6 * np.arange(1, 5)), times[9] * (1 - np.array([1e-4, 1e-9]))])
    )
    found = sd.solve(posed(solver, schedule), x, solver, grid=crowd[::-1]).check().x
    assert (found - plain).abs().max() < 0.3


def test_the_orders_say_where_fewer_evaluations_were_used():
    schedule = sd.VPLinear()
    times = schedule.time_at(np.linspace(-3.0, 3.0, 13))
    x = TARGET.at(schedule, float(times[0])).sample(2)
    grid = with_a_node_close_to(times, 6, 1e-5)
    orders = sd.solve(posed(sd.DPMSolverPP(2), schedule), x, "dpm++2m", grid=grid).orders_used
    # the step to the close node may look back on a whole one; the step from it would extrapolate 1e5 times as far
    assert orders.tolist() == [1, *[2] * 6, 1, *[2] * 5]
    assert sd.solve(posed(sd.DPMSolverPP(2), schedule), x, "dpm++2m", grid=times).orders_used.tolist() == [1, *[2] * 11]


def orders(solver, grid, schedule):
    steps = GridSteps.of(posed(solver, schedule), grid)
    return np.array([plan.order for plan in solver.plan(steps, solver.part.components[0])])


@pytest.mark.parametrize("solver", MULTISTEP, ids=label)
def test_no_even_step_nor_one_of_its_own_spacing_on_the_ladder_uses_fewer_evaluations(solver):
    schedule = sd.VPLinear()
    ends = {"t_start": schedule.time_at(-2.0), "t_end": schedule.time_at(2.0)}
    for spacing in (sd.spacings.UniformLogSNR(), solver.spacing):
        for steps in (10, 14, 28, 57, 113, 320):
            found = orders(solver, spacing(schedule, steps, **ends), schedule)
            # orders rise at the start, are full in the middle, and fall where it says so
            assert np.all(np.diff(found[: steps - solver.full_order]) >= 0), found


@pytest.mark.parametrize("solver", MULTISTEP, ids=label)
def test_steps_of_1_to_6_to_2_to_8_use_all_evaluations_but_where_they_are_eased_in(solver):
    schedule = sd.VPLinear()
    ends = {"t_start": schedule.time_at(-2.0), "t_end": schedule.time_at(2.0)}
    full = solver.full_order
    for steps in (80, 160, 320):
        found = orders(solver, uneven(solver.order or 1)(schedule, steps, **ends), schedule)
        middle = found[40 : -full - 1] if solver.corrects or solver.lower_order_final else found[40:]
        assert np.all(middle == middle.max()), found


@dataclass(frozen=True)
class Broken(sd.DPMSolverPP):
    """Its weights are undefined."""

    def predictor(self, history):
        return np.full_like(history.back, np.nan)


def test_a_step_that_is_not_made_of_numbers_is_refused_with_its_nodes_before_the_network_is_called():
    def network(x, t):
        raise AssertionError("called")

    flow = sd.ProbabilityFlow(sd.Denoiser(network, sd.VPLinear(), sd.NoisePrediction()))
    with pytest.raises(ValueError, match=r"t = 0\.9 to 0\.5 is not made of finite numbers.*leave one out"):
        sd.solve(flow, torch.zeros(1, 2), Broken(2), grid=[0.9, 0.5, 0.1])


def test_coefficients_that_half_precision_cannot_hold_are_refused_before_the_network_is_called():
    flow = sd.ProbabilityFlow(TARGET.denoiser(sd.EDM(1e-5, 1e3)))
    x = torch.zeros(1, 2, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"not made of finite numbers of torch\.float16.*another dtype"):
        sd.solve(flow, x, "dpm++2m", grid=[1e-5, 1e3])
    assert sd.solve(flow, x.float(), "dpm++2m", grid=[1e-5, 1e3]).x.isfinite().all()
