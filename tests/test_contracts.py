"""What every concrete class owes, found by discovery."""

import dataclasses
import inspect
import json

import pytest
import torch
from discovery import (
    COORDINATES,
    OURS,
    PREDICTIONS,
    SCHEDULES,
    SOLVERS,
    SPACINGS,
    TERMINALS,
    engines_by_day,
    label,
)
from engines import STEPS

import scorediff as sd
from scorediff._core import registry

TARGET = sd.targets.Gaussian((0.3, -1.0, 0.2), (0.5, 2.0, 0.1))
FIXED = [s for s in OURS if not s.adaptive]
BASES = [
    sd.schedules.Schedule,
    sd.predictions.Prediction,
    sd.coordinates.Coordinates,
    sd.spacings.Spacing,
    sd.Solver,
    sd.solvers.Terminal,
]


def problem_for(solver, schedule, target=TARGET):
    denoiser = target.denoiser(schedule)
    return sd.ProbabilityFlow(denoiser) if sd.ProbabilityFlow in solver.solves else sd.ReverseSDE(denoiser)


def options(solver, steps=9):
    return {} if solver.adaptive else {"steps": steps}


@pytest.mark.parametrize("base", BASES, ids=lambda b: b.__name__)
def test_concrete_classes_are_found_frozen_documented_and_final(base):
    found = [cls for cls in registry.concrete(base) if cls.__module__.startswith("scorediff.")]
    assert found
    for cls in found:
        assert (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen) or issubclass(cls, sd.Solver)
        assert inspect.getdoc(cls)
        cls()
        assert not [c for c in found if c is not cls and issubclass(c, cls)], f"{cls} is subclassed and instantiated"


@pytest.mark.parametrize("value", [*SCHEDULES, *PREDICTIONS, *COORDINATES, *SPACINGS, *SOLVERS, *TERMINALS], ids=label)
def test_plain_data_and_back(value):
    base = next(b for b in BASES if isinstance(value, b))
    data = json.loads(json.dumps(registry.to_dict(value)))
    if not isinstance(value, sd.schedules.CustomSchedule):  # functions cannot come back from plain data
        assert registry.from_dict(base, data) == value
    if isinstance(value, sd.Solver):
        assert sd.Solver.from_dict(value.to_dict()) == value


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_a_solver_has_a_name_that_finds_it_and_says_what_it_solves_and_at_which_order(solver):
    assert registry.parse(sd.Solver, solver.name) == solver
    assert set(solver.solves) <= {sd.ProbabilityFlow, sd.ReverseSDE} and solver.solves
    # an adaptive third-party solver may vary its order, and then declares none; Langevin steps keep a bias
    if not solver.adaptive and not isinstance(solver, sd.solvers.PredictorCorrector):
        assert solver.order or solver.weak_order or sd.ProbabilityFlow not in solver.solves
        assert solver.weak_order or sd.ReverseSDE not in solver.solves
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.anything = 1


@pytest.mark.parametrize("solver", engines_by_day(OURS), ids=label)
def test_one_solver_object_may_be_reused_and_interleaved(solver):
    schedule = sd.VPLinear()
    problem = problem_for(solver, schedule)
    grid = sd.Grid([schedule.t_start, schedule.t_end]) if solver.adaptive else solver.spacing(schedule, STEPS)
    xs = [sd.prior(schedule, (2, 3), seed=k, dtype=torch.float64) for k in (0, 1)]
    alone = [[step[1].clone() for step in solver.run(problem, x, grid, sd.noise.IndependentNoise(0, x))] for x in xs]
    runs = [solver.run(problem, x, grid, sd.noise.IndependentNoise(0, x)) for x in xs]
    together = [[], []]
    for a, b in zip(*runs, strict=False):
        together[0].append(a[1])
        together[1].append(b[1])
    for one, other in zip(alone, together, strict=True):
        # kept states are not overwritten either
        for a, b in zip(one, other, strict=False):
            assert torch.equal(a, b)


@pytest.mark.nightly
@pytest.mark.parametrize("solver", FIXED, ids=label)
def test_a_thousand_steps_on_every_schedule_are_finite(solver):
    for schedule in SCHEDULES:
        sd.sample(problem_for(solver, schedule), (2, 3), solver, steps=1000).check()


@pytest.mark.parametrize("solver", engines_by_day([s for s in OURS if s.starts_at_pure_noise]), ids=label)
def test_a_solver_that_claims_it_starts_at_alpha_zero(solver):
    schedule = sd.RectifiedFlow()
    grid = sd.spacings.UniformTime()(schedule, 50, t_start=1.0)
    solution = sd.sample(problem_for(solver, schedule), (3, 3), solver, grid=grid, dtype=torch.float64).check()
    near = sd.sample(
        problem_for(solver, schedule), (3, 3), solver, grid=[1 - 1e-7, *grid.times[1:]], dtype=torch.float64
    )
    if sd.ProbabilityFlow in solver.solves:
        # a start by another method takes the first step near alpha = 0, but not that from it
        close = 1e-4 if solver.nfe and solver.evaluations(50) == 50 * solver.nfe else 1e-3
        torch.testing.assert_close(solution.x, near.x, rtol=close, atol=close)


@pytest.mark.parametrize("solver", engines_by_day(FIXED), ids=label)
def test_gradients_flow_through_a_fixed_grid_when_asked(solver):
    schedule = sd.VPLinear()
    weight = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    model = sd.Denoiser(lambda x, t: weight * x, schedule, sd.NoisePrediction())
    problem = sd.ProbabilityFlow(model) if sd.ProbabilityFlow in solver.solves else sd.ReverseSDE(model)
    x = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)

    def output(w):
        net = sd.Denoiser(lambda x, t: w * x, schedule, sd.NoisePrediction())
        return sd.solve(dataclasses.replace(problem, denoiser=net), x, solver, steps=4, grad=True).x.sum()

    by_weight, by_start = torch.autograd.grad(output(weight), (weight, x))
    h = 1e-6
    difference = (output(weight.detach() + h) - output(weight.detach() - h)) / (2 * h)
    torch.testing.assert_close(by_weight, difference.detach(), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(by_start).all()
    assert not sd.solve(problem, x, solver, steps=4).x.requires_grad
