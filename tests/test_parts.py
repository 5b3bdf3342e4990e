"""A run in parts: the numbers of the nodes, noise that goes on, and what a method forgets between two steps."""

import pickle

import numpy as np
import pytest
import torch
from discovery import SCHEDULES, SOLVERS, by_day, eta_of, label

import scorediff as sd
from scorediff.solvers.plan import problem_for, resolve

TARGET = sd.targets.Gaussian((0.3, -1.0), (0.5, 0.2))
FIXED = [s for s in SOLVERS if not s.adaptive]
STEPS = 6
CASES = by_day(
    [(s, schedule) for s in FIXED for schedule in SCHEDULES],
    [(s, schedule) for s in FIXED for schedule in (sd.VPLinear(), sd.RectifiedFlow(), sd.EDM())[: 2 * s.one_step + 1]],
)


def run(solver, schedule, x, grid, *, eta=None, **options):
    problem = problem_for(TARGET.denoiser(schedule), solver, eta or eta_of(solver))
    return sd.solve(problem, x, solver, grid=grid, seed=1, progress=False, **options).check().x


def in_single_steps(solver, schedule, x, grid, **options):
    for n in range(grid.steps):
        x = run(solver, schedule, x, grid[n : n + 2], **options)
    return x


def start_of(schedule, rows=3):
    return sd.prior(schedule, (rows, 2), seed=3, dtype=torch.float64)


