"""The adaptive solver of the reverse SDE: one path whatever is rejected, and samples that rounding does not change."""

import numpy as np
import pytest
import torch
from discovery import SCHEDULES
from hypothesis import given
from hypothesis import strategies as st

import scorediff as sd
from scorediff.denoiser import DenoiserBase, PairOutput
from scorediff.noise import BrownianPath
from scorediff.solvers import AdaptiveSDE
from scorediff.solvers.adaptive.step_ends import OnLattice
from scorediff.solvers.adaptive.stepping import Stepping

SCHEDULE = sd.VPLinear()
ANGLES = 2 * np.pi * np.arange(8) / 8
TARGETS = {
    "two modes": sd.targets.GaussianMixture((0.2, 0.8), ((1.0, -0.5), (-0.6, 0.8)), (0.01, 0.02)),
    "eight modes": sd.targets.GaussianMixture(
        np.arange(1.0, 9.0) / 36, 1.5 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1), np.geomspace(0.01, 0.1, 8)
    ),
    "twelve modes": sd.targets.GaussianMixture(
        np.full(12, 1 / 12), np.random.default_rng(0).standard_normal((12, 64)), np.full(12, 0.1)
    ),
    "a Gaussian": sd.targets.Gaussian((0.3, -1.0), (0.5, 2.0)),
}


class Shallow(BrownianPath):
    """A path of fewer levels, which is faster to ask."""

    _ROOT, _DEPTH = 32.0, 20


class Disturbed(DenoiserBase):
    """Another denoiser, with an output that is wrong by a relative `size` in every entry, anew at every evaluation."""

    def __init__(self, inner, size):
        self.inner, self.size = inner, size
        self.schedule, self.prediction = inner.schedule, inner.prediction
        self.generator = torch.manual_seed(0)

    made_of = ()

    def evaluate(self, t, x, cond):
        data, noise = self.inner.evaluate(t, x, cond)
        errors = self.size * torch.randn(2, *x.shape, generator=self.generator, dtype=x.dtype)
        return PairOutput(x, data * (1 + errors[0]), noise * (1 + errors[1]))


def sampled(target, schedule, solver, n, seed=0, disturbance=0.0, path=Shallow, dtype=torch.float64):
    x = target.at(schedule, schedule.t_start).sample(n, seed).to(dtype)
    sde = sd.ReverseSDE(Disturbed(target.denoiser(schedule), disturbance))
    return sd.solve(sde, x, solver, seed=seed, noise=path).check()


def stirred(target, schedule, rtol, seed):
    """A run, and how far rounding errors of float32 in every output move each of its samples."""
    plain, moved = (sampled(target, schedule, AdaptiveSDE(rtol), 32, seed, size) for size in (0.0, 1e-7))
    same = (moved.evaluations == plain.evaluations) & (moved.rejected == plain.rejected)
    return plain, np.where(same, (moved.x - plain.x).abs().amax(1).numpy(), np.inf)


def test_a_disturbance_of_every_output_by_rounding_moves_a_sample_by_no_more():
    plain, distance = stirred(TARGETS["two modes"], SCHEDULE, 3e-2, 0)
    assert distance.max() < 1e-5
    assert plain.rejected.mean() > 0.5


@pytest.mark.nightly
@pytest.mark.parametrize("rtol", [3e-2, 1e-2])
@pytest.mark.parametrize("schedule", [*SCHEDULES, sd.RectifiedFlow(3.0)], ids=repr)
@pytest.mark.parametrize("name", TARGETS)
def test_no_disturbance_moves_samples_on_any_schedule(name, schedule, rtol):
    _, distance = stirred(TARGETS[name], schedule, rtol, 1)
    # one in ten thousand has a step on the edge of a cell: not two of them in a batch
    assert np.sort(distance)[-2] < 1e-5


