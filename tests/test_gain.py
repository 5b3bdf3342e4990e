"""What an error of the network becomes in the sample: looked through once, felt, and warned of where it is large."""

import re

import numpy as np
import pytest
import torch
from discovery import BY_NIGHT, SCHEDULES, SOLVERS, eta_of, label

import scorediff as sd
from scorediff._core.conditions import Conditions
from scorediff.denoiser import PairOutput
from scorediff.solvers.gain import LIMIT, _errors, gain
from scorediff.solvers.unrolled import unrolled

_FALLING = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
CAPPED_COSINE = sd.VPDiscrete(np.minimum(1 - _FALLING[1:] / _FALLING[:-1], 0.999))
EVERY_SCHEDULE = [*SCHEDULES, CAPPED_COSINE]
_TORCHSDE = ("euler", "milstein", "srk", "euler-heun", "heun", "midpoint", "log-ode", "reversible-heun")
FIXED = [s for s in SOLVERS if not s.adaptive]

EXPLICIT = "an explicit step of the SDE's drift, which is stable on many steps alone"
NOISE_FORM = "noise form: an error grows by e^h in a step, which a corrector, a second stage or eta = 1 squares"
HIGH = "weights of order 6 alternate in sign, and add up to much on few steps"
EDM = "EDM's spacing, made for sigma / alpha up to 80, begins at 1000 here: spacing='log-snr' will do"
#: Solvers whose errors grow on few steps of every spacing tried, or of the one they are published with: why, and where.
LISTED = {
    **{f"exp-pec{k}-noise": (NOISE_FORM, sd.VPLinear(), 10) for k in (3, 4, 5)},
    **{f"seeds-{k}": (NOISE_FORM, sd.VPLinear(), 5) for k in (2, 3)},
    "sde-dpm-2m": (NOISE_FORM, sd.VPLinear(), 5),
    "sde-dpm++2m-edm": ("the data's variance taken out is too much on the way there", sd.RectifiedFlow(), 8),
    "exp-ab5": (HIGH, sd.EDM(), 10),
    "exp-ab6": (HIGH, sd.VPLinear(), 32),
    "exp-pec5": (HIGH, sd.EDM(), 10),
    "pndm": ("its start steps to the middle of the time, far from that of the log-SNR", sd.RectifiedFlow(), 5),
    "dpm2-a": ("a step of noise form to half of what is left of a long one", sd.RectifiedFlow(), 5),
    "edm-heun": (EDM, sd.RectifiedFlow(), 5),
    "edm-stochastic": (EDM, sd.RectifiedFlow(), 5),
    "restart": (EDM, sd.RectifiedFlow(), 5),
    "euler-maruyama": (EXPLICIT, sd.VE(), 5),
    "stochastic-heun": (EXPLICIT, sd.VPLinear(), 5),
    **{f"torchsde-{name}": (EXPLICIT, sd.VE(), 5) for name in _TORCHSDE},
    "torchdiffeq-implicit-adams": ("its functional iteration does not converge on few steps", sd.VPLinear(), 5),
    "torchdiffeq-fixed-adams": ("its functional iteration does not converge on few steps", sd.VPLinear(), 5),
    "torchdiffeq-explicit-adams": ("Adams' methods there want even steps of the time", sd.VE(), 10),
}


class Erring(sd.DenoiserBase):
    """The denoiser of a Gaussian around 0 with variance v, whose data is off by `error` at evaluation `k`."""

    def __init__(self, schedule, v, k, error):
        self.schedule, self.v, self.k, self.error, self.calls = schedule, v, k, error, 0

    def evaluate(self, t, x, cond: Conditions):
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        data = x * (alpha * self.v / (alpha**2 * self.v + sigma**2)) + self.error * (self.calls == self.k)
        self.calls += 1
        return PairOutput(x, data, (x - alpha * data) / sigma)


