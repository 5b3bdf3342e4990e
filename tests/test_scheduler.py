"""In a pipeline of diffusers, `ScorediffScheduler` makes what `sample` makes."""

import copy
import gc
import json
import logging
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from discovery import SOLVERS, by_day, engines_by_day, label

import scorediff as sd
from scorediff import interop
from scorediff.interop import inversion, trained_as
from scorediff.interop.handover import Handover
from scorediff.solvers.solve import resolve

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
tiny = pytest.importorskip("tiny_diffusers")

from scorediff.interop import ScorediffScheduler  # noqa: E402

FIXED = [s for s in SOLVERS if not s.adaptive]
#: Fixed-point iterations: how often they evaluate depends on the state.
ITERATING = ("torchdiffeq-implicit-adams", "torchdiffeq-fixed-adams")
ULPS = 32 * torch.finfo(torch.float32).eps

VP = diffusers.DDPMScheduler(clip_sample=False)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
EDM = diffusers.EDMEulerScheduler()
ZERO = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False)


def net(x, t):
    """Any network will do: this one is smooth, and looks at the time and, through the mean, at the whole sample."""
    t = t.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t
    return torch.tanh(1.3 * x + t / 700) * 0.9 + 0.1 * x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)


def start(*shape, seed=3, dtype=torch.float32):
    return torch.randn(shape or (2, 3, 4, 4), generator=torch.Generator().manual_seed(seed)).to(dtype)


def loop(scheduler, x, network=net, change=None, **options):
    """What every pipeline does."""
    for i, t in enumerate(scheduler.timesteps[scheduler.begin_index or 0 :]):
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **options).prev_sample
        if change is not None:
            x = change(i, x)
    return x


def scheduler(solver="dpm++2m", trained=VP, steps=8, set_timesteps=None, **settings):
    made = ScorediffScheduler(solver, trained, **settings)
    made.set_timesteps(steps, **(set_timesteps or {}))
    return made


def problem(solver, trained=VP, network=net, eta=None, **options):
    known = trained_as(trained, **options)
    denoiser = sd.Denoiser(network, known.schedule, known.prediction, time=known.time)
    if eta is None and sd.ProbabilityFlow in solver.solves:
        return sd.ProbabilityFlow(denoiser)
    return sd.ReverseSDE(denoiser, eta or 1.0)


def ours(solver, x, trained=VP, network=net, eta=None, shift=None, **options):
    made = resolve(solver) if isinstance(solver, str) else solver
    options = {"steps": 8, "terminal": "denoise", "progress": False, **options}
    if "grid" in options:
        del options["steps"]
    return sd.sample(problem(made, trained, network, eta, shift=shift), solver=made, x=x, **options)


def runs():
    return [thread for thread in threading.enumerate() if thread.name == "scorediff-run"]


