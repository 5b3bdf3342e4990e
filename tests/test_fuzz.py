"""The random runs of `make fuzz`: some by day, more by night, and what is planted in them is found."""

import pytest
import torch
from discovery import BY_NIGHT
from fuzz import Broken, Case, Watched, case, outcome, run

import scorediff as sd


def test_random_runs_are_inside_the_domain_counted_finite_or_flagged_independent_of_their_batch_and_more_steps_help():
    found = [outcome(number) for number in range(5000 if BY_NIGHT else 300)]
    assert not [words for kind, words in found if kind == "BROKEN"]
    # most of what is drawn can be run
    assert sum(kind == "held" for kind, _ in found) > 0.8 * len(found)


def test_a_case_is_the_same_every_time():
    assert case(7).words.split(" from ")[1] == case(7).words.split(" from ")[1]
    assert torch.equal(case(7).start, case(7).start)


class Mixing(sd.DPMSolverPP):
    """Its samples look at one another."""

    def run(self, problem, x, grid, noise):
        for t, state, *rest in super().run(problem, x, grid, noise):
            yield (t, state + 0.1 * state.mean(0), *rest)


class Growing(sd.DPMSolverPP):
    """Every step adds an error."""

    def run(self, problem, x, grid, noise):
        for n, (t, state, *rest) in enumerate(super().run(problem, x, grid, noise)):
            yield (t, state + 0.1 * n, *rest)


@pytest.mark.parametrize(
    ("solver", "words"), [(Mixing(2), "alone .* in its batch"), (Growing(2), "eight times as many")]
)
def test_a_planted_fault_is_found(solver, words):
    target = sd.targets.Gaussian((0.5, -0.5), (0.2, 0.4))
    schedule = sd.VPLinear()
    problem = sd.ProbabilityFlow(Watched(target.denoiser(schedule)))
    start = target.at(schedule, 1.0).sample(3)
    with pytest.raises(Broken, match=words):
        run(Case(0, target, problem, solver, start, {"steps": 6, "t_start": 1.0, "t_end": 0.01}))
