"""Adaptive solvers: each sample has its own time, step, error and fate, whatever the others' and on every schedule."""

import numpy as np
import pytest
import torch
from discovery import COORDINATES, OURS, SCHEDULES, by_day, eta_of, label

import scorediff as sd
from scorediff.denoiser import DenoiserBase

SCHEDULE = sd.VPLinear()
EASY = sd.targets.Gaussian((0.3, -1.0), (0.5, 2.0))
MIXTURE = sd.targets.GaussianMixture((0.3, 0.7), ((1.0, -0.5), (-0.6, 0.8)), (0.01, 0.02))


@pytest.mark.parametrize("coordinates", COORDINATES, ids=label)
@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_the_error_follows_the_tolerance_in_every_coordinates(coordinates, rtol):
    flow = sd.ProbabilityFlow(EASY.denoiser(SCHEDULE))
    x = EASY.at(SCHEDULE, 1.0).sample(8)
    solution = sd.solve(flow, x, sd.RK45(rtol, rtol, coordinates)).check()
    error = (solution.x - EASY.flow(SCHEDULE, 1.0, SCHEDULE.t_end, x)).abs().max()
    assert error < 60 * rtol
    assert np.all(solution.evaluations == 2 + 6 * (solution.accepted + solution.rejected))


@pytest.mark.parametrize("t_end", [1e-3, 1e-5])
@pytest.mark.parametrize("coordinates", COORDINATES, ids=label)
def test_it_lands_on_the_end_and_never_asks_beyond(coordinates, t_end):
    flow = sd.ProbabilityFlow(EASY.denoiser(SCHEDULE))
    solution = sd.sample(flow, (4, 2), sd.RK45(coordinates=coordinates), t_end=t_end, dtype=torch.float64).check()
    assert np.all(solution.t == t_end)


def test_saved_times_are_met_exactly_and_change_little():
    flow = sd.ProbabilityFlow(EASY.denoiser(SCHEDULE))
    x = EASY.at(SCHEDULE, 1.0).sample(5)
    solution = sd.solve(flow, x, sd.RK45(1e-8, 1e-8), save=[1.0, 0.7, 0.1]).check()
    for t, state in zip([1.0, 0.7, 0.1], solution.states, strict=True):
        torch.testing.assert_close(state, EASY.flow(SCHEDULE, 1.0, t, x), rtol=1e-6, atol=1e-6)