def gone():
    deadline = time.monotonic() + 5
    while runs() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not runs()


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    if runs():
        gc.collect()
    assert gone()


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
class TestABareLoop:
    @pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
    @pytest.mark.parametrize("solver", engines_by_day([s for s in FIXED if s.name not in ITERATING]), ids=label)
    def test_makes_what_sample_makes_with_every_solver_on_a_fixed_grid(self, solver):
        seen = []
        made = scheduler(solver, steps=12, seed=5)
        x, found = start(), loop(made, start())
        want = ours(solver, x, network=lambda x, t: seen.append(x) or net(x, t), steps=12, seed=5)
        assert want.calls == len(made.timesteps) == made.solution.calls
        # in other coordinates some evaluate a start that was led there and back
        slack = 0.0 if torch.equal(seen[0], x) else ULPS * want.x.abs().max()
        assert (found - want.x).abs().max() <= slack

    @pytest.mark.parametrize("solver", ["unipc-3", "heun", "edm-stochastic", "sde-dpm++2m"])
    @pytest.mark.parametrize("trained", [FLOW, EDM, ZERO], ids=["flow", "edm", "zero-snr"])
    def test_does_so_on_every_kind_of_schedule(self, solver, trained):
        if trained is FLOW and solver == "edm-stochastic":
            solver = sd.solvers.Churn(sd.Heun(sd.coordinates.Angle()))
        x = start() * scheduler(solver, trained).init_noise_sigma
        found, want = loop(scheduler(solver, trained, seed=1), x), ours(solver, x, trained, seed=1)
        assert (found - want.x).abs().max() <= ULPS * max(want.x.abs().max(), x.abs().max())

    @pytest.mark.parametrize("terminal", [None, "half-step", sd.solvers.Denoise()])
    @pytest.mark.parametrize("spacing", ["karras", sd.spacings.UniformTime()])
    def test_takes_any_spacing_and_terminal(self, spacing, terminal):
        made = scheduler("exp-ab3", spacing=spacing, terminal=terminal)
        assert torch.equal(loop(made, start()), ours("exp-ab3", start(), spacing=spacing, terminal=terminal).x)
        assert len(made.timesteps) == 8 + (terminal is not None)

    @pytest.mark.parametrize("solver, eta", [("ddim", 0.5), ("ddim", None), ("sde-dpm++2m", 0.7), ("sa-solver", 1.0)])
    def test_takes_eta(self, solver, eta):
        made = scheduler(solver, eta=eta, seed=2)
        assert torch.equal(loop(made, start(), eta=eta or 0.0), ours(solver, start(), eta=eta, seed=2).x)

    def test_in_half_precision_carries_the_state_in_float32(self):
        weight = torch.nn.Linear(3, 3).bfloat16()

        def half(x, t):
            return weight(x) * (t / 1000).to(x.dtype).reshape(-1, 1) if t.ndim else weight(x) * (t / 1000).to(x.dtype)

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = weight

            def forward(self, x, t):
                return half(x, t)

        with torch.no_grad():
            found = loop(scheduler("unipc-3"), start(2, 3, dtype=torch.bfloat16), half)
        want = ours("unipc-3", start(2, 3, dtype=torch.bfloat16).float(), network=Net())
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, want.x.bfloat16())

    def test_of_two_schedulers_in_turn_neither_disturbs_the_other(self):
        first, second = scheduler("unipc-3"), scheduler("heun", steps=4)
        x, y = start(), start(seed=9)
        for t, s in zip(first.timesteps, second.timesteps, strict=True):
            x, y = first.step(net(x, t), t, x).prev_sample, second.step(net(y, s), s, y).prev_sample
        assert torch.equal(x, ours("unipc-3", start()).x)
        assert torch.equal(y, ours("heun", start(seed=9), steps=4).x)

    def test_may_run_again_without_set_timesteps_and_with(self):
        made = scheduler("exp-pece3")
        first, again = loop(made, start()), loop(made, start())
        made.set_timesteps(3)
        assert torch.equal(first, again)
        assert torch.equal(loop(made, start()), ours("exp-pece3", start(), steps=3).x)

    def test_gradients_flow_through_the_loop_as_through_sample(self):
        grads = []
        for run in (lambda x: loop(scheduler(), x), lambda x: ours("dpm++2m", x, grad=True).x):
            x = start().requires_grad_()
            run(x).square().sum().backward()
            grads.append(x.grad)
        # another thread numbers its operations anew, so that sums of gradients are taken in another order
        assert torch.allclose(*grads, rtol=1e-4, atol=1e-5 * grads[0].abs().max())

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_without_gradients_none_are_kept(self, mode):
        weight = torch.ones(3, 1, 1, requires_grad=True)
        with mode():
            x = start()
            found = loop(scheduler(), x, lambda x, t: weight * net(x, t))
        assert not found.requires_grad
        assert torch.equal(found, ours("dpm++2m", start()).x)

    def test_a_learned_variance_is_dropped(self):
        found = loop(scheduler(), start(), lambda x, t: torch.cat([net(x, t), 100 * x], 1))
        assert torch.equal(found, ours("dpm++2m", start()).x)

    def test_timesteps_may_come_as_plain_numbers(self):
        made, x = scheduler("heun"), start()
        for t in made.timesteps.tolist():
            x = made.step(net(x, torch.tensor(t)), t, x, return_dict=False)[0]
        assert torch.equal(x, ours("heun", start()).x)


class TestWhereTheStepsLie:
    def test_orders_and_evaluations_are_counted_per_step(self):
        assert (len(scheduler("dpm++2m").timesteps), scheduler("dpm++2m").order) == (9, 1)
        assert (len(scheduler("heun").timesteps), scheduler("heun").order) == (17, 2)
        assert (len(scheduler("rk4", terminal=None).timesteps), scheduler("rk4").order) == (32, 4)
        # a start by sub-steps
        assert (len(scheduler("pndm").timesteps), scheduler("pndm").order) == (18, 1)

    def test_timesteps_and_sigmas_are_the_networks_numbers_and_levels_of_noise(self):
        known, made = trained_as(VP), scheduler("ddim")
        nodes = sd.DDIM().spacing(known.schedule, 8).times
        assert np.allclose(made.timesteps, 1000 * nodes - 1, rtol=1e-6)
        assert np.allclose(made.sigmas[:-1], np.exp(-known.schedule.log_snr(nodes)), rtol=1e-6) and made.sigmas[-1] == 0
        assert np.allclose(scheduler(trained=FLOW).sigmas[:-1], scheduler(trained=FLOW).timesteps / 1000, rtol=1e-6)

    def test_given_timesteps_are_the_nodes(self):
        given = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
        made = scheduler("dpm++2m", steps=None, set_timesteps={"timesteps": given})
        assert torch.equal(made.timesteps, torch.tensor(given, dtype=torch.float32))
        assert torch.equal(loop(made, start()), ours("dpm++2m", start(), grid=[(n + 1) / 1000 for n in given]).x)

    @pytest.mark.parametrize("trained", [VP, FLOW, EDM], ids=["vp", "flow", "edm"])
    def test_timesteps_of_a_run_given_back_are_the_same_run(self, trained):
        made = scheduler("dpm++2m", trained)
        again = scheduler("dpm++2m", trained, None, set_timesteps={"timesteps": made.timesteps})
        assert torch.allclose(made.timesteps, again.timesteps, rtol=1e-6)

    def test_given_sigmas_are_the_nodes_and_a_last_zero_the_terminal_step(self):
        latent = diffusers.DDIMScheduler(**tiny.LATENT)
        given = diffusers.schedulers.AysSchedules["StableDiffusionSigmas"]
        made = scheduler("unipc-1", latent, None, set_timesteps={"sigmas": given})
        # published to three digits, the first above the table's last
        assert np.allclose(made.sigmas, given, rtol=1e-4) and len(made.timesteps) == 10
        assert made.solution is None and torch.isfinite(loop(made, start())).all()

    def test_the_sigmas_that_pipelines_of_flows_give_by_default_are_a_number_of_steps(self):
        made = scheduler(trained=FLOW, steps=None, set_timesteps={"sigmas": np.linspace(1.0, 1 / 8, 8), "mu": 1.0})
        assert torch.equal(made.timesteps, scheduler(trained=FLOW).timesteps)

    def test_other_sigmas_of_a_flow_are_nodes_before_its_shift(self):
        given = [0.999, 0.7, 0.4, 0.1]
        made = scheduler("ddim", FLOW, None, set_timesteps={"sigmas": given})
        shifted = 3 * np.array(given) / (1 + 2 * np.array(given))
        assert np.allclose(made.timesteps, 1000 * shifted, rtol=1e-6)

    @pytest.mark.parametrize("kind, shift", [("exponential", np.exp(0.8)), ("linear", 0.8)])
    def test_mu_is_the_shift_of_a_flow_whose_config_leaves_it_open(self, kind, shift):
        trained = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
        made = scheduler("dpm++2m", trained, set_timesteps={"mu": 0.8})
        assert torch.equal(loop(made, start()), ours("dpm++2m", start(), trained, shift=shift).x)

    def test_the_first_noise_is_that_of_the_schedule_at_the_start(self):
        assert scheduler(trained=EDM).init_noise_sigma == pytest.approx(80)
        assert scheduler(trained=VP).init_noise_sigma == float(trained_as(VP).schedule.sigma(1.0))


