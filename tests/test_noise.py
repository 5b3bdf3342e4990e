"""The noise of a run is a function of seed, sample id, interval and tag, and of nothing else."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import scorediff as sd
from scorediff.noise import start_noise

KINDS = [sd.noise.IndependentNoise, sd.noise.BrownianPath]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_sees_the_same_noise_in_any_batch(kind):
    whole = kind(3, torch.zeros(5, 2, 3))(0.2, 0.7, 1)
    part = kind(3, torch.zeros(2, 2, 3), ids=[4, 1])(0.2, 0.7, 1)
    assert torch.equal(part, whole[[4, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_sees_the_same_noise(kind, fresh):
    draw = f"sd.noise.{kind.__name__}(3, torch.zeros(1, 2, dtype=torch.float64), ids=[7])(0.5, 0.25).tolist()"
    code = f"import torch, scorediff as sd; print({draw})"
    there = fresh(code).stdout
    here = kind(3, torch.zeros(1, 2, dtype=torch.float64), ids=[7])(0.5, 0.25)
    assert there.strip() == str(here.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_seed_id_interval_tag_and_area_all_tell_noises_apart(kind):
    x = torch.zeros(1, 4, dtype=torch.float64)
    draws = [
        kind(0, x)(0.0, 0.5),
        kind(1, x)(0.0, 0.5),
        kind(0, x, ids=[1])(0.0, 0.5),
        kind(0, x)(0.0, 0.25),
        kind(0, x)(0.5, 1.0),
        kind(0, x)(0.0, 0.5, 1),
        kind(0, x).area(0.0, 0.5),
        start_noise(0, x),
    ]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert (a - b).abs().min() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_increments_and_areas_are_independent_standard_normals(kind):
    noise = kind(11, torch.zeros(4, 400, dtype=torch.float64))
    rows = [noise(a, b) for a, b in ((0.1, 0.2), (0.2, 0.9), (0.9, 1.0))]
    rows += [noise.area(a, b) for a, b in ((0.1, 0.2), (0.2, 0.9), (0.9, 1.0))]
    z = torch.stack([r.flatten() for r in rows]).numpy()
    n = z.shape[1]
    assert np.abs(z.mean(1)).max() < 4.5 / np.sqrt(n)
    covariance = z @ z.T / n
    assert np.abs(covariance - np.eye(6)).max() < 4.5 * np.sqrt(2 / n)


def path_of(noise):
    def w(a, b):
        return noise(a, b) * np.sqrt(abs(b - a))

    def h(a, b):
        return noise.area(a, b) * np.sqrt(abs(b - a) / 12)

    return w, h


def test_a_brownian_path_is_the_same_on_every_grid_and_in_either_direction():
    w, h = path_of(sd.noise.BrownianPath(1, torch.zeros(3, 2, dtype=torch.float64)))
    nodes = np.sort(np.random.default_rng(0).uniform(-3, 3, 33))
    coarse = w(nodes[0], nodes[-1])
    fine = sum(w(a, b) for a, b in pairwise(nodes))
    torch.testing.assert_close(coarse, fine, rtol=0, atol=1e-12)
    torch.testing.assert_close(w(2.0, -1.0), -w(-1.0, 2.0), rtol=0, atol=1e-13)
    # chasles for the mean over the interval: M = W/2 + H is the mean of the path less its left end
    a, b, c = 0.1, 0.37, 1.4
    mean = lambda p, q: w(p, q) / 2 + h(p, q)  # noqa: E731
    together = ((b - a) * mean(a, b) + (c - b) * (w(a, b) + mean(b, c))) / (c - a)
    torch.testing.assert_close(mean(a, c), together, rtol=0, atol=1e-9)
    # seen from the other end, the path less its chord is the same path
    torch.testing.assert_close(h(c, a), h(a, c), rtol=0, atol=1e-10)


def test_noise_does_not_depend_on_the_dtype_beyond_its_rounding():
    for kind in KINDS:
        double = kind(0, torch.zeros(2, 3, dtype=torch.float64))(0.1, 0.2)
        single = kind(0, torch.zeros(2, 3))(0.1, 0.2)
        torch.testing.assert_close(single, double.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("args", "word"),
    [((-1, [0]), "seed -1"), ((0, [-2]), "sample id -2"), ((0, [0, 1]), "2 sample ids for a batch of 1")],
)
def test_bad_seeds_and_ids_are_refused(args, word):
    with pytest.raises(ValueError, match=word):
        sd.noise.IndependentNoise(args[0], torch.zeros(1, 2), args[1])


def test_an_interval_beyond_the_brownian_tree_is_refused():
    with pytest.raises(ValueError, match="1024"):
        sd.noise.BrownianPath(0, torch.zeros(1, 1))(0.0, 2000.0)
