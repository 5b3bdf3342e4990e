"""What follows from the array of coefficients alone, asked of it once, for every variant of every linear solver.

A fixed-grid sampler whose output is `sum_k c_k (start, model outputs, noises)_k`, with one number `c_k` for all entries
and rows, commutes with whatever acts on states linearly. So its coefficients are taken once, and asked.
"""

import functools

import numpy as np
import pytest
import torch
from discovery import SCHEDULES, SOLVERS, eta_of, label, nodes_for, takes_even_steps_alone, within
from oracle import one_after_the_other

import scorediff as sd
from scorediff.solvers.probe import probe
from scorediff.solvers.unrolled import Outputs, unrolled

LINEAR = [s for s in SOLVERS if s.linear and not s.adaptive]
INVARIANT = [s for s in LINEAR if s.invariant]
# a Gaussian of a given variance around 0 knows where the data lies, and how far it reaches
UNBOUND = [s for s in INVARIANT if s.own_variance is None]
# third-party solvers keep the time in the variable they integrate in, to the rounding of its inverse
ROUNDING = 1e-9
LOG_SNR = np.array([-2.0, -1.7, -0.9, -0.7, 0.1, 0.5, 0.6, 1.4, 2.0])
HALF = 4  # a node to split a run at


@functools.cache
def _unrolled(name, schedule, log_snr):
    solver = next(s for s in LINEAR if s.name == name)
    return unrolled(
        solver, nodes_for(solver, schedule, np.array(log_snr)), schedule, eta_of(solver), sd.DataPrediction()
    )


def unrolled_on(solver, schedule, log_snr=LOG_SNR):
    return _unrolled(solver.name, schedule, tuple(log_snr.tolist()))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * (1 + np.abs(b).max(initial=0)))


@pytest.mark.parametrize("solver", LINEAR, ids=label)
def test_a_body_that_claims_to_be_linear_is_entry_by_entry_and_row_by_row(solver):
    # a batch of unit vectors and, last, a random combination of them, other for every entry: were a row or an entry to
    # look at another, or were anything not linear, the combination would come out as another
    assert np.isfinite(unrolled_on(solver, sd.VPLinear()).coefficients.array).all()


@pytest.mark.parametrize("solver", LINEAR, ids=label)
def test_every_entry_has_the_same_coefficients_so_that_turned_data_are_turned_samples(solver):
    schedule = sd.RectifiedFlow()
    seen = probe(
        solver,
        nodes_for(solver, schedule, LOG_SNR),
        eta_of(solver),
        lambda weights, rows: Outputs(schedule, sd.DataPrediction(), weights, rows),
        entries=3,
        with_outputs=True,
    )
    for state in [*seen.denoiser.states, seen.output]:
        # the last row is the combination, which differs from entry to entry
        torch.testing.assert_close(state[:-1], state[:-1, :1].expand(-1, 3), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", UNBOUND, ids=label)
def test_shifting_the_data_shifts_every_state_of_an_invariant_solver(solver):
    # x_T + alpha_T m and D + m for every model output make x + alpha m
    schedule = sd.VPLinear()
    found = unrolled_on(solver, schedule).coefficients
    times = np.append(found.times, schedule.time_at(LOG_SNR[-1]))
    start = schedule.alpha(schedule.time_at(LOG_SNR[0]))
    close(found.start * start + found.outputs.sum(1), schedule.alpha(times))


@pytest.mark.parametrize("solver", UNBOUND, ids=label)
def test_scaling_the_data_and_moving_the_nodes_scales_every_state_of_an_invariant_solver(solver):
    # y = x / alpha and s = sigma / alpha scale by c, and the log-SNR moves by -log c: seen on EDM, where x = y
    schedule, factor = sd.EDM(sigma_min=1e-3, sigma_max=500.0), 2.5
    here, there = (unrolled_on(solver, schedule, LOG_SNR - shift).coefficients for shift in (0.0, np.log(factor)))
    close(there.start, here.start)
    close(there.outputs, here.outputs)
    close(there.noises, factor * here.noises)


@pytest.mark.parametrize("solver", INVARIANT, ids=label)
def test_an_invariant_solver_has_the_same_coefficients_on_every_schedule(solver):
    # of x / alpha, on the same log-SNR nodes
    arrays, nodes = {}, LOG_SNR[:6]
    for schedule in SCHEDULES:
        log_snr = np.array([within(schedule, value) for value in nodes])
        if np.allclose(log_snr, nodes):
            found = unrolled_on(solver, schedule, nodes).coefficients
            alpha = schedule.alpha(np.append(found.times, schedule.time_at(nodes[-1])))
            array = found.array / alpha[:, None]
            array[:, 0] *= schedule.alpha(schedule.time_at(nodes[0]))
            arrays[type(schedule).__name__] = array
    assert len(arrays) > 5
    for array in arrays.values():
        close(array, arrays["VPLinear"])


@pytest.mark.parametrize("solver", [s for s in LINEAR if s.one_step and not takes_even_steps_alone(s)], ids=label)
def test_splitting_a_run_at_a_node_changes_nothing_for_a_one_step_method(solver):
    schedule = sd.VPLinear()
    whole, *parts = (
        unrolled_on(solver, schedule, nodes).coefficients for nodes in (LOG_SNR, LOG_SNR[: HALF + 1], LOG_SNR[HALF:])
    )
    close(one_after_the_other(*parts), whole.array[-1])