def test_float32_makes_of_a_sample_what_float64_makes_of_it():
    target, solver = TARGETS["two modes"], AdaptiveSDE(3e-2)
    wide, narrow = (sampled(target, SCHEDULE, solver, 6, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert (wide.x - narrow.x).abs().max() < 1e-5


def test_a_sample_of_a_mixture_is_the_same_alone_as_in_a_batch_to_the_rounding_of_the_mixture():
    target, solver = TARGETS["two modes"], AdaptiveSDE(3e-2)
    sde = sd.ReverseSDE(target.denoiser(SCHEDULE))
    x = target.at(SCHEDULE, 1.0).sample(6)
    together = sd.solve(sde, x, solver, seed=1, noise=Shallow).check()
    for i in (0, 5):
        alone = sd.solve(sde, x[i : i + 1], solver, seed=1, ids=[i], noise=Shallow).check()
        torch.testing.assert_close(alone.x, together.x[i : i + 1], rtol=1e-12, atol=1e-12)
        assert alone.evaluations[0] == together.evaluations[i]


def test_a_rejected_step_always_gets_shorter_and_every_step_moves(monkeypatch):
    shorter = []
    propose, decide = Stepping.propose, Stepping.accept_or_reject
    last = {}

    def proposed(self, rows, halve):
        step = propose(self, rows, halve)
        assert np.all(step.h * self.left[rows] > 0) and np.all(np.abs(step.h) <= np.abs(self.goal(rows) - self.s[rows]))
        for row, h in zip(rows, np.abs(step.h), strict=True):
            if row in last:
                shorter.append(h / last[row])
        return step

    def decided(self, step, *rest):
        good = decide(self, step, *rest)
        last.clear()
        last.update({row: abs(h) for row, h, passed in zip(step.rows, step.h, good, strict=True) if not passed})
        return good

    monkeypatch.setattr(Stepping, "propose", proposed)
    monkeypatch.setattr(Stepping, "accept_or_reject", decided)
    solution = sampled(TARGETS["eight modes"], SCHEDULE, AdaptiveSDE(1e-2), 3)
    assert len(shorter) == solution.rejected.sum() > 20
    assert max(shorter) <= 0.8 + 1e-6


@given(st.floats(-20, 20), st.floats(-9, 1), st.booleans())
def test_steps_are_rounded_towards_their_start_by_a_quarter_at_most(s, exponent, rising):
    h = 10**exponent * (1 if rising else -1)
    taken = OnLattice().shortened(np.array(s), np.array(h))
    assert 0.75 - 1e-5 < taken / h <= 1 + 1e-6
    # on the lattice: a multiple of an eighth of the step
    unit = 2.0 ** (np.ceil(np.log2(abs(h))) - 3)
    assert abs((s + taken) / unit - np.round((s + taken) / unit)) <= 1e-14 * (1 + abs(s) / unit)


def test_a_step_to_the_next_point_of_the_lattice_is_taken_whole_though_rounding_holds_it_back():
    s, h = np.full(3, 0.5), 0.25 + np.array([-1e-9, 0.0, 1e-9])
    assert (s + OnLattice().shortened(s, h)).tolist() == [0.75] * 3
    assert (-s + OnLattice().shortened(-s, -h)).tolist() == [-0.75] * 3


def test_no_step_is_shorter_than_the_path_is_fine():
    asked = []

    class Coarse(BrownianPath):
        _ROOT, _DEPTH = 32.0, 16

        def __call__(self, a, b, tag=0):
            asked.append(b - a)
            return super().__call__(a, b, tag)

    cell = Coarse(0, torch.zeros(1, 1)).cell
    assert cell == 2.0**-10 and BrownianPath(0, torch.zeros(1, 1)).cell == 2.0**-42
    sde = sd.ReverseSDE(TARGETS["eight modes"].denoiser(SCHEDULE))
    solution = sd.sample(sde, (3, 2), AdaptiveSDE(1e-3), noise=Coarse, dtype=torch.float64)
    assert sd.Status.STEP_UNDERFLOW in solution.status and np.all(solution.evaluations > 5)
    assert min(asked) >= cell


def test_it_does_not_matter_where_the_path_is_cut_between_the_points_of_its_tree():
    # save times are landed on, wherever they lie
    target = TARGETS["a Gaussian"]
    x = target.at(SCHEDULE, 1.0).sample(4)
    sdes = [sd.ReverseSDE(Disturbed(target.denoiser(SCHEDULE), size)) for size in (0.0, 1e-7)]
    one, other = (sd.solve(sde, x, AdaptiveSDE(3e-2), save=[0.5, 0.1], noise=Shallow).check() for sde in sdes)
    assert (one.states - other.states).abs().max() < 1e-5 and (one.x - other.x).abs().max() < 1e-5
