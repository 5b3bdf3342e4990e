"""Whose memory a tensor lives in: outputs that a network fills again, states that it is given, and who may write."""

import warnings

import numpy as np
import pytest
import torch
from discovery import SOLVERS, by_day, engines_by_day, eta_of, label

import scorediff as sd
from scorediff.denoiser import NetworkOutput, PairOutput
from scorediff.solvers.plan import problem_for, resolve

SCHEDULE = sd.VPLinear()
PREDICTIONS = (sd.NoisePrediction(), sd.DataPrediction())
NET = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 4))
START = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def output_of(x):
    return torch.tanh(0.7 * x) / 2 + 0.1 * x


def plain(x, t):
    return output_of(x)


class Refilled:
    """A network that hands out memory which it fills again: `make` makes it for a shape, `hand_out` gives the tensor.

    It is filled through numpy, as by a replayed graph or another library: torch counts no write.
    """

    places = 1

    def __init__(self):
        self.kept, self.calls = {}, 0

    def __call__(self, x, t):
        if x.shape not in self.kept:
            self.kept[x.shape] = [self.make(x) for _ in range(self.places)]
        self.calls += 1
        memory = self.kept[x.shape][self.calls % self.places]
        tensor = self.hand_out(memory)
        tensor.numpy()[...] = output_of(x).numpy()
        return tensor

    def make(self, x):
        return torch.empty_like(x)

    def hand_out(self, memory):
        return memory


class Alternating(Refilled):
    places = 3


class InABiggerBuffer(Refilled):
    def make(self, x):
        return torch.empty(2, *x.shape)

    def hand_out(self, memory):
        return memory[1]


class OfAnotherLibrary(Refilled):
    def make(self, x):
        return np.empty(x.shape, dtype=np.float32)

    def hand_out(self, memory):
        return torch.from_numpy(memory)


class Detached(Refilled):
    def hand_out(self, memory):
        return memory.detach()


REFILLED = (Refilled, Alternating, InABiggerBuffer, OfAnotherLibrary, Detached)