class TestNoise:
    def test_is_that_of_the_seed_of_the_generator(self):
        found = loop(scheduler("ddpm"), start(), generator=torch.Generator().manual_seed(11))
        assert torch.equal(found, ours("ddpm", start(), seed=11).x)
        assert torch.equal(found, loop(scheduler("ddpm", seed=11), start()))

    def test_of_one_generator_per_sample_is_what_each_has_alone(self):
        x, seeds = start(3, 2), (4, 2**63 + 5, 4)
        each = [torch.Generator().manual_seed(seed) for seed in seeds]
        found = loop(scheduler("sde-dpm++2m"), x, generator=each)
        for row, one, generator in zip(found, x, each, strict=True):
            assert torch.equal(row[None], loop(scheduler("sde-dpm++2m"), one[None], generator=generator))

    def test_without_a_seed_is_new_for_every_run_and_follows_torchs_global_generator(self):
        made = scheduler("euler-a")
        torch.manual_seed(0)
        first, second = loop(made, start()), loop(made, start())
        torch.manual_seed(0)
        assert torch.equal(first, loop(made, start())) and not torch.equal(first, second)

    def test_that_a_solver_does_not_draw_leaves_torchs_global_generator_alone(self):
        torch.manual_seed(0)
        want = torch.rand(())
        torch.manual_seed(0)
        loop(scheduler("unipc-3"), start())
        assert torch.rand(()) == want


class TestAChangedState:
    @pytest.mark.parametrize("how", [lambda x: x.add_(1.0), lambda x: x + 1.0], ids=["in place", "copy"])
    def test_at_a_node_is_gone_on_from_as_a_run_that_starts_there_would(self, how):
        changed = []

        def change(i, x):
            if i == 2:
                x = how(x)
                changed.append(x.clone())
            return x

        made = scheduler("ddim")
        found = loop(made, start(), change=change)
        nodes = sd.DDIM().spacing(trained_as(VP).schedule, 8).times[3:]
        assert torch.equal(found, ours("ddim", changed[0], grid=nodes).x)

    @pytest.mark.parametrize("solver", engines_by_day([s for s in FIXED if s.one_step]), ids=label)
    def test_is_either_gone_on_from_or_refused_by_every_method_of_one_step(self, solver):
        made, changed = scheduler(solver, seed=1), []
        at = 3 * made.order
        try:
            found = loop(made, start(), change=lambda i, x: changed.append(x + 1.0) or changed[0] if i == at - 1 else x)
        except ValueError as error:
            assert f"changed before evaluation {at} of" in str(error)
            return
        made.set_begin_index(at)
        assert torch.equal(found, loop(made, changed[0]))

    def test_at_every_node_is_honoured_by_a_multistep_method(self):
        mask, known = start() > 0, start(seed=8)
        found = loop(scheduler("dpm++2m"), start(), change=lambda i, x: torch.where(mask, known, x))
        assert torch.equal(found[mask], known[mask])
        assert not torch.allclose(found[~mask], ours("dpm++2m", start()).x[~mask], atol=1e-3)

    @pytest.mark.parametrize("change", [lambda i, x: x + 1, lambda i, x: x.add_(1)], ids=["copy", "in place"])
    @pytest.mark.parametrize("solver", ["heun", "krogstad", "exp-pece3"])
    def test_within_a_step_is_refused(self, solver, change):
        with pytest.raises(ValueError, match="changed before evaluation 1 of"):
            loop(scheduler(solver), start(), change=change)

    def test_within_a_step_is_found_at_the_end_where_looking_would_wait_for_a_device(self, monkeypatch):
        monkeypatch.setattr(inversion, "_readable", lambda x: False)
        asked = []
        with pytest.raises(ValueError, match="changed before evaluation 5 of 17"):
            loop(scheduler("heun"), start(), change=lambda i, x: asked.append(i) or (x + 1 if i == 4 else x))
        assert len(asked) == 16

    @pytest.mark.parametrize("copied", [lambda x: x.clone(), lambda x: x.bfloat16().float()], ids=["copy", "rounded"])
    def test_is_none_where_it_was_copied_or_rounded(self, copied):
        made = scheduler("heun")
        found = loop(made, start(), net, change=lambda i, x: copied(x))
        # at every other evaluation the state is a node's, and its rounding is taken as it comes
        assert torch.allclose(found, ours("heun", start()).x, atol=0.05 * found.abs().max())

    def test_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match="came back in shape"):
            loop(scheduler(), start(), change=lambda i, x: x[:1])


