"""Whatever is wrong is refused in words that name the value and the way out."""

import pytest
import torch

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