def solved(denoiser, solver, **options):
    if isinstance(solver, sd.solvers.AdaptiveSolver):
        solver = solver.at(0.1)
    how = options if solver.adaptive else {"steps": 6, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a network that nobody trained
        return sd.solve(problem_for(denoiser, solver, eta_of(solver)), START, solver, seed=1, progress=False, **how).x


@pytest.mark.parametrize("solver", by_day(SOLVERS, [s for s in SOLVERS if not (s.one_step or s.adaptive)]), ids=label)
def test_a_network_that_fills_the_same_memory_each_time_gives_what_it_gives_in_fresh_memory(solver):
    for prediction in PREDICTIONS:
        wanted = solved(sd.Denoiser(plain, SCHEDULE, prediction), solver)
        assert torch.equal(solved(sd.Denoiser(Refilled(), SCHEDULE, prediction), solver), wanted)


@pytest.mark.parametrize("solver", engines_by_day(SOLVERS), ids=label)
def test_wherever_the_memory_lies_that_a_network_fills_again_nothing_changes(solver):
    wanted = solved(sd.Denoiser(plain, SCHEDULE, sd.DataPrediction()), solver)
    for network in REFILLED:
        assert torch.equal(solved(sd.Denoiser(network(), SCHEDULE, sd.DataPrediction()), solver), wanted), network


class Pairs(Refilled):
    """A user-defined denoiser whose pair lies in the same memory each time."""

    schedule = SCHEDULE

    def __call__(self, t, x):
        data = super().__call__(x, t)
        noise = self.kept.setdefault("noise", torch.empty_like(x))
        alpha, sigma = (float(f(t)) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        noise.numpy()[...] = ((x - alpha * data) / sigma).numpy()
        return data, noise


class FreshPairs(Pairs):
    def __call__(self, t, x):
        return tuple(v.clone() for v in super().__call__(t, x))


class FreshData(Pairs):
    def __call__(self, t, x):
        data, noise = super().__call__(t, x)
        return data.clone(), noise


class OfTheBase(sd.DenoiserBase):
    """The same as a class of its own."""

    def __init__(self, pairs):
        self.schedule, self.pairs = SCHEDULE, pairs

    def evaluate(self, t, x, cond):
        return PairOutput(x, *self.pairs(t, x))


def test_nor_does_it_matter_for_a_user_defined_denoiser_a_guidance_or_a_saved_program():
    class Saved(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("memory", torch.zeros(3, 4))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self.memory.copy_(0.3 * x)
            return self.memory

    def guided(net, other):
        two = (sd.Denoiser(n, SCHEDULE, sd.NoisePrediction()) for n in (net, other))
        return sd.guidance.Autoguidance(*two, scale=2.0)

    def by_hand(net):
        model = sd.Denoiser(net, SCHEDULE, sd.NoisePrediction())

        def both(t, x):
            first, second = model(t, x), model(t, 0.9 * x)
            return tuple(1.5 * a - 0.5 * b for a, b in zip(first, second, strict=True))

        both.schedule = SCHEDULE
        return both

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(Saved())
    shared = Refilled()
    for refilled, fresh in (
        (Pairs(), FreshPairs()),
        (FreshData(), FreshPairs()),
        (OfTheBase(Pairs()), FreshPairs()),
        (guided(shared, lambda x, t: shared(0.9 * x, t)), guided(plain, lambda x, t: plain(0.9 * x, t))),
        (by_hand(Refilled()), by_hand(plain)),
        (sd.Denoiser(script, SCHEDULE, "data"), sd.Denoiser(lambda x, t: 0.3 * x, SCHEDULE, "data")),
        (sd.Denoiser(lambda x, t: x, SCHEDULE, "noise"), sd.Denoiser(lambda x, t: x.clone(), SCHEDULE, "noise")),
    ):
        for solver in (sd.DPMSolverPP(2), sd.solvers.Krogstad(), resolve("exp-ab2-noise")):
            assert torch.equal(solved(refilled, solver), solved(fresh, solver)), (refilled, solver)


def test_gradients_flow_through_what_had_to_be_copied():
    weight = torch.tensor(0.3, requires_grad=True)
    found = []
    for kept in ([], None):

        def net(x, t, kept=kept):
            output = weight * x
            return output if kept is None else (kept.append(output) or output)

        model = sd.Denoiser(net, SCHEDULE, sd.DataPrediction())
        x = solved(model, sd.DPMSolverPP(2), grad=True)
        found.append((x.detach(), *torch.autograd.grad(x.square().sum(), weight)))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1] != 0


def in_own_memory(make):
    """The output that `make()` gives, as whoever keeps it has it."""
    return NetworkOutput(START, make(), ((1.0, 1.0), (1.0, 0.0))).in_own_memory().output


@pytest.mark.parametrize(
    "make",
    [
        lambda: NET(START),
        lambda: NET(START)[:, :3],
        lambda: NET(START).chunk(2, dim=1)[1],
        lambda: NET(START).reshape(-1, 2, 2)[:, 0].contiguous(),
        lambda: (NET(START), None)[0],
    ],
    ids=["module", "slice", "half", "reshaped", "of several"],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_output_that_nobody_else_holds_is_not_copied(make, mode):
    places = []

    def noted():
        output = make()
        places.append(output.data_ptr())
        return output

    with mode():
        assert in_own_memory(noted).data_ptr() == places[0]
        kept = noted()
        assert in_own_memory(lambda: kept).data_ptr() != places[1] == kept.data_ptr()


def leaf_with_a_gradient():
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.ones(3, requires_grad=True)
        leaf.sum().backward()
    return leaf


@pytest.mark.parametrize(
    "owner, hand_out",
    [
        (lambda: torch.ones(3), lambda owner: owner),
        (lambda: torch.ones(3), lambda owner: owner.detach()),
        (lambda: torch.ones(2, 3), lambda owner: owner[1]),
        (lambda: torch.ones(2, 3), lambda owner: owner[1].reshape(1, 3)),
        (lambda: torch.ones(2, 3).chunk(2), lambda owner: owner[0].detach()),
        (leaf_with_a_gradient, lambda owner: owner.grad),
        (lambda: np.ones(3), lambda owner: torch.from_numpy(owner)),
        (lambda: bytearray(12), lambda owner: torch.frombuffer(owner, dtype=torch.float32)),
    ],
    ids=["the same", "an alias", "a row", "a view", "a half", "a gradient", "numpy's", "bytes"],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_output_in_memory_that_somebody_else_holds_is_copied(owner, hand_out, mode):
    with mode():
        kept = owner()
        place = hand_out(kept).data_ptr()
        own = in_own_memory(lambda: hand_out(kept))
        assert own.data_ptr() != place and torch.equal(own, hand_out(kept))


def test_what_was_made_of_an_output_before_it_was_copied_is_made_again():
    buffer = torch.ones(3, 4)
    made = NetworkOutput(START, buffer, ((0.0, 1.0), (1.0, -1.0)))
    data, noise = made  # the data is the output itself
    made.in_own_memory()
    data.zero_()
    assert torch.equal(made[0], torch.ones(3, 4)) and torch.equal(made[1], noise)


@pytest.mark.parametrize(
    "saved", [lambda: NET, lambda: torch.export.export(NET, (START,)).module()], ids=["module", "exported"]
)
def test_a_run_copies_no_output_of_an_ordinary_network(saved):
    net, made, found = saved(), [], []

    def noted(x, t):
        output = net(x)
        made.append(output.data_ptr())
        return output

    class Looks(sd.Solver):
        def run(self, problem, x, grid, noise):
            for t, s in grid.pairs():
                found.append(problem.denoiser(t, x).output.data_ptr())
                yield s, x

    solved(sd.Denoiser(noted, SCHEDULE, sd.NoisePrediction()), Looks())
    assert found == made and len(made) == 6


def test_values_inside_a_transform_of_torch_pass_as_they_are():
    def made(x):
        return in_own_memory(lambda: 3 * x)

    assert torch.equal(torch.func.vmap(made)(START), 3 * START)


# -- states --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", engines_by_day(SOLVERS), ids=label)
def test_no_solver_writes_into_a_state_that_it_gave_to_the_network(solver):
    kept = []

    def net(x, t):
        kept.append((x, x.clone(), x[..., :1], x[..., :1].clone()))
        return output_of(x)

    solved(sd.Denoiser(net, SCHEDULE, sd.DataPrediction()), solver)
    assert kept and all(torch.equal(x, was) and torch.equal(v, it) for x, was, v, it in kept)


@pytest.mark.parametrize("solver", [sd.DPMSolverPP(2), sd.solvers.Krogstad()], ids=label)
def test_a_network_that_writes_into_an_earlier_state_which_the_solver_still_wants_is_refused(solver):
    given = []

    def net(x, t):
        given.append(x)
        if len(given) > 1:
            given[-2].zero_()
        return output_of(x)

    with pytest.raises(ValueError, match="into a state that it had been given before: let it keep a copy"):
        solved(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()), solver)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_network_or_a_denoiser_that_writes_into_its_state_is_refused_or_given_a_copy(mode):
    def into_input(x, t):
        return x.mul_(0.1)

    def pair(t, x):
        x.mul_(0.1)
        return 0.5 * x, 2.0 * x

    def harmless(t, x):
        return pair(t, x.clone())

    pair.schedule = harmless.schedule = SCHEDULE
    net, model = sd.Denoiser(into_input, SCHEDULE, "data"), sd.Denoiser(lambda x, t: 0.1 * x, SCHEDULE, "data")
    with mode():
        for writes, does_not, words in ((net, model, "wrote into its input"), (pair, harmless, "wrote into the state")):
            if mode is torch.no_grad:
                with pytest.raises(ValueError, match=words):
                    solved(writes, sd.DPMSolverPP(2))
            else:  # torch counts no writes there
                assert torch.equal(solved(writes, sd.DPMSolverPP(2)), solved(does_not, sd.DPMSolverPP(2)))