def apart(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")  # torchdiffeq's, at six steps
@pytest.mark.parametrize(("solver", "schedule"), CASES, ids=label)
def test_every_step_may_be_a_run_of_its_own_just_where_the_solver_says_that_it_forgets_the_steps_before(
    solver, schedule
):
    grid, x = solver.spacing(schedule, STEPS), start_of(schedule)
    whole = run(solver, schedule, x, grid)
    if solver.one_step:
        assert apart(in_single_steps(solver, schedule, x, grid), whole) < 1e-12
        half = run(solver, schedule, x, grid[:4])
        assert apart(run(solver, schedule, half, grid[3:]), whole) < 1e-12
        return
    try:
        assert apart(in_single_steps(solver, schedule, x, grid), whole) > 1e-4
    except ValueError as error:
        assert "no step of Grid(1 step" in str(error)  # a restart, which wants an interval


@pytest.mark.parametrize("name", ["euler-a", "dpm2-a", "dpm++2s-a", "res-3-a", "krogstad-a"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_an_ancestral_run_in_single_steps_adds_the_noise_of_the_whole_run(name, eta):
    for schedule in (sd.VPLinear(), sd.RectifiedFlow(), sd.EDM()):
        solver, x = resolve(name), start_of(schedule, rows=400)
        grid = solver.spacing(schedule, 12)
        whole, parts = run(solver, schedule, x, grid, eta=eta), in_single_steps(solver, schedule, x, grid, eta=eta)
        assert apart(parts, whole) < 1e-12
        pairs = np.corrcoef(x.flatten(), (parts - TARGET.mean).flatten())
        assert abs(pairs[0, 1]) < (0.9 if eta == 0.5 else 0.2)  # 1.000 where no noise is added


def test_ancestral_noise_is_cut_at_the_end_of_the_schedule_or_of_the_run_if_that_is_lower():
    schedule, asked = sd.VPLinear(), []

    def net(x, t):
        asked.append(float(t[0]))
        return 0.1 * x

    model = sd.Denoiser(net, schedule, sd.DataPrediction())
    for t_end, lowest in ((0.3, 1e-3), (1e-3, 1e-3), (2e-4, 2e-4)):
        asked.clear()
        sd.sample(sd.ReverseSDE(model, 2.0), (2, 2), "krogstad-a", steps=4, t_end=t_end, progress=False)
        assert min(asked) == pytest.approx(lowest, rel=1e-6)
        # by a step whose noise is cut, besides the last one where that ends there
        assert sum(t < lowest * (1 + 1e-6) for t in asked) >= 1 + (t_end == lowest)


def test_a_denoiser_that_does_not_reach_the_end_of_the_schedule_and_an_eta_that_has_no_end_are_refused():
    shallow = TARGET.denoiser(sd.VE(sigma_min=0.5, sigma_max=80.0)).on(sd.VPLinear())
    with pytest.raises(ValueError, match=r"at t = 0.001 of VPLinear.*start and end the run inside"):
        sd.sample(sd.ReverseSDE(shallow), (2, 2), "euler-a", steps=4, t_start=0.9, t_end=0.5)
    straight = sd.schedules.CustomSchedule(lambda t: 1 - t, lambda t: t, (0.0, 1.0))
    sde = sd.ReverseSDE(TARGET.denoiser(straight), 1.5)
    with pytest.raises(ValueError, match=r"eta = 1.5: above 1 .* at t = 0 of .* sigma is 0: take eta up to 1"):
        sd.sample(sde, (2, 2), "euler-a", steps=4, t_start=0.9, t_end=0.1)


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
def test_a_run_that_ends_on_a_jump_stays_on_its_side_and_one_that_looks_ahead_sees_what_lies_beyond():
    schedule, asked = sd.VPLinear(), []

    class Jumping(sd.DenoiserBase):
        def __init__(self):
            self.schedule = schedule

        @property
        def discontinuities(self):
            return (0.3,)

        def evaluate(self, t, x, cond):
            asked.append(t)
            return sd.denoiser.PairOutput(x, 0.1 * x, x)

    sd.sample(sd.ProbabilityFlow(Jumping()), (2, 2), "heun", steps=4, t_end=0.3, progress=False)
    assert min(asked) == np.nextafter(0.3, 1)
    sd.sample(sd.ReverseSDE(Jumping(), 2.0), (2, 2), "dpm2-a", steps=4, t_end=0.3, progress=False)
    assert min(asked) < 0.29


@pytest.mark.parametrize("name", ["ddpm", "krogstad-a", "seeds-2", "stochastic-heun", "predictor-corrector"])
def test_along_one_brownian_path_too_the_rest_of_a_run_is_the_rest(name):
    solver, schedule = resolve(name), sd.VPLinear()
    grid, x = solver.spacing(schedule, 4), start_of(schedule)
    whole = run(solver, schedule, x, grid, noise=sd.noise.BrownianPath)
    assert apart(in_single_steps(solver, schedule, x, grid, noise=sd.noise.BrownianPath), whole) < 1e-12


def test_noise_that_goes_by_the_number_of_a_step_goes_on_in_a_later_part():
    found = []

    class Noted(sd.noise.IndependentNoise):
        def __call__(self, a, b, tag=0):
            found[-1].append(tag)
            return super().__call__(a, b, tag)

    schedule, solver = sd.EDM(), resolve("edm-stochastic")
    whole = solver.spacing(schedule, 6)
    for grid in (whole, whole[:3], whole[2:]):
        found.append([])
        run(solver, schedule, start_of(schedule), grid, noise=Noted)
    # at its start, the highest point of a run, nothing is lifted
    assert found == [[2, 3, 4, 5, 6], [2], [4, 5, 6]]


def test_a_restart_goes_down_on_the_numbered_nodes_of_the_grid():
    grids = []

    class Noted(sd.Solver):
        order = 1

        def run(self, problem, x, grid, noise):
            grids.append(grid)
            yield from sd.DDIM().run(problem, x, grid, noise)

    schedule = sd.EDM()
    whole = sd.DDIM().spacing(schedule, 12)[2:]
    run(sd.solvers.Restart(Noted(), repeats=1), schedule, start_of(schedule), whole)
    down, again, rest = grids
    assert down.first == 2 < again.first and down == whole[: len(down)]
    assert again == whole[again.first - 2 : len(down)] and rest == whole[len(down) - 1 :]


def test_a_slice_keeps_the_numbers_of_its_nodes():
    grid = sd.Grid([1.0, 0.8, 0.5, 0.25, 0.1])
    rest = grid[2:]
    assert (rest.first, rest.steps, rest.start, rest.end) == (2, 2, 0.5, 0.1)
    assert rest[1:] == grid[3:] and grid[1:][:3] == grid[1:4] and grid[-2:].first == 3 and grid[:] == grid
    assert grid[0] == 1.0 and grid[-1] == 0.1 and rest[0] == 0.5 and list(rest) == [0.5, 0.25, 0.1]
    assert rest != sd.Grid(rest.times) and hash(rest) != hash(sd.Grid(rest.times)) and sd.Grid(rest.times, 2) == rest
    assert pickle.loads(pickle.dumps(rest)) == rest and pickle.loads(pickle.dumps(rest)).first == 2
    assert rest.reversed() == sd.Grid([0.1, 0.25, 0.5])
    assert (repr(grid), repr(rest)) == (
        "Grid(4 steps, t = 1 .. 0.1)",
        "Grid(2 steps from node 2, t = 0.5 .. 0.1)",
    )


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda grid: grid[::2], ValueError, r"give Grid\(grid.times\[::2\]\)"),
        (lambda grid: grid[::-1], ValueError, "number its nodes anew"),
        (lambda grid: grid[2:], ValueError, "at least two times"),
        (lambda grid: grid[5], IndexError, "out of bounds"),
        (lambda grid: grid[0.5], TypeError, "integer"),
        (lambda grid: sd.Grid(grid.times, -1), ValueError, "first = -1"),
        (lambda grid: sd.Grid(grid.times, 0.5), TypeError, "integer"),
    ],
)
def test_a_slice_that_cannot_be_part_of_a_run_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make(sd.Grid([1.0, 0.5, 0.25]))


def test_the_number_of_the_first_node_is_in_the_settings():
    flow = sd.ProbabilityFlow(TARGET.denoiser(sd.VPLinear()))
    grid = sd.DDIM().spacing(sd.VPLinear(), 5)
    settings = sd.solve(flow, torch.ones(1, 2), "ddim", grid=grid[2:], progress=False).settings
    assert settings["first_node"] == 2 and settings["grid"] == grid.times[2:].tolist()