class TestImageToImage:
    @pytest.mark.parametrize("solver, evaluations", [("unipc-3", 3), ("heun", 6), ("sde-dpm++2m", 3), ("rk4", 12)])
    def test_starts_at_a_later_node(self, solver, evaluations):
        made, grid = scheduler(solver, seed=1), sd.spacings.UniformLogSNR()(trained_as(VP).schedule, 8).times
        if solver in ("heun", "rk4"):
            grid = resolve(solver).spacing(trained_as(VP).schedule, 8).times
        made.set_begin_index(evaluations)
        x = made.add_noise(start(), start(seed=4), made.timesteps[evaluations : evaluations + 1].repeat(2))
        known = trained_as(VP).schedule
        assert torch.allclose(x, start() * float(known.alpha(grid[3])) + start(seed=4) * float(known.sigma(grid[3])))
        assert torch.equal(loop(made, x), ours(solver, x, grid=grid[3:], seed=1).x)

    def test_is_the_rest_of_the_same_run_its_nodes_numbered_on(self):
        trained, solver = trained_as(VP), resolve("dpm++2m")
        grid = solver.spacing(trained.schedule, 8)
        plan = inversion.Plan.of(trained, solver, grid, terminal=None, eta=None)
        assert plan.after(3).grid == grid[3:] and plan.after(3).after(2).grid == grid[5:]

    def test_starts_where_the_first_timestep_says(self):
        made, x = scheduler("unipc-3"), start()
        for t in made.timesteps[2:]:
            x = made.step(net(x, t), t, x).prev_sample
        nodes = sd.spacings.UniformLogSNR()(trained_as(VP).schedule, 8).times
        assert torch.equal(x, ours("unipc-3", start(), grid=nodes[2:]).x)

    @pytest.mark.parametrize("solver, evaluation", [("heun", 3), ("pndm", 9), ("dpm++2m", 8), ("dpm++2m", 20)])
    def test_is_refused_within_a_step_and_where_nothing_is_left(self, solver, evaluation):
        with pytest.raises(ValueError, match=f"cannot start at evaluation {evaluation}"):
            scheduler(solver).set_begin_index(evaluation)

    def test_is_refused_after_a_first_step_in_parts_and_taken_with_a_lower_order_start(self):
        with pytest.raises(ValueError, match="or 'unipc-3:start=lower-order'"):
            scheduler("unipc-3", steps=20).set_begin_index(10)
        made = scheduler("unipc-3:start=lower-order", steps=20)
        made.set_begin_index(10)
        grid = sd.spacings.UniformLogSNR()(trained_as(VP).schedule, 20).times[10:]
        assert torch.equal(loop(made, start()), ours("unipc-3:start=lower-order", start(), grid=grid).x)

    def test_noise_is_added_as_diffusers_adds_it(self):
        x, eps, steps = start(4, 3), start(4, 3, seed=1), torch.tensor([0, 3, 500, 999])
        assert torch.allclose(scheduler().add_noise(x, eps, steps), VP.add_noise(x, eps, steps), atol=1e-6)
        FLOW.set_timesteps(8)
        times = FLOW.timesteps[[0, 2, 4, 7]]
        found = scheduler(trained=FLOW).scale_noise(x, times, eps)
        assert torch.allclose(found, FLOW.scale_noise(x, times, eps), atol=1e-6)


class TestARunThatEndsEarly:
    @staticmethod
    def begun(solver="unipc-3"):
        made, x = scheduler(solver), start()
        for t in made.timesteps[:3]:
            x = made.step(net(x, t), t, x).prev_sample
        assert len(runs()) == 1
        return made

    def test_leaves_no_thread_once_the_next_is_laid_out(self):
        made = self.begun()
        made.set_timesteps(4)
        assert gone()
        assert torch.equal(loop(made, start()), ours("unipc-3", start(), steps=4).x)

    def test_leaves_no_thread_once_the_scheduler_is_dropped(self):
        made = self.begun("torchdiffeq-rk4")
        del made
        gc.collect()
        assert gone()

    def test_is_not_copied(self):
        made = self.begun()
        other = copy.deepcopy(made)
        assert other.step_index is None and len(runs()) == 1
        other.set_timesteps(8)
        assert torch.equal(loop(other, start()), ours("unipc-3", start()).x)

    def test_does_not_hold_up_the_end_of_a_program(self, fresh):
        code = (
            "from scorediff.interop.handover import Handover; turns = Handover(lambda ask: ask(ask(1))); "
            "print(turns.listen(), turns.answer(2))"
        )
        out = fresh(code)
        assert (out.returncode, out.stdout.strip(), out.stderr) == (0, "(False, 1) (False, 2)", "")

    def test_by_an_error_of_the_solver_raises_it_in_step_and_may_be_followed_by_another(self):
        class Broken(sd.Solver):
            def run(self, problem, x, grid, noise):
                for n, (t, s) in enumerate(grid.pairs()):
                    if n == 3 and x.ndim > 2:
                        raise ArithmeticError("three is too many")
                    x = x + (s - t) * problem.drift(t, x)
                    yield s, x

        made = scheduler(Broken(), steps=5)
        with pytest.raises(ArithmeticError, match="three"):
            loop(made, start())
        assert gone() and made.step_index is None
        made.set_timesteps(3)
        assert torch.equal(loop(made, start()), ours(Broken(), start(), steps=3).x)

    def test_by_an_error_within_a_run_raises_it_in_step(self):
        made, x = scheduler(), start()
        with pytest.raises(TypeError, match="floating"):
            loop(made, x, lambda x, t: x.long())
        assert gone() and made.step_index is None
        assert torch.equal(loop(made, x), ours("dpm++2m", x).x)

    def test_by_an_error_of_the_network_is_ended_by_the_next(self):
        made = scheduler()
        with pytest.raises(ZeroDivisionError):
            loop(made, start(), lambda x, t: net(x, t) if t > 900 else 1 / 0)
        made.set_timesteps(8)
        assert torch.equal(loop(made, start()), ours("dpm++2m", start()).x)

    def test_with_a_sample_that_is_not_finite_says_which_and_where(self):
        made = scheduler()
        spoilt = torch.tensor([1.0, float("nan")]).reshape(2, 1, 1, 1)
        with pytest.raises(sd.SolverError, match=r"sample 1: non finite first at t = .*, evaluation 1"):
            loop(made, start(), lambda x, t: net(x, t) * spoilt)
        assert torch.isfinite(made.solution.x[0]).all()