@pytest.mark.parametrize("solver", ["dpm++2m", "unipc-3", "heun", "deis-tab2", "dpm++2s", "ipndm-4"])
@pytest.mark.parametrize("v", [0.0, 0.01, 1.0])
def test_an_error_at_one_evaluation_comes_out_as_looked_through(solver, v):
    schedule, solver = sd.VPLinear(), sd.solvers.plan.resolve(solver)
    grid = solver.spacing(schedule, 6)
    found = unrolled(solver, grid, schedule, 0.0, sd.DataPrediction()).coefficients
    alpha, sigma = schedule.alpha(found.times), schedule.sigma(found.times)
    seen = _errors(found.outputs[:-1], found.outputs[-1], alpha * v / (alpha**2 * v + sigma**2))
    x = torch.zeros(1, 1, dtype=torch.float64)
    for k, expected in enumerate(seen):
        felt = sd.solve(sd.ProbabilityFlow(Erring(schedule, v, k, 1.0)), x, solver, grid=grid).check().x
        assert float(felt) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_one_step_of_ddim_weighs_an_error_of_the_data_by_its_weight_of_the_data():
    schedule = sd.VPLinear()
    grid = sd.Grid([0.8, 0.2])
    # alpha_s (1 - e^-h)
    weight = schedule.alpha(0.2) * -np.expm1(schedule.log_snr(0.8) - schedule.log_snr(0.2))
    found = gain(sd.DDIM(), schedule, grid)
    assert found.data == pytest.approx(weight, rel=1e-12)
    # where sigma / alpha is above 1, an error of the noise weighs as much
    assert found.noise == pytest.approx(found.data) and schedule.log_snr(0.8) < 0


def test_what_cannot_be_looked_through_has_no_gain():
    schedule = sd.VPLinear()
    assert gain(sd.RK45(), schedule, sd.Grid([1.0, 0.1])) is None
    langevin = sd.solvers.PredictorCorrector()
    assert gain(langevin, schedule, langevin.spacing(schedule, 5)) is None


def swept(solver):
    """The largest gain on its own spacing, and where: by day on a few schedules and numbers of steps."""
    schedules = EVERY_SCHEDULE if BY_NIGHT else [sd.VPLinear(), sd.RectifiedFlow(), CAPPED_COSINE]
    for schedule in schedules:
        for steps in (5, 8, 10, 15, 20, 32, 64) if BY_NIGHT else (5, 10, 20):
            found = gain(solver, schedule, solver.spacing(schedule, steps))
            if found is not None:
                yield found.noise, f"{type(schedule).__name__}, {steps} steps"


@pytest.mark.parametrize("solver", [s for s in FIXED if s.name not in LISTED], ids=label)
def test_on_its_own_spacing_no_solver_makes_errors_more_than_ten_times_as_large(solver):
    for found, where in swept(solver):
        assert found <= LIMIT, where


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge:UserWarning")
@pytest.mark.parametrize("name", LISTED)
def test_those_that_do_are_listed_by_name_and_who_runs_them_there_is_warned_and_the_run_is_what_it_is(name):
    why, schedule, steps = LISTED[name]
    solver = sd.solvers.plan.resolve(name)
    assert not gain(solver, schedule, solver.spacing(schedule, steps)).noise <= LIMIT, f"it does not: {why}"
    denoiser = sd.targets.Gaussian().denoiser(schedule)
    problem = sd.ReverseSDE(denoiser) if eta_of(solver) else sd.ProbabilityFlow(denoiser)
    with pytest.warns(sd.solvers.GainWarning, match=rf"{re.escape(name)} on these {steps} steps .* times as large"):
        made = sd.sample(problem, (2, 2), solver, steps=steps, dtype=torch.float64)
    start = sd.prior(schedule, (2, 2), dtype=torch.float64)
    assert torch.equal(made.x, sd.solve(problem, start, solver, steps=steps).x)


def test_nobody_is_warned_of_solvers_that_are_not_listed(recwarn):
    flow = sd.ProbabilityFlow(sd.targets.Gaussian().denoiser(sd.VPLinear()))
    for name in ("ddim", "dpm++2m", "unipc-3", "heun", "deis-tab3", "exponential-adams"):
        sd.sample(flow, (1, 2), name, **({} if name == "exponential-adams" else {"steps": 8}))
    assert not recwarn.list
