"""Distances are those of the distributions they compare, and say how well they know them."""

import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from discovery import METRICS
from scipy import linalg

from scorediff.lab.data import Data, load_data
from scorediff.lab.metrics import (
    Estimate,
    classifier,
    clip_score,
    features,
    fit_classifier,
    frechet_distance,
    inception,
    kernel_distance,
    precision_and_recall,
    save_classifier,
    sliced_wasserstein,
)
from scorediff.lab.metrics.estimate import jackknife


def normal(n, dim=3, mean=0.0, std=1.0, seed=0):
    return np.random.default_rng(seed).normal(mean, std, (n, dim))


def test_the_frechet_distance_is_that_of_the_gaussians():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(300, 4)) @ draw.normal(size=(4, 4)), draw.normal(size=(200, 4)) + 0.5
    m, n, p, q = a.mean(0), b.mean(0), np.cov(a.T), np.cov(b.T)
    # by SciPy's root of a matrix that is not symmetric
    expected = np.sum((m - n) ** 2) + np.trace(p + q - 2 * linalg.sqrtm(p @ q).real)
    assert frechet_distance(a, b).value == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(a, a).value == pytest.approx(0, abs=1e-9)
    # with no variance in some directions too
    a = a - a.mean(0)
    assert frechet_distance(a * [1, 1, 0, 0], a * [1, 0, 0, 0]).value == pytest.approx(np.var(a[:, 1], ddof=1))


@pytest.mark.parametrize(
    ("distance", "truth"),
    [
        (frechet_distance, lambda d: 3 * (d**2 + 0.5**2)),
        pytest.param(sliced_wasserstein, lambda d: math.sqrt(3 * (d**2 + 0.5**2)), marks=pytest.mark.nightly),
    ],
)
def test_errors_and_biases_are_those_of_many_draws(distance, truth):
    shift, n = 0.3, 400
    found = [distance(normal(n, seed=2 * i), normal(n, mean=shift, std=1.5, seed=2 * i + 1)) for i in range(60)]
    values = np.array([e.value for e in found])
    assert np.mean([e.error for e in found]) == pytest.approx(values.std(), rel=0.3)
    unbiased = values - [e.bias for e in found]
    assert abs(unbiased.mean() - truth(shift)) < 4 * values.std() / 60**0.5


