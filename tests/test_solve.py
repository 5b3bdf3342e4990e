"""What the driver promises: times, counts, seeds, saved states, settings, memory, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from discovery import OURS, by_day, engines_by_day, label

import scorediff as sd
from scorediff._core.states import Workspace, per_sample, row_mean

SCHEDULE = sd.VPLinear()
TARGET = sd.targets.Gaussian((0.3, -1.0), (0.5, 2.0))
FLOW = sd.ProbabilityFlow(TARGET.denoiser(SCHEDULE))
SDE = sd.ReverseSDE(TARGET.denoiser(SCHEDULE))


class MLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))

    def forward(self, x, t):
        return self.net(torch.cat([x, t[:, None].to(x.dtype)], dim=1))


# -- users' own solvers --------------------------------------------------------------------------------------------


class ExplicitMidpoint(sd.Solver):
    order = 2

    def run(self, problem, x, grid, noise):
        for t, s in grid.pairs():
            middle = x + (s - t) / 2 * problem.drift(t, x)
            x = x + (s - t) * problem.drift((t + s) / 2, middle)
            yield s, x


def test_a_user_defined_solver_of_five_lines_runs_and_has_its_order():
    x = TARGET.at(SCHEDULE, 1.0).sample(5)
    exact = TARGET.flow(SCHEDULE, 1.0, 0.1, x)
    errors = [
        float((sd.solve(FLOW, x, ExplicitMidpoint(), steps=n, t_end=0.1).x - exact).abs().max()) for n in (40, 80)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
    assert ExplicitMidpoint().name == "explicit-midpoint"


# -- what, from what, how ------------------------------------------------------------------------------------------


def test_a_denoiser_is_taken_for_its_flow_or_for_the_reverse_sde_where_the_solver_solves_only_that():
    model, x = TARGET.denoiser(SCHEDULE), TARGET.sample(3)
    for solver, problem in (("dpm++2m", FLOW), ("rk45", FLOW), ("ddpm", SDE), ("sde-dpm++2m", SDE)):
        how = {} if solver == "rk45" else {"steps": 5}
        taken, given = (sd.sample(p, (3, 2), solver, seed=4, **how) for p in (model, problem))
        assert torch.equal(taken.x, given.x) and taken.settings["problem"] == given.settings["problem"]
        start = sd.prior(SCHEDULE, (3, 2))
        assert torch.equal(sd.solve(model, start, solver, **how).x, sd.solve(problem, start, solver, **how).x)
    assert torch.equal(sd.encode(model, x, "dpm++2m", steps=5).x, sd.encode(FLOW, x, "dpm++2m", steps=5).x)


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
@pytest.mark.parametrize("terminal", [None, "denoise"])
@pytest.mark.parametrize(
    "solver", engines_by_day([s for s in OURS if not s.adaptive and s.evaluations(1) is not None]), ids=label
)
def test_evaluations_buys_the_most_steps_whose_cost_fits(solver, terminal):
    model, more = TARGET.denoiser(SCHEDULE), terminal is not None
    eta = 0.0 if sd.ProbabilityFlow in solver.solves else 1.0
    for budget in (solver.evaluations(1, eta) + more, 20, 23):
        solution = sd.sample(model, (2, 2), solver, evaluations=budget, terminal=terminal, progress=False)
        steps = len(solution.settings["grid"]) - 1
        assert solution.evaluations.max() <= budget < solver.evaluations(steps + 1, eta) + more
        assert solution.settings["evaluations"] == budget
        assert torch.equal(solution.x, sd.sample(model, (2, 2), solver, steps=steps, terminal=terminal).x)


def test_a_run_to_noise_and_back_takes_the_arguments_of_a_run():
    x = TARGET.sample(3)
    there = sd.encode(FLOW, x, "dpm++2m", evaluations=12, spacing="karras", t_end=0.01, save=True)
    assert there.evaluations.tolist() == [12] * 3 and there.settings["spacing"]["type"] == "Karras"
    assert there.times[0] == 0.01 and there.times[-1] == SCHEDULE.t_start and torch.equal(there.states[-1], there.x)


# -- seeds and starts ----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_samples_and_another_seed_others():
    a, b, c = (sd.sample(SDE, (3, 2), sd.DDPM(), steps=5, seed=seed).x for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.allclose(a, c)


def test_the_prior_stands_at_the_start_of_the_run():
    for t in (1.0, 0.4):
        x = sd.prior(SCHEDULE, (20_000, 2), t_start=t, dtype=torch.float64)
        assert float(x.std()) == pytest.approx(SCHEDULE.sigma(t), rel=0.01)
        grid = sd.spacings.UniformTime()(SCHEDULE, 3, t_start=t, t_end=0.1)
        save = sd.sample(FLOW, (4, 2), sd.DDIM(), grid=grid, save=True)
        assert torch.equal(save.states[0], sd.prior(SCHEDULE, (4, 2), t_start=t))


def test_an_image_to_image_start_has_alpha_and_sigma_of_its_time():
    x0, t = torch.full((2, 5), 3.0, dtype=torch.float64), 0.4
    z = sd.prior(SCHEDULE, (2, 5), t_start=t, seed=7, dtype=torch.float64) / SCHEDULE.sigma(t)
    start = sd.add_noise(SCHEDULE, x0, t, seed=7)
    torch.testing.assert_close(start, SCHEDULE.alpha(t) * x0 + SCHEDULE.sigma(t) * z)
    out = sd.sample(
        sd.ProbabilityFlow(sd.targets.Gaussian((0.0,) * 5, 1.0).denoiser(SCHEDULE)),
        solver=sd.DDIM(),
        x=start,
        steps=8,
        t_start=t,
    )
    assert out.settings["grid"][0] == t


def test_a_brownian_path_run_converges_to_one_answer_as_its_grid_is_refined():
    def end(n):
        return sd.sample(
            SDE,
            (3, 2),
            sd.solvers.EulerMaruyama(),
            steps=n,
            noise=sd.noise.BrownianPath,
            dtype=torch.float64,
            t_end=0.05,
        ).x

    reference = end(200)
    errors = [float((end(n) - reference).abs().max()) for n in (25, 100)]
    # additive noise: strong order 1
    assert errors[1] < errors[0] / 2.5
    far = sd.sample(SDE, (3, 2), sd.solvers.EulerMaruyama(), steps=100, dtype=torch.float64, t_end=0.05).x
    assert float((far - reference).abs().max()) > 10 * errors[1]


# -- what comes back -----------------------------------------------------------------------------------------------


def test_saved_states_are_those_of_the_nodes_and_are_not_overwritten():
    solution = sd.sample(FLOW, (3, 2), sd.DPMSolverPP(2), steps=6, save=True)
    assert solution.states.shape == (7, 3, 2) and np.array_equal(solution.times, solution.settings["grid"])
    assert torch.equal(solution.states[-1], solution.x)
    for k in (2, 4):
        again = sd.sample(FLOW, (3, 2), sd.DPMSolverPP(2), grid=solution.times[: k + 1])
        assert torch.equal(solution.states[k], again.x)
    some = sd.sample(FLOW, (3, 2), sd.DPMSolverPP(2), grid=solution.times, save=[solution.times[2]])
    assert torch.equal(some.states[0], solution.states[2])


def test_settings_echo_everything_as_plain_data():
    settings = sd.sample(
        SDE,
        (3, 2),
        "sde-dpm++2m",
        steps=4,
        spacing=sd.spacings.Karras(),
        seed=9,
        ids=[5, 6, 7],
        terminal=sd.solvers.Denoise(),
    ).settings
    again = json.loads(json.dumps(settings))
    assert again["solver"] == {
        "type": "SDEDPMSolverPP",
        "k": 2,
        "start": {"type": "GradedStart"},
        "lower_order_final": False,
        "part": {"type": "DataPart"},
    }
    assert again["problem"] == {"type": "ReverseSDE", "eta": 1.0}
    assert again["spacing"] == {"type": "Karras", "rho": 7.0} and len(again["grid"]) == 5
    assert (again["seed"], again["ids"], again["terminal"]) == (9, [5, 6, 7], {"type": "Denoise"})
    assert (again["solver_name"], again["evaluations"]) == ("sde-dpm++2m", None)
    assert again["schedule"]["type"] == "VPLinear" and again["dtype"] == "torch.float32"


def test_a_solution_says_in_three_lines_who_made_it_how_it_went_and_what_it_cost():
    fixed = sd.sample(FLOW, (3, 2), "dpm++2m", steps=6)
    assert repr(fixed).splitlines() == [
        "Solution by dpm++2m: 3 samples of shape (2,), torch.float32, all arrived",
        "  evaluations: 6 each; 6 calls",
        "  error, estimated: none",
    ]
    failed = sd.sample(broken(2, 0.7), (4, 3), "ddim", steps=5)
    assert ", 3 success, 1 non finite\n" in repr(failed)
    modes = sd.targets.GaussianMixture((0.5, 0.5), ((-1.0, 0.0), (1.0, 0.0)), 0.01)
    adaptive = sd.sample(modes.denoiser(SCHEDULE), (16, 2), "rk45")
    least, median, most = (f(adaptive.evaluations) for f in (np.min, np.median, np.max))
    _, second, third = repr(adaptive).splitlines()
    assert least < most and second == f"  evaluations: {least} to {most}, median {median:g}; {adaptive.calls} calls"
    assert third.startswith(f"  error, estimated: {adaptive.error.min():.2g} to {adaptive.error.max():.2g}, median ")
    assert repr(sd.sample(FLOW, (0, 2), "ddim", steps=2)).count("\n") == 2


def test_a_solution_is_a_small_table_in_a_notebook():
    class Odd(ExplicitMidpoint):
        name = "<odd>"

    html = sd.sample(FLOW, (3, 2), Odd(), steps=6)._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == 5 and "&lt;odd&gt;" in html
    assert "<td>12 each; 12 calls</td>" in html and len(html) < 1000


def test_a_callback_sees_every_step_and_may_keep_what_it_sees():
    seen = []
    solution = sd.sample(FLOW, (3, 2), sd.DDIM(), steps=6, callback=seen.append, save=True)
    assert [step.t for step in seen] == solution.settings["grid"][1:]
    for step, state in zip(seen, solution.states[1:], strict=True):
        assert torch.equal(step.x, state)


def test_batches_run_one_after_another_are_one_solution():
    whole = sd.sample(SDE, (5, 2), sd.DDPM(), steps=4, save=True)
    parts = sd.sample(SDE, (5, 2), sd.DDPM(), steps=4, save=True, batch_size=2)
    assert torch.equal(parts.x, whole.x) and torch.equal(parts.states, whole.states)
    assert parts.calls == 12 and whole.calls == 4 and parts.rows == whole.rows == 20
    assert parts.settings["ids"] == whole.settings["ids"]


def test_conditioning_follows_its_samples():
    labels, seen = torch.arange(5), []

    def net(x, t, label, scale):
        seen.append((label.tolist(), scale))
        return x * label[:, None].to(x.dtype) * scale

    flow = sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))
    cond = {"label": labels, "scale": 0.1}
    whole = sd.sample(flow, (5, 2), sd.DDIM(), steps=3, cond=cond)
    parts = sd.sample(flow, (5, 2), sd.DDIM(), steps=3, cond=cond, batch_size=2)
    assert torch.equal(whole.x, parts.x)
    # adaptive: the conditions shrink with the active set
    seen.clear()
    sd.sample(flow, (5, 2), sd.RK45(), cond=cond).check()
    assert seen[0] == ([0, 1, 2, 3, 4], 0.1) and len(seen[-1][0]) < 5


# -- dtypes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_float32_state_runs_around_a_half_precision_network(dtype):
    net = MLP()
    full = sd.sample(sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction())), (3, 2), sd.DDIM(), steps=8).x
    half = sd.Denoiser(net.to(dtype), SCHEDULE, sd.NoisePrediction())
    x = sd.sample(sd.ProbabilityFlow(half), (3, 2), sd.DDIM(), steps=8).check().x
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, full, rtol=0.1, atol=0.1)


def test_dtype_and_device_default_to_the_networks():
    model = sd.Denoiser(MLP().double(), SCHEDULE, sd.NoisePrediction())
    assert sd.sample(sd.ProbabilityFlow(model), (3, 2), sd.DDIM(), steps=2).x.dtype == torch.float64
    assert (
        sd.sample(sd.ProbabilityFlow(model), (3, 2), sd.DDIM(), steps=2, dtype=torch.float32).x.dtype == torch.float32
    )


# by day as captured, by night as compiled, which takes a C++ compiler half a minute
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", by_day(["eager", "inductor"], ("eager",)))
def test_a_compiled_network_gives_the_same_samples(backend):
    net = MLP()
    plain, compiled = (
        sd.sample(
            sd.ProbabilityFlow(sd.Denoiser(n, SCHEDULE, sd.NoisePrediction())), (3, 2), sd.DPMSolverPP(2), steps=5
        ).x
        for n in (net, torch.compile(net, backend=backend))
    )
    torch.testing.assert_close(plain, compiled, rtol=1e-5, atol=1e-5)


def test_a_thousand_float32_steps_with_one_ratio_do_not_drift():
    # a x + (1 - a) D with D = x is x; rounding a to float32 would err the same way at every step, by 1.5e-5 in all
    work, x, a = Workspace(), torch.linspace(-2, 2, 64), 0.9937
    y, naive = x, x
    for _ in range(999):
        y = work.combine((a, y), (1 - a, x))
        naive = naive * a + y * (1 - a)
    assert float((y - x).abs().max()) < 5e-7


# -- memory --------------------------------------------------------------------------------------------------------


def test_the_workspace_reuses_memory_that_nobody_holds_and_no_other():
    work = Workspace()
    x, m = torch.randn(3, 4), torch.randn(3, 4)
    with torch.no_grad():
        states = [work.combine((0.9, x), (0.1, m)) for _ in range(5)]
        assert len({s.data_ptr() for s in states}) == 5
        expected = 0.9 * x + 0.1 * m
        view, kept, alias, array = states[0][1:], states[1], states[2].data, states[3].numpy()
        del states
        for _ in range(10):
            x = work.combine((0.9, x), (0.1, m))
        torch.testing.assert_close(view, expected[1:])
        for state in (kept, alias, torch.from_numpy(array)):
            torch.testing.assert_close(state, expected)
        assert len(work._pool) <= 6


def test_a_network_that_returns_its_own_input_is_not_overwritten():
    flow = sd.ProbabilityFlow(sd.Denoiser(lambda x, t: x.view_as(x), SCHEDULE, sd.DataPrediction()))
    copy = sd.ProbabilityFlow(sd.Denoiser(lambda x, t: x.clone(), SCHEDULE, sd.DataPrediction()))
    a, b = (sd.sample(p, (3, 2), sd.DPMSolverPP(2), steps=9).x for p in (flow, copy))
    assert torch.equal(a, b)


def test_row_means_have_one_order_of_summation():
    x = torch.randn(9, 12345)
    assert torch.equal(row_mean(x[4:5]), row_mean(x)[4:5])
    torch.testing.assert_close(row_mean(x.double()), x.double().mean(1))


def test_host_coefficients_meet_states_of_any_shape():
    x = torch.ones(2, 3, 4)
    assert per_sample(2, x) == 2.0
    assert torch.equal(x * per_sample(np.array([1.0, 2.0]), x), torch.stack([torch.ones(3, 4), 2 * torch.ones(3, 4)]))


# -- failures on the way -------------------------------------------------------------------------------------------


def broken(sample, below):
    def net(x, t):
        out = 0.5 * x.clone()
        out[sample] = torch.where(t[sample] < below, math.nan, out[sample])
        return out

    return sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))


def test_a_non_finite_output_is_named_by_sample_time_and_evaluation():
    grid = [1.0, 0.8, 0.6, 0.4, 0.2]
    solution = sd.sample(broken(2, 0.7), (4, 3), sd.DDIM(), grid=grid)
    assert solution.status.tolist() == [0, 0, sd.Status.NON_FINITE, 0] and not solution.ok
    assert solution.bad == {2: (0.6, 3, 3)}
    with pytest.raises(sd.SolverError, match=r"sample 2: non finite first at t = 0.6, evaluation 3, step 3: look at"):
        solution.check()
    assert torch.isfinite(solution.x[[0, 1, 3]]).all()


def test_a_failure_that_happens_once_is_named_too():
    calls = []

    def net(x, t):
        calls.append(t)
        return torch.full_like(x, math.inf) if len(calls) == 3 else x

    solution = sd.sample(
        sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.DataPrediction())), (2, 3), sd.DDIM(), steps=6
    )
    assert len(solution.bad) == 2
    for where in solution.bad.values():
        assert where == (pytest.approx(float(calls[2][0])), 3, 3)


def test_a_solver_that_leaves_the_domain_is_stopped():
    class Overshoots(sd.Solver):
        order = 1

        def run(self, problem, x, grid, noise):
            problem.drift(SCHEDULE.t_end - 5e-4, x)
            yield grid.end, x

    for t_end, lowest in ((None, 0.001), (0.1, 0.001), (7e-4, 7e-4)):
        with pytest.raises(ValueError, match=rf"the network at t = 0.0005, outside the run's \[{lowest}, 1.0\]"):
            sd.sample(FLOW, (2, 2), Overshoots(), steps=3, t_end=t_end)
    with pytest.raises(ValueError, match=r"t = 0.0005, outside the run's \[0.1, 0.5\]"):
        sd.solve(FLOW, torch.ones(2, 2), Overshoots(), grid=[0.1, 0.3, 0.5])


def test_times_within_two_ulps_of_an_end_are_clamped():
    seen = []

    def net(x, t):
        seen.append(float(t[0]))
        return x

    class Rounds(sd.Solver):
        order = 1

        def run(self, problem, x, grid, noise):
            problem.drift(float(np.float32(grid.end)), x)
            yield grid.end, x

    sd.sample(sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.VPrediction())), (2, 2), Rounds(), steps=3, t_end=1e-3)
    assert seen[0] >= np.float32(1e-3)


# -- networks and solvers that misbehave ------------------------------------------------------------------------------


def test_a_network_may_take_gradients_by_its_input_and_leave_nothing_behind():
    def by_backward(x, t):
        with torch.enable_grad():
            x.requires_grad_()
            (0.05 * (x**2).sum()).backward()
            return x.grad

    def written_out(x, t):
        return 0.1 * x

    a, b = (
        sd.sample(sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction())), (3, 2), sd.DDIM(), steps=10).x
        for net in (by_backward, written_out)
    )
    torch.testing.assert_close(a, b)
    assert not a.requires_grad


def test_a_solver_that_stops_early_or_changes_the_state_is_found_out():
    class Stops(sd.Solver):
        def run(self, problem, x, grid, noise):
            yield grid.times[1].item(), x

    class Shrinks(sd.Solver):
        def run(self, problem, x, grid, noise):
            yield grid.end, x[:1]

    solution = sd.sample(FLOW, (3, 2), Stops(), steps=5)
    assert np.all(solution.status == sd.Status.STOPPED_EARLY)
    with pytest.raises(sd.SolverError, match="stopped early at t = "):
        solution.check()
    with pytest.raises(ValueError, match=r"into torch.float32 of shape \(1, 2\)"):
        sd.sample(FLOW, (3, 2), Shrinks(), steps=5)


def test_shared_conditions_stay_shared_whatever_the_batch_size():
    shapes = set()

    def net(x, t, context):
        shapes.add(tuple(context.shape))
        return x * context.mean()

    flow = sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))
    for solver in ("ddim", "rk45"):
        steps = {"steps": 3} if solver == "ddim" else {}
        cond = {"context": sd.shared(torch.full((3, 1), 0.1))}
        sd.sample(flow, (6, 2), solver, cond=cond, batch_size=3, **steps).check()
    assert shapes == {(3, 1)}


def test_a_batch_of_none_is_a_solution_of_none():
    for solver in ("ddim", "heun", "rk45"):
        steps = {} if solver == "rk45" else {"steps": 3}
        assert sd.sample(FLOW, (0, 2), solver, **steps).check().x.shape == (0, 2)


def test_a_model_on_another_schedule_keeps_its_dtype_and_is_checked_before_it_is_called():
    calls = []

    class Net(torch.nn.Linear):
        def forward(self, x, t):
            calls.append(t)
            return super().forward(x)

    table = sd.VPDiscrete()
    model = sd.Denoiser(Net(2, 2).double(), table, sd.NoisePrediction(), time=table.index).on(sd.VE()).on(sd.EDM())
    with pytest.raises(ValueError, match=r"at t = 0.002 of EDM.*log-SNR 6.21461 is outside.*inside"):
        sd.sample(sd.ProbabilityFlow(model), (2, 2), sd.DDIM(), steps=3)
    assert not calls
    assert sd.sample(sd.ProbabilityFlow(model), (2, 2), sd.DDIM(), steps=3, t_end=0.05).x.dtype == torch.float64


def test_rectified_flow_runs_from_noise_to_data_in_time():
    target, schedule = sd.targets.Gaussian((0.3, -1.0), (0.5, 2.0)), sd.RectifiedFlow()
    flow, x = sd.ProbabilityFlow(target.denoiser(schedule)), torch.randn(4, 2, dtype=torch.float64)
    exact = target.flow(schedule, 1.0, 0.0, x)
    errors = [
        float((sd.solve(flow, x, "rk4", steps=n, t_start=1.0, t_end=0.0).x - exact).abs().max()) for n in (20, 40)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)
    assert sd.schedules.SubVP().d_sigma(0.0) == pytest.approx(0.1) and sd.VPLinear().d_sigma(0.0) == np.inf


def test_times_of_any_numeric_kind_reach_the_network_one_per_sample():
    seen = []
    model = sd.Denoiser(lambda x, t: seen.append(t) or x, SCHEDULE, sd.NoisePrediction())
    for t in (1, np.float32(0.5), np.array(0.5), torch.tensor(0.5), [0.5, 0.5]):
        model(t, torch.zeros(2, 3))
    assert all(t.shape == (2,) for t in seen)
    with pytest.raises(ValueError, match=r"times of shape \(3,\) for 2 samples"):
        model([0.1, 0.2, 0.3], torch.zeros(2, 3))


def test_a_users_class_cannot_break_or_take_over_a_name():
    import dataclasses

    from scorediff._core import registry

    @dataclasses.dataclass(frozen=True)
    class Needy(sd.Solver):
        theta: float

        def run(self, problem, x, grid, noise):
            yield grid.end, x

    DDIM = type("DDIM", (ExplicitMidpoint,), {"__doc__": "Not ours."})
    assert type(registry.parse(sd.Solver, "ddim")) is sd.DDIM is not DDIM
    assert "needy" not in registry.names(sd.Solver)


def test_a_grid_survives_pickle_and_copy():
    import copy
    import pickle

    grid = sd.Grid([1.0, 0.5, 0.1])
    assert pickle.loads(pickle.dumps(grid)) == copy.deepcopy(grid) == grid