class TestMisuse:
    @pytest.mark.parametrize(
        "settings, error, words",
        [
            ({"solver": "exponential-adams"}, ValueError, "chooses its own steps.*from_diffusers"),
            ({"solver": "dpm++2n"}, ValueError, "did you mean 'dpm"),
            ({"solver": "unipc-3:rtol=1"}, ValueError, "no option 'rtol'"),
            ({"solver": 3}, TypeError, "not a Solver"),
            ({"spacing": "karas"}, ValueError, "karras"),
            ({"spacing": sd.solvers.Denoise()}, TypeError, "not a Spacing"),
            ({"terminal": "denoised"}, ValueError, "denoise"),
            ({"solver": "ddpm", "eta": 0}, ValueError, "reverse SDE"),
            ({"solver": "unipc-3", "eta": 0.5}, ValueError, "probability flow"),
            ({"eta": lambda t: t}, TypeError, "eta = .*config"),
            ({"seed": 0.5}, TypeError, "seed = 0.5"),
            ({"trained": None}, TypeError, "trained="),
            ({"trained": 7}, TypeError, "got int"),
            ({"trained": {"beta_schedule": "linear"}}, ValueError, "num_train_timesteps"),
            ({"trained": {**VP.config, "prediction_type": "epsilom"}}, ValueError, "epsilon"),
        ],
    )
    def test_is_found_when_a_scheduler_is_made(self, settings, error, words):
        with pytest.raises(error, match=words):
            ScorediffScheduler(**{"trained": VP, **settings})

    @pytest.mark.parametrize(
        "given, error, words",
        [
            ({}, ValueError, "num_inference_steps"),
            ({"num_inference_steps": 0}, ValueError, "at least 1"),
            ({"num_inference_steps": 2.5}, TypeError, "whole number"),
            ({"num_inference_steps": 3, "timesteps": [900, 100]}, ValueError, "3 steps and 2 nodes"),
            ({"timesteps": [900, 100], "sigmas": [9.0, 1.0]}, ValueError, "both"),
            ({"timesteps": [1000, 100]}, ValueError, "timestep 1000.0 is outside"),
            ({"timesteps": [100, 900, 50]}, ValueError, "turns|monotone"),
            ({"sigmas": [500.0, 1.0]}, ValueError, "outside"),
            ({"sigmas": [9.0]}, ValueError, "two nodes"),
            ({"num_inference_steps": 8, "mu": 1.0}, ValueError, "no|not"),
        ],
    )
    def test_is_found_when_steps_are_laid_out(self, given, error, words):
        with pytest.raises(error, match=words):
            ScorediffScheduler("dpm++2m", VP).set_timesteps(**given)

    def test_of_both_a_spacing_and_nodes_is_refused(self):
        with pytest.raises(ValueError, match="both say where"):
            ScorediffScheduler("dpm++2m", VP, spacing="karras").set_timesteps(timesteps=[900, 100])

    def test_of_a_flow_without_its_shift_is_refused(self):
        trained = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        with pytest.raises(ValueError, match="give mu="):
            scheduler(trained=trained)

    def test_of_a_solver_that_does_not_reach_sigma_zero_is_refused_as_ever(self):
        with pytest.raises(ValueError, match="terminal="):
            scheduler("dpm++2m", FLOW, None, terminal=None, set_timesteps={"sigmas": [0.9, 0.5, 0.0]})

    @pytest.mark.parametrize("name", ITERATING)
    def test_of_a_solver_whose_evaluations_depend_on_the_state_is_refused(self, name):
        with pytest.raises(ValueError, match="as often as the state asks"):
            scheduler(name)

    def test_of_a_solver_that_moves_its_start_is_refused(self):
        class Jump(sd.Solver):
            def run(self, problem, x, grid, noise):
                for t, s in grid.pairs():
                    x = x + noise(t, s)
                    x = x + (s - t) * problem.drift(t, x)
                    yield s, x

        with pytest.raises(ValueError, match="moves the state before its first evaluation"):
            scheduler(Jump())

    def test_of_step_before_set_timesteps_is_refused(self):
        made = ScorediffScheduler("dpm++2m", VP)
        for call in (
            lambda: made.step(start(), 999.0, start()),
            lambda: made.scale_model_input(start(), 999.0),
            lambda: made.set_begin_index(0),
        ):
            with pytest.raises(ValueError, match="set_timesteps"):
                call()

    def test_of_the_order_of_calls_is_refused(self):
        made, x = scheduler("unipc-3"), start()
        x = made.step(net(x, made.timesteps[0]), made.timesteps[0], x).prev_sample
        for wrong in (made.timesteps[0], made.timesteps[4], float(made.timesteps[4])):
            with pytest.raises(ValueError, match="where 1 is due"):
                made.step(x, wrong, x)
        with pytest.raises(ValueError, match="none of this run"):
            made.step(x, 123.4, x)
        # and the run goes on
        for t in made.timesteps[1:]:
            x = made.step(net(x, t), t, x).prev_sample
        assert torch.equal(x, ours("unipc-3", start()).x)

    def test_of_options_that_are_settings_is_refused(self):
        made, x = scheduler("dpm++2m"), start()
        with pytest.raises(ValueError, match=r"ScorediffScheduler\(..., eta=0.3\)"):
            made.step(x, made.timesteps[0], x, eta=0.3)
        with pytest.raises(ValueError, match="use_clipped_model_output"):
            made.step(x, made.timesteps[0], x, use_clipped_model_output=True)
        with pytest.raises(ValueError, match="3 generators for 2 samples"):
            made.step(x, made.timesteps[0], x, generator=[torch.Generator()] * 3)
        with pytest.raises(TypeError, match="'solver'"):
            ScorediffScheduler.from_config(VP.config, solvr="ddim")

    def test_of_an_output_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match="shape"):
            loop(scheduler(), start(), lambda x, t: x[:, :2])

    def test_of_a_start_that_is_not_finite_is_refused(self):
        with pytest.raises(ValueError, match="sample 0 of the start is not finite"):
            loop(scheduler(), start() / 0)