def test_the_kernel_distance_is_the_sum_written_out_and_without_bias():
    a, b = normal(12, seed=1), normal(9, seed=2)

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within = [np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b, groups=3).value == pytest.approx(sum(within) - 2 * across)
    values = [kernel_distance(normal(100, seed=i), normal(100, seed=1000 + i)).value for i in range(80)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 80**0.5


def test_precision_and_recall_tell_what_is_missing_from_what_is_wrong():
    data = np.concatenate([normal(200, seed=0), normal(200, mean=20, seed=1)])
    half, wrong = (
        normal(200, seed=2),
        np.concatenate([normal(200, seed=3), normal(200, mean=20, seed=4), normal(400, mean=-20, seed=5)]),
    )
    precision, recall = precision_and_recall(data, half)
    assert precision.value > 0.9 and recall.value == pytest.approx(0.5, abs=0.05)
    precision, recall = precision_and_recall(data, wrong)
    assert precision.value == pytest.approx(0.5, abs=0.05) and recall.value > 0.9


def test_the_sliced_distance_of_a_shift_is_its_length_and_takes_sets_of_two_sizes():
    a = normal(500)
    step = np.array([0.6, 0.0, 0.0])
    found = sliced_wasserstein(a, a + step, directions=4000)
    assert found.value == pytest.approx(0.6, rel=0.03)
    assert sliced_wasserstein(a, np.repeat(a, 2, axis=0)).value < 0.02


@pytest.mark.parametrize("distance", [kernel_distance, lambda a, b: precision_and_recall(a, b)[0], sliced_wasserstein])
def test_errors_are_of_the_size_of_the_scatter_over_many_draws(distance):
    found = [distance(normal(300, seed=2 * i), normal(300, mean=0.5, seed=2 * i + 1)) for i in range(40)]
    scatter = np.std([e.value for e in found])
    assert 0.7 * scatter < np.mean([e.error for e in found]) < 2.2 * scatter


def values(found):
    return np.array([e.value for e in (found if isinstance(found, tuple) else (found,))])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_a_metric_tells_another_distribution_from_the_same_beyond_its_error_and_knows_no_order(metric):
    real, same, other = normal(300, seed=1), normal(300, seed=2), normal(300, mean=4.0, seed=3)
    near, far = metric(real, same), metric(real, other)
    gap = np.abs(values(far) - values(near))
    assert np.all(gap > 3 * np.array([e.error for e in (far if isinstance(far, tuple) else (far,))]))
    turned = np.random.default_rng(0).permutation(300)
    np.testing.assert_allclose(values(metric(real[turned], other)), values(far), rtol=1e-9)
    with pytest.raises(ValueError, match="take both from one extractor"):
        metric(real, other[:, :2])
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        metric(real, np.full_like(other, np.nan))


def test_the_error_of_samples_with_their_classes_in_turn_is_their_own():
    centre = np.arange(5)[:, None] * np.array([2.0, 0.0, -1.0])
    in_turn = np.arange(300) % 5

    def pair(seed):
        draw = np.random.default_rng(seed)
        real = centre[draw.integers(0, 5, 300)] + 0.3 * draw.standard_normal((300, 3))
        return real, centre[in_turn] + 0.3 * draw.standard_normal((300, 3)) + [0, 0.5, 0]

    pairs = [pair(seed) for seed in range(60)]
    unstratified = [frechet_distance(*p) for p in pairs]
    stratified = [frechet_distance(*p, strata=in_turn) for p in pairs]
    values = np.array([e.value for e in stratified])
    assert np.array_equal(values, [e.value for e in unstratified])
    assert np.mean([e.error for e in stratified]) == pytest.approx(values.std(), rel=0.35)
    assert np.mean([e.bias for e in stratified]) < 0.8 * np.mean([e.bias for e in unstratified])


def test_precision_and_recall_are_those_of_neighbours_counted_one_by_one():
    a, b = normal(40, seed=1), normal(30, mean=0.7, seed=2)

    def within(x, y, k):
        reach = [sorted(np.linalg.norm(p - q) for q in y)[k] for p in y]  # the nearest is itself
        return np.mean([any(np.linalg.norm(p - q) <= r for q, r in zip(y, reach, strict=True)) for p in x])

    for k in (1, 3, 5):
        precision, recall = precision_and_recall(a, b, k=k, groups=2)
        assert precision.value == within(b, a, k) and recall.value == within(a, b, k)


def test_the_sliced_distance_is_that_of_the_projections_at_any_sizes():
    a, b = normal(30, dim=2, seed=1) ** 3, normal(12, dim=2, seed=2)
    turns = np.random.default_rng(0).standard_normal((2, 8))
    turns /= np.linalg.norm(turns, axis=0)
    # the same by optimal transport of every 12th and 30th of a mass
    squares = [np.square(np.repeat(np.sort(a @ w), 12) - np.repeat(np.sort(b @ w), 30)).mean() for w in turns.T]
    found = sliced_wasserstein(a, b, directions=8, groups=2)
    assert found.value == pytest.approx((2 * np.mean(squares)) ** 0.5, rel=1e-12)
    some = [sliced_wasserstein(a, b, directions=8, seed=s, groups=2).value for s in range(40)]
    assert found.error > np.std(some) / 2


def test_one_feature_is_enough():
    a, b = normal(100, dim=1), normal(100, dim=1, mean=1, seed=1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b).value == pytest.approx(expected)


def test_a_jackknife_knows_the_mean_and_the_bias_of_a_square():
    x = normal(1000, dim=1, mean=2.0)
    found = jackknife(lambda a, b: np.array([a.mean(), a.mean() ** 2]), x, x, 20)
    assert found[0].error == pytest.approx(x.std() / 1000**0.5, rel=0.5) and abs(found[0].bias) < 1e-10
    assert found[1].bias == pytest.approx(x.var() / 1000, rel=0.8)
    assert str(Estimate(12.345, 0.1)) == "12.35 ± 0.1" and "bias +1" in str(Estimate(12.3, 0.1, 1.0))


def test_an_error_does_not_depend_on_the_order_of_the_samples():
    classes = np.arange(1000) % 10
    x = normal(1000) + classes[:, None]  # in turn
    y = x[np.argsort(classes, kind="stable")]  # sorted
    errors = [frechet_distance(a, a + np.array([0.3, 0, 0])).error for a in (x, y)]
    assert errors[0] == pytest.approx(errors[1], rel=0.7) and max(errors) < 0.1


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, sliced_wasserstein, precision_and_recall])
def test_what_cannot_be_compared_is_refused(distance):
    a = normal(100)
    for other, words in (
        (normal(100, dim=2), "features of 3 and of 2 numbers"),
        (normal(100)[0], "features of shape .N, D. are wanted"),
        (np.full((100, 3), np.nan), r"made\[0\] holds NaN"),
        (normal(5), "take more samples"),
    ):
        with pytest.raises(ValueError, match=words):
            distance(a, other)