def test_one_hard_sample_among_easy_ones_costs_them_nothing_and_is_as_right_as_alone():
    easy, hard = EASY.denoiser(SCHEDULE), MIXTURE.denoiser(SCHEDULE)

    def net(x, t, is_hard):
        times = t.double().numpy()
        return torch.where(is_hard[:, None], hard(times, x)[1], easy(times, x)[1])

    flow = sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))
    x, is_hard = sd.prior(SCHEDULE, (64, 2), dtype=torch.float64), torch.arange(64) == 17
    solver, others = sd.RK45(1e-6, 1e-6), ~is_hard
    together = sd.solve(flow, x, solver, cond={"is_hard": is_hard}).check()
    alone = sd.solve(flow, x[is_hard], solver, cond={"is_hard": is_hard[is_hard]}).check()
    without = sd.solve(flow, x[others], solver, cond={"is_hard": is_hard[others]}).check()
    assert together.evaluations[17] > 1.5 * together.evaluations[others.numpy()].max()
    # the denoisers' own sums round differently in batches of 1 and 64
    torch.testing.assert_close(together.x[is_hard], alone.x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(together.x[others], without.x, rtol=1e-10, atol=1e-10)
    assert np.array_equal(together.evaluations[others.numpy()], without.evaluations)
    assert together.evaluations[17] == alone.evaluations[0]
    # finished samples leave the batch
    assert together.rows == together.evaluations.sum() < 64 * together.calls


def test_encode_then_sample_comes_back():
    flow = sd.ProbabilityFlow(MIXTURE.denoiser(SCHEDULE))
    x = MIXTURE.at(SCHEDULE, SCHEDULE.t_end).sample(8)
    latent = sd.encode(flow, x, sd.RK45(1e-10, 1e-10)).check()
    assert np.all(latent.t == 1.0)
    torch.testing.assert_close(sd.solve(flow, latent.x, sd.RK45(1e-10, 1e-10)).x, x, rtol=1e-6, atol=1e-6)


def test_an_exhausted_budget_is_a_status_and_raised_on_request():
    flow = sd.ProbabilityFlow(MIXTURE.denoiser(SCHEDULE))
    solution = sd.sample(flow, (3, 2), sd.RK45(1e-9, 1e-9), max_evaluations=40, dtype=torch.float64)
    assert np.all(solution.status == sd.Status.BUDGET_EXHAUSTED) and np.all(solution.evaluations <= 40)
    assert np.all(solution.t > SCHEDULE.t_end) and torch.isfinite(solution.x).all()
    assert solution.settings["solver"]["max_evaluations"] == 40
    with pytest.raises(
        sd.SolverError, match=r"sample 0 \(and 2 more of 3\): budget exhausted at t = .*max_evaluations"
    ):
        solution.check()


def test_one_nan_sample_in_eight_leaves_seven_right():
    def net(x, t):
        out = EASY.denoiser(SCHEDULE)(t.double().numpy(), x)[1]
        broken = (x[:, 0] > 50) & (t < 0.5)
        return torch.where(broken[:, None], torch.nan, out)

    model = sd.Denoiser(net, SCHEDULE, sd.NoisePrediction())
    x = EASY.at(SCHEDULE, 1.0).sample(8)
    x[3] = 100.0
    solution = sd.solve(sd.ProbabilityFlow(model), x, sd.RK45(1e-6, 1e-6))
    assert solution.status.tolist() == [0, 0, 0, sd.Status.NON_FINITE, 0, 0, 0, 0]
    t, number, _ = solution.bad[3]
    assert t < 0.5 and 2 <= number <= solution.evaluations[3]
    others = [0, 1, 2, 4, 5, 6, 7]
    torch.testing.assert_close(solution.x[others], EASY.flow(SCHEDULE, 1.0, 1e-3, x)[others], rtol=1e-4, atol=1e-4)


def test_a_jump_of_the_network_ends_in_an_answer_not_a_hang():
    def net(x, t):
        return torch.where(t[:, None] < 0.5, 10.0, -10.0) * torch.ones_like(x)

    flow = sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))
    solution = sd.sample(flow, (2, 2), sd.RK45(1e-12, 1e-12), dtype=torch.float64, max_evaluations=3000)
    assert set(solution.status.tolist()) <= set(map(int, sd.Status)) - {sd.Status.RUNNING}
    assert np.all(solution.evaluations <= 3000)


def test_a_sample_that_is_nan_from_the_first_leaves_the_others_right():
    c = torch.ones(8, 1)
    c[3] = torch.nan
    model = sd.Denoiser(lambda x, t, c: 0.1 * x / c, SCHEDULE, sd.NoisePrediction())
    solution = sd.sample(sd.ProbabilityFlow(model), (8, 2), sd.RK45(), cond={"c": c})
    assert solution.status.tolist() == [0, 0, 0, sd.Status.NON_FINITE, 0, 0, 0, 0]
    assert solution.bad[3] == (1.0, 1, None)


def test_samples_that_all_fail_at_once_are_not_a_success():
    model = sd.Denoiser(lambda x, t: x * 1e30, sd.EDM(), sd.DataPrediction())
    assert not sd.sample(sd.ProbabilityFlow(model), (2, 2), sd.RK45()).ok