def own(config):
    return {key: config[key] for key in ("solver", "trained", "spacing", "terminal", "eta", "seed")}


class TestAConfig:
    @pytest.mark.parametrize(
        "settings",
        [
            {"solver": "unipc-3", "spacing": "karras:rho=5"},
            {
                "solver": sd.solvers.Churn(sd.Heun(sd.coordinates.Angle()), s_churn=3.0),
                "terminal": sd.solvers.HalfStep(),
                "seed": 2**63,
            },
            {"solver": "sa-solver", "eta": 0.4, "terminal": None, "spacing": sd.spacings.Karras(3.0)},
        ],
    )
    @pytest.mark.parametrize("trained", [VP, FLOW, EDM], ids=["vp", "flow", "edm"])
    def test_saved_and_loaded_makes_an_equal_scheduler(self, settings, trained, tmp_path):
        made = ScorediffScheduler(settings["solver"], trained, **{k: v for k, v in settings.items() if k != "solver"})
        made.save_pretrained(tmp_path)
        json.loads((tmp_path / "scheduler_config.json").read_text())
        others = [
            ScorediffScheduler.from_pretrained(tmp_path),
            ScorediffScheduler.from_config(made.config),
            ScorediffScheduler.from_config(ScorediffScheduler.load_config(tmp_path)),
            copy.deepcopy(made),
            pickle.loads(pickle.dumps(made)),
        ]
        made.set_timesteps(4)
        x = start() * made.init_noise_sigma
        want = loop(made, x, generator=torch.Generator().manual_seed(3))
        for other in others:
            assert own(other.config) == own(made.config)
            other.set_timesteps(4)
            assert torch.equal(want, loop(other, x, generator=torch.Generator().manual_seed(3)))

    def test_of_another_scheduler_is_what_the_network_was_trained_as(self):
        want = scheduler("unipc-3")
        for given in (VP.config, {**VP.config, "_class_name": "DDPMScheduler"}, dict(VP.config)):
            made = ScorediffScheduler.from_config(given, solver="unipc-3")
            made.set_timesteps(8)
            assert torch.equal(made.timesteps, want.timesteps)
            assert own(made.config)["solver"] == "unipc-3"

    def test_leads_back_to_other_schedulers_and_on_to_ours(self):
        made = ScorediffScheduler("unipc-3", EDM)
        back = diffusers.EDMEulerScheduler.from_config(made.config)
        assert {k: back.config[k] for k in EDM.config if k[0] != "_"}.items() <= EDM.config.items()
        assert ScorediffScheduler("ddim", back.config).config["trained"]["sigma_data"] == EDM.config.sigma_data

    @pytest.mark.parametrize("trained", [diffusers.DDIMScheduler(), FLOW], ids=["vp", "flow"])
    def test_of_ours_given_to_another_of_ours_is_unwrapped(self, trained):
        made = ScorediffScheduler("unipc-3", trained)
        for given in (made, made.config):
            assert ScorediffScheduler("ddim", given).config["trained"] == made.config["trained"]

    def test_shows_pipelines_the_entries_they_look_at_and_none_they_take_exception_to(self):
        made = ScorediffScheduler("ddim", diffusers.DDIMScheduler(num_train_timesteps=500))
        assert len(made) == made.config.num_train_timesteps == 500 and made.config.prediction_type == "epsilon"
        assert "steps_offset" not in made.config and "clip_sample" not in made.config
        assert made.config.trained["clip_sample"] is True
        assert ScorediffScheduler("ddim", FLOW).config.get("base_image_seq_len") == 256

    def test_keeps_the_name_of_a_class_that_its_own_config_leaves_out(self):
        assert ScorediffScheduler("ddim", VP).config.trained["_class_name"] == "DDPMScheduler"


