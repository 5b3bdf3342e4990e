"""Whatever is wrong is refused in words that name the value and the way out."""

import dataclasses
import inspect
import math
import re

import numpy as np
import pytest
import torch
from discovery import (
    CONTROLLERS,
    COORDINATES,
    GUIDANCES,
    LINEAR_PARTS,
    PREDICTIONS,
    SCHEDULES,
    SOLVERS,
    SPACINGS,
    TERMINALS,
    engines_by_day,
    eta_of,
)

import scorediff as sd
from scorediff._core import registry

SCHEDULE = sd.VPLinear()
DENOISER = sd.targets.Gaussian((0.3, -1.0), (0.5, 2.0)).denoiser(SCHEDULE)
FLOW, SDE = sd.ProbabilityFlow(DENOISER), sd.ReverseSDE(DENOISER)
X = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: sd.sample(FLOW, (2, 2), "dpm++2mm", steps=5), ValueError, r"unknown solver 'dpm\+\+2mm'; did you mean 'dpm\+\+2m'"),
        (lambda: sd.sample(FLOW, (2, 2), "rk45:rtoll=1e-3"), ValueError, "no option 'rtoll'; did you mean 'rtol'"),
        (lambda: sd.sample(FLOW, (2, 2), "rk45:rtol"), ValueError, "option 'rtol' of 'rk45' has no value"),
        (lambda: sd.sample(FLOW, (2, 2), "rk45:coordinates=angel"), ValueError, "unknown coordinates 'angel'; did you mean 'angle'"),
        (lambda: sd.sample(FLOW, (2, 2), 3, steps=5), TypeError, "solver must be a Solver or a name.*got 3"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDPM(), steps=5), TypeError, "DDPM.*solves ReverseSDE, not ProbabilityFlow"),
        (lambda: sd.sample(SDE, (2, 2), sd.Heun(), steps=5), TypeError, "Heun.*solves ProbabilityFlow, not ReverseSDE"),
        (lambda: sd.sample(sd.ReverseSDE(DENOISER, 0.5), (2, 2), sd.DDPM(), steps=5), ValueError, "eta = 0.5: use DDIM"),
        (lambda: sd.sample(sd.ReverseSDE(DENOISER, 1.5), (2, 2), sd.DDIM(), steps=5), ValueError, "eta = 1.5: use SDEDPM"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM()), TypeError, "exactly one of steps=, evaluations= and grid="),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, grid=[1.0, 0.1]), TypeError, "exactly one of steps=, evaluations= and grid="),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=0), ValueError, "steps = 0"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=-2), ValueError, "steps = -2"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[1.0, 0.5, 0.5]), ValueError, "repeats at times 1 and 2"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[1.0, 0.5, -0.5]), ValueError, r"grid time -0.5 is outside the domain"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[0.1, 1.0]), ValueError, "rises"),
        (lambda: sd.sample(SDE, (2, 2), sd.DDPM(), grid=[0.1, 1.0]), ValueError, "rises"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[1.0, 0.1], t_end=0.2), TypeError, "drop t_start="),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[1.0, 0.0]), ValueError, "infinite at t = 0.*Denoise"),
        (lambda: sd.sample(FLOW, (2, 2), sd.RK45(), steps=5), TypeError, "chooses its own steps"),
        (lambda: sd.sample(FLOW, (2, 2), sd.RK45(), save=True), TypeError, "list of times"),
        (lambda: sd.sample(FLOW, (2, 2), sd.RK45(), grad=True), ValueError, "fixed-grid"),
        (lambda: sd.sample(FLOW, (2, 2), sd.RK45(rtol=1e-9, atol=1e-9)), ValueError, "rtol = 1e-09.*float32 can hold"),
        (lambda: sd.sample(FLOW, (2, 2), sd.RK45(rtol=-1.0)), ValueError, "rtol = -1.0"),
        (lambda: sd.sample(FLOW, (2, 2), sd.RK45(), max_evaluations=0), ValueError, "max_evaluations = 0"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, max_evaluations=9), TypeError, "for adaptive solvers"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, save=[0.77]), ValueError, "save time 0.77 is not a node"),
        (lambda: sd.sample(FLOW, solver=sd.DDIM(), steps=5), TypeError, "exactly one of shape="),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), x=X, steps=5), TypeError, "exactly one of shape="),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, ids=[1]), ValueError, "1 sample ids for 2 samples"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, seed=-1), ValueError, "seed -1"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, batch_size=0), ValueError, "batch_size = 0"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, stepz=5), TypeError, "stepz"),
        (lambda: sd.solve(FLOW, X[0], sd.DDIM(), steps=5), TypeError, r"shape \(B, ...\), got torch.float32 of shape \(2,\)"),
        (lambda: sd.solve(FLOW, X.long(), sd.DDIM(), steps=5), TypeError, "int64"),
        (lambda: sd.solve(FLOW, torch.tensor([[0.0], [torch.nan]]), sd.DDIM(), steps=5), ValueError, "sample 1 of the start"),
        (lambda: sd.encode(SDE, X, sd.DDPM(), steps=5), TypeError, "only the probability flow"),
        (lambda: sd.solve(FLOW, X, sd.DDIM(), grid=[0.1, 1.0], terminal=sd.solvers.Denoise()), ValueError, "ends a sampling run"),
        (lambda: sd.encode(FLOW, X, sd.DDIM(), steps=5, terminal=sd.solvers.Denoise()), TypeError, "unexpected keyword argument 'terminal'"),
        (lambda: sd.encode(FLOW, X, sd.DDIM(), steps=5, stepz=5), TypeError, "unexpected keyword argument 'stepz'"),
        (lambda: sd.encode(DENOISER, X, sd.DDPM(), steps=5), TypeError, "DDPM.*solves ReverseSDE, not ProbabilityFlow"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, terminal=sd.solvers.Denoise), TypeError, "is not a Terminal: give one, or its name"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, terminal="denois"), ValueError, "did you mean 'denoise'"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, spacing="karas"), ValueError, "did you mean 'karras'"),
        (lambda: sd.sample(torch.nn.Linear(2, 2), (2, 2), sd.DDIM(), steps=5), TypeError, "wrap a network in Denoiser"),
        (lambda: sd.sample(FLOW, (2, 2), steps=5), TypeError, "give a solver.*'dpm\\+\\+2m', 'unipc-3'.*scorediff solvers"),
        (lambda: sd.solve(FLOW, X, steps=5), TypeError, "give a solver"),
        (lambda: sd.encode(FLOW, X, steps=5), TypeError, "give a solver"),
        (lambda: sd.sample(FLOW, (2, 2), "", steps=5), ValueError, "unknown solver ''"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, evaluations=5), TypeError, "exactly one of steps=, evaluations= and grid="),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[1.0, 0.1], evaluations=5), TypeError, "exactly one of steps=, evaluations= and grid="),
        (lambda: sd.sample(FLOW, (2, 2), "edm-heun", evaluations=1), ValueError, "evaluations = 1: one step of edm-heun costs 2"),
        (lambda: sd.sample(FLOW, (2, 2), "heun", evaluations=2, terminal="denoise"), ValueError, r"costs 2 and Denoise\(\) one more"),
        (lambda: sd.sample(FLOW, (2, 2), "ddim", evaluations=0), ValueError, "evaluations = 0: one step of ddim costs 1"),
        (lambda: sd.sample(FLOW, (2, 2), "ddim", evaluations=9.5), TypeError, "evaluations must be a whole number, got 9.5"),
        (lambda: sd.sample(FLOW, (2, 2), "restart", evaluations=30), TypeError, "does not declare how many evaluations.*steps= or grid="),
        (lambda: sd.sample(FLOW, (2, 2), "rk45", evaluations=30), TypeError, "chooses its own steps.*max_evaluations="),
        (lambda: sd.ProbabilityFlow(torch.nn.Linear(2, 2)), TypeError, "wrap a network in Denoiser"),
        (lambda: sd.sample(FLOW, (2, 2), "rk45:rtol=abc"), ValueError, "'abc' is not a number"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, seed=0.5), TypeError, "integer"),
        (lambda: sd.add_noise(SCHEDULE, X, 1.5), ValueError, "t = 1.5 is outside the domain"),
        (lambda: sd.add_noise(SCHEDULE, X.to(torch.uint8), 0.5), TypeError, "scale them to"),
        (lambda: sd.prior(SCHEDULE, (2, 2), t_start=50), ValueError, "t = 50 is outside the domain"),
        (lambda: sd.VPCosine(offset=-1.0), ValueError, "VPCosine.offset=-1.0, t_max=0.9946. cannot be computed"),
        (lambda: sd.VE(sigma_min=0.0), ValueError, "VE.sigma_min=0.0"),
        (lambda: sd.sample(FLOW, (), sd.DDIM(), steps=5), ValueError, r"shape = \(\): \(B, ...\) is wanted"),
        (lambda: sd.sample(FLOW, (2,), sd.DDIM(), steps=5), ValueError, r"shape = \(2,\)"),
        (lambda: sd.sample(FLOW, (-1, 2), sd.DDIM(), steps=5), ValueError, r"shape = \(-1, 2\)"),
        (lambda: sd.sample(FLOW, (2, 0), sd.DDIM(), steps=5), ValueError, r"shape = \(2, 0\)"),
        (lambda: sd.sample(FLOW, 4, sd.DDIM(), steps=5), TypeError, r"shape = 4: whole numbers \(B, ...\)"),
        (lambda: sd.sample(FLOW, (2, 2.0), sd.DDIM(), steps=5), TypeError, r"shape = \(2, 2.0\): whole numbers"),
        (lambda: sd.sample(FLOW, "22", sd.DDIM(), steps=5), TypeError, "shape = '22': whole numbers"),
        (lambda: sd.solve(FLOW, torch.zeros(2, 0), sd.DDIM(), steps=5), TypeError, r"shape \(B, ...\), got torch.float32 of shape \(2, 0\)"),
        (lambda: sd.prior(SCHEDULE, ()), ValueError, r"shape = \(\)"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, device="nope"), ValueError, "device = 'nope'"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, device=2.5), TypeError, "device = 2.5: give a torch.device or a name"),
        (lambda: sd.sample(FLOW, x=X, solver=sd.DDIM(), steps=5, device="nope"), ValueError, "device = 'nope'"),
        (lambda: sd.prior(SCHEDULE, (2, 2), device="nope:1"), ValueError, "device = 'nope:1'"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, dtype="float32"), TypeError, "such as torch.float32, got 'float32'"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, dtype=torch.int64), TypeError, "floating dtype.*got torch.int64"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=["1.0", "0.5"]), TypeError, "a grid wants an array of real numbers"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[1.0, 0.5 + 1j]), TypeError, "a grid wants real numbers, got torch.complex128"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), grid=[1.0, [0.5]]), TypeError, "a grid wants an array of real numbers"),
        (lambda: sd.sample(FLOW, (2, 2), sd.DDIM(), steps=5, save=["1.0"]), TypeError, "save wants an array of real numbers"),
        (lambda: sd.VPLinear("0.1"), TypeError, "VPLinear: beta_min = '0.1'; a number is wanted"),
        (lambda: sd.VPLinear(beta_max=torch.tensor(20.0)), TypeError, r"VPLinear: beta_max = tensor\(20.\); a number"),
        (lambda: sd.DPMSolverPP(2.0), TypeError, "DPMSolverPP: k = 2.0; a whole number is wanted"),
        (lambda: sd.EDM(sigma_max=float("nan")), ValueError, "EDM: sigma_max = nan"),
        (lambda: sd.EDMPrediction(-0.5), ValueError, "data_std = -0.5: give the standard deviation"),
        (lambda: sd.VPDiscrete((0.1,)), ValueError, r"at least 2 betas in one row, got shape \(1,\)"),
        (lambda: sd.VPDiscrete("0.1"), TypeError, "betas wants an array of real numbers"),
        (lambda: sd.VPDiscrete((0.0, 0.1, 0.2)), ValueError, r"beta\[0\] = 0 .* \(drop a first entry whose alpha\^2 is 1: step 0 has noise\)$"),
        (lambda: sd.VPDiscrete.from_alphas_cumprod([1.0, 0.9, 0.8]), ValueError, r"beta\[0\] = 0 .*drop a first entry"),
        (lambda: sd.VPDiscrete.from_alphas_cumprod([0.9, 0.8, 0.0]), ValueError, r"beta\[2\] = 1 .* \(drop a last entry whose alpha\^2 is 0\)$"),
        (lambda: sd.VPDiscrete((-0.1, 0.1, 0.2)), ValueError, r"beta\[0\] = -0.1 .* stay positive$"),
        (lambda: sd.VPDiscrete((0.1, 0.2, 1.5)), ValueError, r"beta\[2\] = 1.5 .* stay positive$"),
        (lambda: sd.prior(sd.VE(0.01, 5e4), (2, 2), dtype=torch.float16), ValueError, "noise of standard deviation 50000, that at t_start = 1, does not fit torch.float16.*65504.*dtype=torch.float32"),
        (lambda: sd.sample(sd.targets.Gaussian().denoiser(sd.VE(0.01, 5e4)), (2, 2), "ddim", steps=2, dtype=torch.float16), ValueError, "does not fit torch.float16"),
        (lambda: sd.add_noise(sd.VE(0.01, 5e4), X.half(), 1.0), ValueError, "noise of standard deviation 50000, that at t = 1, does not fit"),
        (lambda: sd.DPMSolverPP(4), ValueError, "k = 4: DPMSolverPP takes 1 to 3 evaluations"),
        (lambda: registry.from_dict(sd.Solver, {"type": "DPMSolver", "strat": 2}), ValueError, "no field 'strat'; did you mean 'start'"),
        (lambda: registry.from_dict(sd.Solver, {"type": "DMPSolver"}), ValueError, "did you mean 'DPMSolver'"),
    ],
)  # fmt: skip
def test_it_is_refused_with_the_reason(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_network_output_of_another_shape_is_refused_where_it_happens():
    flow = sd.ProbabilityFlow(sd.Denoiser(lambda x, t: x[:, :1], SCHEDULE, sd.NoisePrediction()))
    with pytest.raises(ValueError, match=r"returned shape \(2, 1\) for a state of shape \(2, 2\) at t = 1"):
        sd.sample(flow, (2, 2), sd.DDIM(), steps=3)


def test_a_user_defined_denoiser_that_returns_another_shape_is_refused():
    class Odd:
        schedule = SCHEDULE

        def __call__(self, t, x):
            return x, x[:, :1]

    with pytest.raises(ValueError, match=r"denoiser returned torch.float32 of shape \(2, 1\)"):
        sd.sample(sd.ProbabilityFlow(Odd()), (2, 2), sd.DDIM(), steps=3)


# --- a number is one, in every field of every class


WITH_NUMBERS = [*SCHEDULES, *PREDICTIONS, *COORDINATES, *SPACINGS, *TERMINALS, *CONTROLLERS, *LINEAR_PARTS, *SOLVERS]


def numbers_of(made):
    return [f.name for f in dataclasses.fields(made) if f.init and type(getattr(made, f.name)) in (int, float)]


@pytest.mark.parametrize(
    "made", {type(made): made for made in WITH_NUMBERS}.values(), ids=lambda made: type(made).__name__
)
def test_a_field_for_a_number_takes_nothing_else_and_the_error_names_it(made):
    for name in numbers_of(made):
        for value in ("0.1", [1.0], True, 1j, math.nan, torch.tensor(0.5), np.array([0.5])):
            with pytest.raises((TypeError, ValueError), match=name):
                dataclasses.replace(made, **{name: value})


@pytest.mark.parametrize("cls", GUIDANCES, ids=lambda cls: cls.__name__)
def test_a_number_of_a_guidance_is_one_too(cls):
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.annotation is float:
            for value in ("0.1", None, True, math.nan):
                with pytest.raises((TypeError, ValueError), match=name):
                    cls(**{"denoiser": DENOISER, name: value})


# --- arrays of any kind


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_tables_grids_and_save_times_may_be_tensors_of_any_floating_dtype_with_gradients_or_without(kind):
    betas = torch.linspace(0.01, 0.2, 8).to(kind).requires_grad_()
    schedule = sd.VPDiscrete(betas)
    assert schedule == sd.VPDiscrete(tuple(betas.double().tolist())) and len(schedule.betas) == 8
    assert sd.schedules.ZeroTerminalSNR(betas).betas == schedule.betas
    products = (1 - betas.double()).cumprod(0).to(kind)
    assert sd.VPDiscrete.from_alphas_cumprod(products) == sd.VPDiscrete.from_alphas_cumprod(products.tolist())
    grid = torch.tensor([1.0, 0.5, 0.25]).to(kind)
    assert sd.Grid(grid) == sd.Grid(grid.requires_grad_()) == sd.Grid([1.0, 0.5, 0.25])
    for solver, more in (("ddim", {"grid": grid}), ("rk45", {"t_end": grid[2].item()})):
        saved = sd.sample(FLOW, (2, 2), solver, save=grid[1:], **more)
        assert saved.times.tolist() == [0.5, 0.25] and saved.states.shape == (2, 2, 2)


@pytest.mark.parametrize("rows", range(2, 7))
def test_a_table_of_few_rows_is_a_schedule(rows):
    betas = np.linspace(0.1, 0.6, rows)
    schedule = sd.VPDiscrete(tuple(betas))
    at = np.arange(1, rows + 1) / rows
    np.testing.assert_allclose(schedule.alpha(at) ** 2, np.cumprod(1 - betas), rtol=1e-14)
    t = np.linspace(*schedule.domain, 33)
    np.testing.assert_allclose(schedule.time_at(schedule.log_snr(t)), t, rtol=1e-9)
    assert schedule.smoothness == (4 if rows > 5 else 1)
    model = sd.targets.Gaussian().denoiser(schedule)
    assert sd.sample(model, (4, 2), "dpm++2m", steps=8).check().ok


# --- a batch of none


def refuse(*_, **__):
    raise AssertionError("of no samples nothing is asked")


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
@pytest.mark.parametrize("solver", engines_by_day(SOLVERS), ids=lambda solver: solver.name)
def test_a_batch_of_none_is_a_solution_of_none_and_no_network_is_called(solver):
    model = sd.Denoiser(refuse, SCHEDULE, "noise")
    problem = sd.ReverseSDE(model) if eta_of(solver) else sd.ProbabilityFlow(model)
    steps = {} if solver.adaptive else {"steps": 4}
    for more in ({}, {"terminal": "denoise"}, {"save": [0.5] if solver.adaptive else True}, {"batch_size": 2}):
        found = sd.sample(problem, (0, 3), solver, cond={"label": torch.zeros(0)}, **steps, **more).check()
        assert found.x.shape == found.x_end.shape == (0, 3) and found.calls == 0
        for values in (found.t, found.status, found.evaluations, found.accepted, found.rejected):
            assert values.shape == (0,)
        assert "save" not in more or found.states.shape == (len(found.times), 0, 3)
        assert "0 samples" in repr(found) and found._repr_html_()
    assert sd.solve(problem, X[:0], solver, **steps).x.shape == (0, 2)
    rises = sd.solvers.Churn, sd.solvers.Restart, sd.solvers.PredictorCorrector
    if not eta_of(solver) and not isinstance(solver, rises):
        assert sd.encode(problem, X[:0], solver, **steps).x.shape == (0, 2)


# --- whose fault it is that a number is not finite


def problem_of(solver, net):
    model = sd.Denoiser(net, SCHEDULE, "noise")
    return sd.ReverseSDE(model) if eta_of(solver) else sd.ProbabilityFlow(model)


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
@pytest.mark.parametrize("solver", engines_by_day(SOLVERS), ids=lambda solver: solver.name)
def test_a_state_that_the_step_makes_infinite_is_distinguished_from_an_output_that_is(solver):
    steps = {"max_evaluations": 300} if solver.adaptive else {"steps": 6}
    # finite outputs, of which the data, divided by alpha = 0.0066, are not
    made = sd.sample(problem_of(solver, lambda x, t: torch.full_like(x, 1e38)), (3, 2), solver, **steps)
    assert set(made.status) == {sd.Status.STATE_NON_FINITE}
    assert all(1 <= where.evaluation <= made.evaluations[i] for i, where in made.bad.items())
    with pytest.raises(
        sd.SolverError, match=r"sample 0 \(and 2 more of 3\): state non finite .*every output.*was finite"
    ):
        made.check()
    said = sd.sample(problem_of(solver, lambda x, t: x * torch.nan), (3, 2), solver, **steps)
    assert set(said.status) == {sd.Status.NON_FINITE}
    assert all(where[1:] == (1, None if solver.adaptive else 1) for where in said.bad.values()) and len(said.bad) == 3
    with pytest.raises(
        sd.SolverError, match=r"non finite first at t = .*, evaluation 1(, step 1)?: look at the network"
    ):
        said.check()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_step_after_which_a_state_is_not_finite_is_named(k):
    # float16 ends at 65504: 1.2e4 more in each step is too much in the k-th
    grid = sd.Grid([1.0, 0.8, 0.6, 0.4, 0.2])
    model = sd.Denoiser(lambda x, t: torch.full_like(x, -6e4), sd.EDM(0.1, 1.0), "noise")
    x = torch.tensor([[7e4 - 1.2e4 * k], [0.0]], dtype=torch.float16)
    found = sd.solve(model, x, "ddim", grid=grid)
    assert found.status.tolist() == [sd.Status.STATE_NON_FINITE, 0]
    assert found.bad == {0: (grid.times[k - 1], k, k)}
    with pytest.raises(
        sd.SolverError, match=rf"sample 0: state non finite after t = .*, evaluation {k}, step {k}: every"
    ):
        found.check()


def test_a_state_that_is_not_finite_before_the_first_evaluation_is_the_solvers():
    model = sd.Denoiser(lambda x, t: x, SCHEDULE, "noise")
    watched = sd.solvers.counting.CountingDenoiser(model, X, sd.Grid([1.0, 0.5]), {})
    x = X.clone()
    x[1] = torch.inf
    watched(1.0, x)
    assert watched.first_bad(x) == {1: (sd.Status.STATE_NON_FINITE, (1.0, 0, 0))}


# --- an error from inside a network says what that was called with


def fails(x, t, **cond):
    return x @ torch.ones(7, 7, dtype=x.dtype)


class Broken:
    schedule = SCHEDULE

    def __call__(self, t, x, **cond):
        return fails(x, t)


INSIDE = {
    "a network": lambda: sd.Denoiser(fails, SCHEDULE, "noise", time=lambda t: 999 * t),
    "a module": lambda: sd.Denoiser(torch.nn.Bilinear(2, 2, 2), SCHEDULE, "noise"),
    "a network on another schedule": lambda: sd.Denoiser(fails, sd.VPLinear(0.05, 25.0), "noise").on(SCHEDULE),
    "a user's denoiser": Broken,
    "a guided one": lambda: sd.ClassifierFree(sd.Denoiser(fails, SCHEDULE, "noise"), 2.0, null={"label": 0}),
    "a classifier": lambda: sd.guidance.ClassifierGuidance(
        sd.Denoiser(lambda x, t, label, text: x, SCHEDULE, "noise"), fails
    ),
}


@pytest.mark.parametrize("solver", ["ddim", "rk45", "exponential-adams", "torchdiffeq-dopri5", "scipy-rk45", "euler"])
@pytest.mark.parametrize("inside", INSIDE)
def test_an_error_from_inside_says_the_shapes_the_time_and_the_conditions(inside, solver):
    steps = {"steps": 2} if solver in ("ddim", "euler") else {}
    cond = {"label": torch.tensor([1, 2]), "text": "a cat" * 40, "classifier_label": torch.ones(2)}
    if inside != "a classifier":
        cond.pop("classifier_label")
    if inside == "a module":
        cond = {}
    with pytest.raises((RuntimeError, TypeError)) as caught:
        sd.sample(sd.ProbabilityFlow(INSIDE[inside]()), (2, 2), solver, cond=cond, **steps)
    (note,) = caught.value.__notes__
    assert re.match(
        r"Raised in a call of the (network|denoiser|classifier) .* with a state of \([124], 2\), torch\.float", note
    )
    assert "t = " in note and ("given as" in note) == (inside == "a network")
    if inside == "a classifier":
        assert "label = (2,), torch.float32 on cpu" in note or "label = (1,)" in note
    elif cond:
        assert re.search(r"label = \([124],\), torch\.int64 on cpu", note) and "text = 'a cata cat" in note
        assert note.endswith("...") and len(note) < 300
    else:
        assert note.endswith("no conditions")


def test_an_error_of_ours_on_the_way_is_as_short_as_it_was():
    with pytest.raises(ValueError, match="returned shape") as caught:
        sd.sample(sd.Denoiser(lambda x, t: x[:, :1], SCHEDULE, "noise"), (2, 2), "ddim", steps=2)
    assert not hasattr(caught.value, "__notes__")