@pytest.mark.parametrize("coordinates", [*COORDINATES, sd.coordinates.Angle(0.5)], ids=label)
@pytest.mark.parametrize("schedule", [sd.VPLinear(), sd.VPCosine(), sd.schedules.SubVP()], ids=label)
def test_short_runs_stay_inside_in_both_directions(schedule, coordinates):
    flow = sd.ProbabilityFlow(EASY.denoiser(schedule))
    for t_start, t_end in ((0.928221539648976, 0.8870421630849759), (0.02, 0.0100000001), (0.3, 0.3 - 1e-9)):
        x = EASY.at(schedule, t_start).sample(3)
        solver = sd.RK45(1e-6, 1e-6, coordinates)
        sd.solve(flow, x, solver, t_start=t_start, t_end=t_end).check()
        sd.encode(flow, x, solver, t_start=t_start, t_end=t_end).check()


def test_save_times_close_together_cost_little_and_come_in_any_order():
    flow = sd.ProbabilityFlow(EASY.denoiser(SCHEDULE))
    x = EASY.at(SCHEDULE, 1.0).sample(3)
    plain = sd.solve(flow, x, sd.RK45(1e-6, 1e-6), save=[0.5]).check()
    close = sd.solve(flow, x, sd.RK45(1e-6, 1e-6), save=[0.5 - 1e-9, 0.5, np.nextafter(0.5, 0)]).check()
    assert np.all(close.evaluations <= plain.evaluations + 24)
    torch.testing.assert_close(close.states[0], close.states[1], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"save time 2.0 is outside the run"):
        sd.solve(flow, x, sd.RK45(), save=[2.0])
    encoded = sd.encode(flow, x, sd.RK45(), save=np.array([0.5]))
    assert encoded.states.shape == (1, 3, 2)


def test_save_times_that_were_not_reached_are_nan():
    flow = sd.ProbabilityFlow(EASY.denoiser(SCHEDULE))
    solution = sd.sample(
        flow, (4, 2), sd.RK45(1e-6, 1e-6), save=[0.9, 0.01], max_evaluations=26, batch_size=1, dtype=torch.float64
    )
    assert solution.states.shape == (2, 4, 2)
    assert torch.isfinite(solution.states[0]).all() and torch.isnan(solution.states[1]).all()


def test_pure_relative_tolerance_bears_a_zero():
    flow = sd.ProbabilityFlow(sd.targets.Gaussian((0.0, 0.0), (1.0, 1.0)).denoiser(SCHEDULE))
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert sd.solve(flow, x, sd.RK45(1e-3, 0.0)).check().x[0, 0] == 0.0


# --- every adaptive solver on every schedule ---