def test_features_are_the_same_from_a_tensor_a_data_set_and_files():
    data = load_data("digits")
    few = Data(data.values[:50])
    one = features(few, lambda x: x.flatten(1) @ torch.ones(64, 2), batch_size=7)
    assert one.shape == (50, 2) and one.dtype == np.float64
    pixels = Data(np.arange(512, dtype=np.uint8).reshape(2, 1, 16, 16))
    assert np.array_equal(features(pixels.values, lambda x: x), features(pixels, lambda x: x))
    for images in (few.batch(slice(None)), few.values, [few.values[:20], few.values[20:]]):
        assert np.allclose(features(images, lambda x: x.flatten(1) @ torch.ones(64, 2)), one)
    with pytest.raises(ValueError, match="one row for each"):
        features(few, lambda x: x.mean(0))
    with pytest.raises(ValueError, match="at least one image"):
        features([], lambda x: x)


def test_a_classifier_learns_is_kept_and_is_refused_when_damaged(tmp_path):
    net, right = fit_classifier(load_data("digits"), epochs=3)
    assert right > 0.85
    save_classifier(tmp_path / "a.safetensors", net)
    x = load_data("digits").batch(slice(0, 30))
    torch.testing.assert_close(
        classifier(tmp_path / "a.safetensors").features(x), net.features(x), rtol=2e-2, atol=2e-2
    )
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as a classifier"):
        classifier(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="did you mean 'digits'"):
        classifier("digit")


def test_the_classifier_of_the_package_tells_digits_and_its_features_have_mean_0_and_variance_1():
    data, net = load_data("digits"), classifier("digits")
    found = net(data.batch(slice(None))).argmax(1).numpy()
    assert np.mean(found == data.labels) > 0.98
    made = features(data, net.features)
    assert np.abs(made.mean(0)).max() < 0.2 and np.abs(made.std(0) - 1).max() < 0.2


# through torchmetrics, with small modules made on the spot


def tiny_clip(folder, transformers):
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=small | {"vocab_size": 6, "eos_token_id": 1, "bos_token_id": 0},
        vision_config=small | {"image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_the_clip_score_is_the_mean_cosine(tmp_path):
    pytest.importorskip("torchmetrics")
    transformers = pytest.importorskip("transformers")
    folder = tiny_clip(tmp_path, transformers)
    images, words = torch.rand(3, 3, 16, 16) * 2 - 1, ["a", "b", "a b"]
    net, processor = (kind.from_pretrained(folder) for kind in (transformers.CLIPModel, transformers.CLIPProcessor))
    # transformers' own way to the same number: its logits are cosines times its scale
    pixels = [((image + 1) * 127.5).round().to(torch.uint8) for image in images]
    with torch.no_grad():
        out = net(**processor(text=words, images=pixels, return_tensors="pt", padding=True))
    cosines = 100 * (out.logits_per_image / net.logit_scale.exp()).diagonal().double()
    found = clip_score(images, words, model=folder)
    assert found.value == pytest.approx(float(cosines.mean()), abs=1e-3)
    assert found.error == pytest.approx(float(cosines.std()) / 3**0.5, abs=1e-3)


def test_a_clip_score_wants_a_text_for_each_image():
    for words in (["a"], "ab"):
        with pytest.raises(ValueError, match="1 texts for 2 images"):
            clip_score(torch.zeros(2, 3, 8, 8), words)


def test_inception_wants_its_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot find the weights"):
        inception(tmp_path / "nothing.pth")


def test_inception_is_shown_bytes_of_three_channels_and_given_the_path_of_its_weights(tmp_path, monkeypatch):
    class Small(torch.nn.Module):
        def __init__(self, name, features_list, feature_extractor_weights_path=None):
            super().__init__()
            self.said = (name, features_list, feature_extractor_weights_path)

        def forward(self, x):
            assert x.dtype is torch.uint8 and x.shape[1] == 3
            nets.append(self)
            return x.float().mean((2, 3))

    nets, weights = [], tmp_path / "inception.pth"
    weights.touch()
    place = types.ModuleType("torchmetrics.image.fid")
    place.NoTrainInceptionV3 = Small
    for name, module in (("torchmetrics", types.ModuleType("torchmetrics")), ("torchmetrics.image", place)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", place)
    found = inception(weights)(torch.full((2, 1, 4, 4), 1.0) * torch.tensor([-1.0, 3.0]).reshape(2, 1, 1, 1))
    assert found.tolist() == [[0.0] * 3, [255.0] * 3]
    assert nets[0].said == ("inception-v3-compat", ["2048"], str(weights))