def test_the_face_of_interop_is_complete_and_imports_no_library_before_it_is_wanted(fresh):
    for name in interop.__all__:
        assert getattr(interop, name).__module__.startswith("scorediff.interop")
    code = "import sys, scorediff.interop; print(*{'diffusers', 'transformers'} & set(sys.modules))"
    out = fresh(code)
    assert out.returncode == 0 and not out.stdout.split()
    with pytest.raises(AttributeError, match="no attribute 'from_difusers'"):
        interop.from_difusers  # noqa: B018


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    made = {}

    def make(name, **options):
        if name not in made:
            made[name] = getattr(tiny, name)(tmp_path_factory.mktemp(name), **options)
            made[name].set_progress_bar_config(disable=True)
            made[name].trained = made[name].scheduler
        made[name].scheduler = made[name].trained
        return made[name]

    return make


def counted(network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def guided(pipe, scale, **options):
    """The network of Stable Diffusion with guidance, as its pipeline calls it."""
    text, none = pipe.encode_prompt("a cat", "cpu", 1, True, **options)

    def network(x, t):
        states = torch.cat([none.expand(len(x), -1, -1), text.expand(len(x), -1, -1)])
        away, towards = pipe.unet(torch.cat([x, x]), t[0], encoder_hidden_states=states).sample.chunk(2)
        return away + scale * (towards - away)

    return network


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")
class TestInAPipeline:
    @pytest.mark.parametrize(
        "solver",
        by_day(
            [
                "dpm++2m",
                "unipc-3",
                "exp-pece3",
                sd.Heun(sd.coordinates.DDIMCoordinates()),
                "krogstad",
                "sde-dpm++2m",
                "ddpm",
                "euler-a",
                "edm-stochastic",
                "predictor-corrector",
                "torchdiffeq-rk4",
                "torchsde-srk",
            ],
            ("exp-pece3", "sde-dpm++2m", "edm-stochastic", "torchdiffeq-rk4"),
        ),
        ids=lambda s: s if isinstance(s, str) else "heun-in-coordinates",
    )
    def test_of_stable_diffusion_makes_what_sample_makes(self, pipelines, solver):
        pipe = pipelines("stable_diffusion")
        pipe.scheduler = ScorediffScheduler(solver, trained=pipe.scheduler.config)
        x, calls = start(2, 4, 8, 8), counted(pipe.unet)
        options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"}
        found = pipe(["a cat"] * 2, latents=x, generator=seeded(), **options).images
        evaluations = len(calls)
        with torch.no_grad():
            x = x * pipe.scheduler.init_noise_sigma
            want = ours(solver, x, pipe.trained, guided(pipe, 3.0), steps=5, seed=7)
        assert want.calls == evaluations == len(pipe.scheduler.timesteps)
        assert (found - want.x).abs().max() <= ULPS * want.x.abs().max()

    def test_of_stable_diffusion_3_makes_what_sample_makes(self, pipelines):
        pipe = pipelines("stable_diffusion_3")
        pipe.scheduler = ScorediffScheduler("unipc-3", trained=pipe.scheduler)
        x = start(1, 4, 8, 8)
        options = {"num_inference_steps": 5, "guidance_scale": 1.0, "output_type": "latent"}
        found = pipe("a cat", latents=x, **options).images
        text, _, pooled, _ = pipe.encode_prompt("a cat", None, None)

        def network(x, t):
            states = {"encoder_hidden_states": text, "pooled_projections": pooled}
            return pipe.transformer(x, timestep=t, **states, return_dict=False)[0]

        with torch.no_grad():
            assert torch.equal(found, ours("unipc-3", x, pipe.trained, network, steps=5).x)

    def test_of_flux_gets_the_shift_of_its_size_and_our_own_steps(self, pipelines):
        pipe = pipelines("flux")
        pipe.scheduler = ScorediffScheduler("dpm++2m", trained=pipe.scheduler)
        x = start(1, 4, 16)  # tokens of a picture of 2 by 2
        options = {"height": 8, "width": 8, "num_inference_steps": 5, "output_type": "latent"}
        found = pipe("a cat", "a dog", latents=x, **options).images
        text, pooled, places = pipe.encode_prompt("a cat", "a dog")

        def network(x, t):
            ids = {"txt_ids": places, "img_ids": pipe._prepare_latent_image_ids(1, 2, 2, "cpu", x.dtype)}
            states = {"encoder_hidden_states": text, "pooled_projections": pooled, "guidance": torch.tensor([3.5])}
            return pipe.transformer(x, timestep=t / 1000, **ids, **states, return_dict=False)[0]

        # mu, on the line through 0.5 at 256 tokens and 1.15 at 4096
        shift = float(np.exp(0.5 + (4 - 256) * 0.65 / (4096 - 256)))
        with torch.no_grad():
            want = ours("dpm++2m", x, pipe.trained, network, shift=shift, steps=5)
        # the pipeline's own mu is rounded otherwise
        assert torch.allclose(found, want.x, rtol=0, atol=ULPS * want.x.abs().max())
        assert want.calls == len(pipe.scheduler.timesteps)

    def test_of_pixels_makes_what_sample_makes(self, pipelines):
        pipe = pipelines("ddpm")
        pipe.scheduler = ScorediffScheduler("seeds-2", trained=pipe.scheduler)
        found = pipe(2, seeded(), num_inference_steps=5, output_type="pt").images
        x = torch.randn(2, 3, 8, 8, generator=seeded())
        with torch.no_grad():
            want = ours("seeds-2", x, pipe.trained, lambda x, t: pipe.unet(x, t).sample, steps=5, seed=7).x
        assert torch.equal(found, (want / 2 + 0.5).clamp(0, 1))

    def test_that_hands_over_options_of_its_own_scheduler_is_taken(self, pipelines):
        parts = pipelines("ddpm")
        pipe = diffusers.DDIMPipeline(parts.unet, diffusers.DDIMScheduler(clip_sample=False))
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = ScorediffScheduler.from_config(pipe.scheduler.config, solver="ddim")
        found = pipe(2, seeded(), num_inference_steps=5, output_type="pt").images
        assert len(found) == 2 and found.isfinite().all()
        with pytest.raises(ValueError, match="setting of the scheduler"):
            pipe(1, eta=0.5, num_inference_steps=5)

    def test_of_a_network_with_a_learned_variance_runs(self, pipelines):
        pipe = pipelines("class_dit")
        pipe.scheduler = ScorediffScheduler("exprk5s8", trained=pipe.scheduler)
        assert np.isfinite(pipe([7], num_inference_steps=2, output_type="np").images).all()
        assert len(pipe.scheduler.timesteps) == 17

    def test_from_image_to_image_starts_at_the_node_of_its_strength(self, pipelines):
        pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipelines("stable_diffusion"))
        pipe.set_progress_bar_config(disable=True)
        begun = []
        for solver in ("dpm++2m", "heun"):
            made = pipe.scheduler = ScorediffScheduler(solver, trained=pipelines("stable_diffusion").trained)
            noisy = made.add_noise
            made.add_noise = lambda *args, noisy=noisy: begun.append(noisy(*args)) or begun[-1]
            options = {"num_inference_steps": 8, "strength": 0.5, "guidance_scale": 3.0, "output_type": "latent"}
            found = pipe("a cat", image=start(1, 4, 8, 8), generator=seeded(), **options).images
            spacing = resolve(solver).spacing
            nodes = spacing(trained_as(pipelines("stable_diffusion").trained).schedule, 8).times[4:]
            with torch.no_grad():
                want = ours(solver, begun[-1], made.config.trained, guided(pipe, 3.0), grid=nodes)
            assert torch.equal(found, want.x)

    def test_that_paints_in_is_honoured_at_nodes_and_refused_within_steps(self, pipelines):
        pipe = diffusers.StableDiffusionInpaintPipeline.from_pipe(pipelines("stable_diffusion"))
        pipe.set_progress_bar_config(disable=True)
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 8:] = 1
        options = {"image": start(1, 3, 16, 16).clamp(-1, 1), "mask_image": mask, "height": 16, "width": 16}
        options |= {"num_inference_steps": 4, "strength": 1.0, "output_type": "latent"}
        pipe.scheduler = ScorediffScheduler("dpm++2m", trained=pipelines("stable_diffusion").trained)
        found, other = (pipe(prompt, generator=seeded(), **options).images for prompt in ("a cat", "a dog"))
        # the left half is the image's own
        assert torch.equal(found[..., :4], other[..., :4]) and not torch.equal(found, other)
        pipe.scheduler = ScorediffScheduler("heun", trained=pipelines("stable_diffusion").trained)
        with pytest.raises(ValueError, match="changed before evaluation 1"):
            pipe("a cat", generator=seeded(), **options)

    def test_is_saved_and_loaded_with_it(self, pipelines, tmp_path):
        pipe = pipelines("stable_diffusion")
        pipe.scheduler = ScorediffScheduler(sd.UniPC(k=2), trained=pipe.scheduler)
        pipe.save_pretrained(tmp_path)
        loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == [
            "scorediff.interop",
            "ScorediffScheduler",
        ]
        options = {"latents": start(1, 4, 8, 8), "num_inference_steps": 3, "output_type": "latent"}
        assert torch.equal(pipe("a cat", **options).images, loaded("a cat", **options).images)

    def test_built_around_it_finds_nothing_to_complain_of(self, pipelines, caplog):
        parts = pipelines("stable_diffusion").components
        parts["scheduler"] = ScorediffScheduler("dpm++2m", trained=diffusers.DDIMScheduler())
        with caplog.at_level(logging.WARNING, logger="diffusers"):
            diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
        assert not caplog.records


def test_a_body_that_asks_runs_by_turns_with_its_caller():
    def body(ask):
        return [ask(n) for n in range(3)]

    turns = Handover(body)
    assert turns.listen() == (False, 0)
    assert [turns.answer(10), turns.answer(11), turns.answer(12)] == [(False, 1), (False, 2), (True, [10, 11, 12])]


def test_a_body_that_handles_every_exception_ends_all_the_same_when_nobody_answers():
    def body(ask):
        while True:
            try:
                ask(0)
            except Exception:
                pass

    turns = Handover(body)
    turns.listen()
    turns.close()
    assert gone()