ADAPTIVE = [s for s in OURS if s.adaptive]
OF_THE_FLOW = [s for s in ADAPTIVE if not eta_of(s)]
SQUARED = tuple(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
COSINE = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
EVERYWHERE = [
    *SCHEDULES,
    sd.RectifiedFlow(3.0),
    sd.VPDiscrete(SQUARED),
    sd.VPDiscrete(tuple(np.minimum(1 - COSINE[1:] / COSINE[:-1], 0.999))),
    sd.schedules.ZeroTerminalSNR(SQUARED),
]


def posed(solver, denoiser):
    return sd.ReverseSDE(denoiser) if eta_of(solver) else sd.ProbabilityFlow(denoiser)


@pytest.mark.parametrize("schedule", by_day(EVERYWHERE, EVERYWHERE[-3:]), ids=repr)
@pytest.mark.parametrize("solver", ADAPTIVE, ids=label)
def test_a_sample_alone_is_that_of_the_batch_bit_for_bit_on_every_schedule(solver, schedule):
    # a diagonal Gaussian: every entry of every sample for itself, so that no sum could round in another order
    denoiser, solver = EASY.denoiser(schedule), solver.at(1e-1 if eta_of(solver) else 1e-4)
    x = EASY.at(schedule, schedule.t_start).sample(12)
    together = sd.solve(posed(solver, denoiser), x, solver, seed=2).check()
    for i in (0, 5, 11):
        alone = sd.solve(posed(solver, denoiser), x[i : i + 1], solver, seed=2, ids=[i]).check()
        assert torch.equal(alone.x, together.x[i : i + 1])
        assert (alone.evaluations[0], alone.error[0]) == (together.evaluations[i], together.error[i])


class Watched(DenoiserBase):
    """Another denoiser, and the least and the largest time at which it was evaluated."""

    def __init__(self, inner):
        self.inner, self.schedule, self.prediction = inner, inner.schedule, inner.prediction
        self.times = (np.inf, -np.inf)

    made_of = ()

    def evaluate(self, t, x, cond):
        self.times = min(self.times[0], np.min(t)), max(self.times[1], np.max(t))
        return self.inner.evaluate(t, x, cond)


#: Schedules with ends close to the data or far in the noise, and runs as close to the ends of others.
FAR = [
    *((sd.EDM(low, high), {}) for low in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3) for high in (1e5, 1e3, 80.0)),
    *((sd.VE(low, high), {}) for low in (1e-8, 1e-5, 1e-3) for high in (1e5, 50.0)),
    *((sd.VPLinear(0.1, high), {"t_end": end}) for high in (100.0, 20.0) for end in (1e-9, 1e-7, 1e-5)),
    *((sd.VPCosine(t_max=1 - gap), {"t_end": end}) for gap in (1e-8, 1e-4) for end in (1e-9, 1e-5)),
    *((sd.schedules.SubVP(), {"t_end": end}) for end in (1e-7, 1e-5, 1e-3)),
    *(
        (sd.RectifiedFlow(shift), {"t_start": 1 - gap, "t_end": end})
        for shift in (1.0, 3.0)
        for gap in (1e-9, 1e-4)
        for end in (1e-6, 1e-4)
    ),
    *((sd.schedules.ZeroTerminalSNR(), {"t_start": 1 - gap}) for gap in (1e-9, 1e-6, 1e-4)),
]
FAR_BY_DAY = [FAR[0], *FAR[8:9], *FAR[18:19], FAR[24], FAR[30]]


@pytest.mark.parametrize(("schedule", "ends"), by_day(FAR, FAR_BY_DAY), ids=lambda v: "to" if v == {} else repr(v))
@pytest.mark.parametrize("solver", OF_THE_FLOW, ids=label)
def test_however_far_the_ends_of_a_run_lie_it_arrives_and_never_asks_beyond_them(solver, schedule, ends):
    denoiser = Watched(EASY.denoiser(schedule))
    t_end, t_start = (ends.get(name, getattr(schedule, name)) for name in ("t_end", "t_start"))
    for run, start in ((sd.solve, t_start), (sd.encode, t_end)):
        solution = run(sd.ProbabilityFlow(denoiser), EASY.at(schedule, start).sample(2), solver, **ends).check()
        assert np.all(solution.t == (t_end if run is sd.solve else t_start))
    assert denoiser.times == (t_end, t_start)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in FAR] + EVERYWHERE, ids=label)
def test_the_time_of_a_variable_lies_in_the_domain_also_where_the_variable_is_flat(schedule):
    lo, hi = schedule.domain
    near = (hi - lo) * np.logspace(-13, -1, 100)
    t = np.concatenate([[lo, hi], lo + near, hi - near])
    shifted = (sd.coordinates.LogShift(), sd.coordinates.LogShift(1e-3, 1e3))
    for variable in (*COORDINATES, sd.coordinates.Angle(0.5), *shifted):
        with np.errstate(divide="ignore"):
            s = variable.value(schedule, t)
        found = variable.time(schedule, s[np.isfinite(s)])
        assert np.all((found >= lo) & (found <= hi))


def test_a_variable_that_the_domain_does_not_reach_is_refused():
    with pytest.raises(ValueError, match=r"1.56 is outside \[0.0019\d+, 1.558\d+\], all that Angle\(data_std=1.0\)"):
        sd.coordinates.Angle().time(sd.EDM(), np.array([1.0, 1.56]))
