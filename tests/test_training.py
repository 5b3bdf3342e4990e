"""Training learns the conditional mean, whatever is predicted; a run is a function of its recipe, not of its kills."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from discovery import PREDICTIONS, SCHEDULES, by_day, label
from leftovers import left_by_a_killed_process
from safetensors import SafetensorError
from scipy import stats

import scorediff as sd
from scorediff._core import registry
from scorediff._core.sealed import read_tensors, write_tensors
from scorediff.lab.checkpoints import load
from scorediff.lab.data import Data
from scorediff.lab.networks import MLP, DiffusersUNet, Network, UNet
from scorediff.lab.training import (
    ContinuousTimes,
    LikelihoodWeighting,
    LogitNormalTimes,
    LogNormalTimes,
    MinSNRWeighting,
    OutputWeighting,
    PowerAverage,
    Recipe,
    SimpleWeighting,
    TrainingError,
    TrainingTimes,
    Weighting,
    reconstruct,
    train,
)
from scorediff.lab.training.batches import Batch, Batches
from scorediff.lab.training.ema import mixture, power
from scorediff.lab.training.loss import held_out_loss, losses
from scorediff.lab.training.run import Run

WEIGHTINGS, TIMES = (list(registry.names(base).values()) for base in (Weighting, TrainingTimes))
NETWORKS = [n for n in registry.names(Network).values() if not isinstance(n, DiffusersUNet)]
NETWORKS += [UNet(width=112, blocks=1)]  # whose attention has no heads of 64 channels


def points(n=400, seed=0, labels=False):
    draw = np.random.default_rng(seed)
    which = draw.integers(0, 2, n)
    x = draw.normal(size=(n, 2)) * 0.3 + np.where(which[:, None] == 1, (1.0, -0.5), (-0.6, 0.8))
    return Data(x.astype(np.float32), which if labels else None, ("left", "right") if labels else ())


def tiny(**changes):
    return dataclasses.replace(
        Recipe(network=MLP(width=16, depth=1), steps=24, batch=8, held_out=16, warmup=4), **changes
    )


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.net.state_dict().values(), b.net.state_dict().values(), strict=True))


# what is learnt


def exact_network(target, schedule, prediction):
    """The best network there is: a_t E[x0 | x_t] + b_t E[eps | x_t]."""
    exact = target.denoiser(schedule)

    def net(x, t, **cond):
        data, noise = exact(at["t"], at["x"])
        a, b = (torch.as_tensor(c + 0 * at["t"]).reshape(-1, 1) for c in prediction.row(schedule, at["t"]))
        return a * data + b * noise

    at = {}
    return net, at


@pytest.mark.parametrize("schedule", by_day(SCHEDULES, (sd.VPLinear(), sd.EDM(), sd.RectifiedFlow())), ids=label)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=label)
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=label)
def test_the_best_network_is_left_with_the_conditional_variance(schedule, prediction, weighting):
    v, n = 0.7, 20_000
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(n, 1, generator=draw, dtype=torch.float64) for _ in range(2))
    x0 = x0 * v**0.5
    log_snr = np.clip(0.3, *sorted(float(schedule.log_snr(t)) for t in (schedule.t_start, schedule.t_end)))
    t = np.full(n, schedule.time_at(log_snr))
    recipe = Recipe(schedule=schedule, prediction=prediction, weighting=weighting)
    net, at = exact_network(sd.targets.Gaussian((0.0,), (v,)), schedule, prediction)
    alpha, sigma = float(schedule.alpha(t[0])), float(schedule.sigma(t[0]))
    at["t"], at["x"] = t, alpha * x0 + sigma * noise
    found = losses(sd.Denoiser(net, schedule, prediction), recipe, Batch(x0, noise, t, None))
    # Var(x0 | x_t) = v sigma^2 / (alpha^2 v + sigma^2), and output = a x0 + b (x_t - alpha x0) / sigma
    variance = v * sigma**2 / (alpha**2 * v + sigma**2)
    a, b = (float(np.asarray(c + 0 * t)[0]) for c in prediction.row(schedule, t))
    weight = float(np.asarray(weighting(schedule, prediction, t))[0])
    expected = weight * (a - b * alpha / sigma) ** 2 * variance
    assert abs(float(found.mean()) / expected - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("weighting", [SimpleWeighting(), MinSNRWeighting(2.0), LikelihoodWeighting()], ids=label)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_a_mistake_costs_the_same_whatever_the_network_predicts(weighting, schedule):
    t = np.linspace(schedule.t_end, schedule.t_start, 9)[1:-1]
    draw = torch.Generator().manual_seed(0)
    x0, noise, wrong = (torch.randn(7, 3, generator=draw, dtype=torch.float64) for _ in range(3))
    alpha, sigma = (torch.from_numpy(c(t) + 0 * t)[:, None] for c in (schedule.alpha, schedule.sigma))
    x = alpha * x0 + sigma * noise
    data = x0 + wrong  # what the network takes for the data; its noise follows
    costs = []
    for prediction in PREDICTIONS:
        a, b = (torch.from_numpy(np.asarray(c + 0 * t))[:, None] for c in prediction.row(schedule, t))
        output = a * data + b * (x - alpha * data) / sigma
        recipe = Recipe(schedule=schedule, prediction=prediction, weighting=weighting)
        net = sd.Denoiser(lambda x, t, output=output: output, schedule, prediction)
        costs.append(losses(net, recipe, Batch(x0, noise, t, None)))
    for other in costs[1:]:
        torch.testing.assert_close(other, costs[0], rtol=1e-7, atol=0)


def test_the_weightings_are_what_their_papers_say():
    schedule, t = sd.VPLinear(), np.linspace(0.05, 0.95, 7)
    snr = np.exp(2 * schedule.log_snr(t))
    ones = np.ones_like(t)
    np.testing.assert_allclose(SimpleWeighting()(schedule, sd.NoisePrediction(), t), ones)
    # L_simple in terms of the data weighs with the SNR
    np.testing.assert_allclose(SimpleWeighting()(schedule, sd.DataPrediction(), t), snr)
    np.testing.assert_allclose(MinSNRWeighting(5.0)(schedule, sd.DataPrediction(), t), np.minimum(snr, 5))
    np.testing.assert_allclose(MinSNRWeighting(5.0)(schedule, sd.VPrediction(), t), np.minimum(snr, 5) / (snr + 1))
    np.testing.assert_allclose(
        LikelihoodWeighting()(schedule, sd.predictions.ScorePrediction(), t), schedule.g2(t) * (1 - 1e-3)
    )
    # EDM's: (sigma^2 + c^2) / (sigma c)^2 for the data is 1 for its raw output
    edm, s, c = sd.EDM(), np.array([0.01, 0.3, 4.0]), 0.5
    _, q = sd.EDMPrediction(c).solve(edm, s)[0]
    np.testing.assert_allclose(OutputWeighting()(edm, sd.EDMPrediction(c), s), (s**2 + c**2) / (s * c) ** 2 * q**2)


@pytest.mark.parametrize("times", TIMES, ids=label)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_times_rise_with_the_fraction_and_stay_inside_the_schedule(times, schedule):
    if isinstance(times, LogitNormalTimes) and schedule.t_start > 1:
        with pytest.raises(ValueError, match="LogNormalTimes"):
            times.quantile(schedule, np.array([0.5]))
        return
    found = times.quantile(schedule, np.linspace(0, 1, 101)[1:-1])
    assert np.all(np.isfinite(found)) and found.min() >= schedule.t_end and found.max() <= schedule.t_start
    steps = np.diff(found)
    assert np.all(steps >= 0) or np.all(steps <= 0)


def test_times_follow_the_distributions_that_they_are_named_for():
    u = (np.arange(2000) + 0.5) / 2000
    schedule = sd.EDM(sigma_min=1e-6, sigma_max=1e6)
    sigma = LogNormalTimes(-1.2, 1.2).quantile(schedule, u)
    assert stats.kstest(np.log(sigma), stats.norm(-1.2, 1.2).cdf).statistic < 1e-3
    t = LogitNormalTimes(0.3, 0.8).quantile(sd.RectifiedFlow(), u)
    assert stats.kstest(np.log(t / (1 - t)), stats.norm(0.3, 0.8).cdf).statistic < 5e-3
    table = sd.VPDiscrete()
    rows = table.index(registry.names(TrainingTimes)["discrete-times"].quantile(table, u))
    np.testing.assert_allclose(rows, np.floor(u * 1000), atol=1e-9)


@pytest.mark.parametrize("network", NETWORKS, ids=label)
@pytest.mark.parametrize("classes", [0, 3])
def test_a_network_begins_as_nothing_takes_labels_and_reaches_all_its_weights(network, classes):
    net = network.build((2, 8, 8), classes)
    x, t = torch.randn(5, 2, 8, 8), torch.rand(5)
    labels = {"label": torch.tensor([0, 1, 2, 3, 3])} if classes else {}
    assert net(x, t, **labels).eq(0).all()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    out = net(x, t, **labels)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.ne(0).any() for p in net.parameters())
    if classes:
        assert torch.equal(net(x, t), net(x, t, label=torch.full((5,), classes)))  # no label is another label
    else:
        with pytest.raises(TypeError, match="takes no classes"):
            net(x, t, label=torch.zeros(5, dtype=torch.int64))


def test_the_levels_of_a_network_are_said_in_its_name():
    assert registry.parse(Network, "unet:multiples=(1,2,2),width=16") == UNet(width=16, multiples=(1, 2, 2))
    assert registry.parse(Network, "unet:multiples=3").multiples == (3,)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_unet_of_diffusers_is_called_as_diffusers_would_and_comes_back_from_its_file(tmp_path):
    small = {"block_out_channels": [16], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    network = DiffusersUNet({**small, "layers_per_block": 1, "norm_num_groups": 4})
    schedule = sd.VPDiscrete()
    draw = np.random.default_rng(0)
    data = Data(draw.normal(size=(40, 1, 8, 8)).astype(np.float32), draw.integers(0, 2, 40))
    made = train(data, tmp_path, tiny(network=network, schedule=schedule, steps=3), progress=False)
    found = load(tmp_path)
    assert same(made, found) and found.network == network
    x, i = torch.randn(2, 1, 8, 8), 249
    t, labels = (i + 1) / 1000, torch.tensor([0, 1])
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    eps = found.net.net(x, i, class_labels=labels).sample
    x0 = found.denoiser(t, x, label=labels)[0]
    torch.testing.assert_close(x0, (x - sigma * eps) / alpha)
    # and where no label is given, the one that stands for none
    eps = found.net.net(x, i, class_labels=torch.tensor([2, 2])).sample
    torch.testing.assert_close(found.denoiser(t, x)[0], (x - sigma * eps) / alpha)
    assert network.time(sd.VPLinear())(0.25) == 250


@pytest.mark.nightly
def test_a_perceptron_learns_the_exact_denoiser_of_a_mixture(tmp_path):
    target = sd.targets.GaussianMixture((0.3, 0.7), ((1.0, -0.5), (-0.6, 0.8)), (0.1, 0.3))
    data = Data(target.sample(8000, seed=3).float().numpy())
    recipe = Recipe(prediction=sd.VPrediction(), network=MLP(64, 2), steps=600, batch=256, lr=4e-3, held_out=2000)
    net = train(data, tmp_path / "run", recipe, averages=0, progress=False)
    exact = target.denoiser(recipe.schedule)
    for log_snr, most in ((-1.5, 0.04), (0.0, 3e-3), (1.5, 1e-3)):
        t = float(recipe.schedule.time_at(log_snr))
        x = sd.add_noise(recipe.schedule, target.sample(4000, seed=9), t, seed=1)
        best, found = exact(t, x)[0], net.denoiser(t, x)[0]
        # four times the steps make it a third
        assert float((found - best).square().mean() / data.values.var()) < most


# what is drawn


def test_a_batch_is_the_same_in_any_number_of_parts_and_an_epoch_meets_every_sample_once():
    data, recipe = points(labels=True), tiny(drop_labels=0.3)
    whole = Batches(data, recipe)
    for step in (0, 7, 49, 50):
        one = whole.at(step)
        parts = [Batches(data, recipe, rank, 4).at(step) for rank in range(4)]
        assert torch.equal(one.x0, torch.cat([p.x0 for p in parts]))
        assert torch.equal(one.noise, torch.cat([p.noise for p in parts]))
        assert torch.equal(one.label, torch.cat([p.label for p in parts]))
        assert np.array_equal(one.t, np.concatenate([p.t for p in parts]))
    epoch = torch.cat([whole.at(step).x0 for step in range(50)])
    assert torch.equal(epoch[:, 0].sort().values, torch.from_numpy(data.values[:, 0]).sort().values)
    dropped = torch.cat([whole.at(step).label for step in range(50)]) == 2
    assert 0.2 < dropped.float().mean() < 0.4
    with pytest.raises(ValueError, match="split among 3 processes"):
        Batches(data, recipe, 0, 3)


def test_half_of_all_images_are_mirrored():
    image = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    found = Batches(Data(np.repeat(image, 64, 0)), tiny(flip=True, batch=64)).at(0).x0
    kept, mirrored = (
        float((found == torch.from_numpy(x)).flatten(1).all(1).float().mean()) for x in (image, image[..., ::-1].copy())
    )
    assert kept + mirrored == 1 and 0.3 < kept < 0.7


# averages


def test_a_power_average_is_the_sum_that_it_stands_for_and_has_the_width_that_it_is_named_for():
    for std in (0.03, 0.1, 0.25):
        mean, weights = PowerAverage({"w": torch.zeros(1, dtype=torch.float64)}, std), []
        for step in range(1, 301):
            weights.append(np.sin(step))
            mean.update({"w": torch.tensor([weights[-1]], dtype=torch.float64)}, step)
        fractions = np.diff((np.arange(301) / 300) ** (mean.gamma + 1))
        # beta = (1 - 1/t)^(gamma + 1) makes the fractions differences of t^(gamma + 1)
        assert abs(float(mean.weights["w"]) - fractions @ weights) < 1e-12
        tau = (np.arange(10**5) + 0.5) / 10**5
        density = (power(std) + 1) * tau ** power(std) / 10**5
        assert abs(np.sqrt(density @ tau**2 - (density @ tau) ** 2) - std) < 1e-5
    with pytest.raises(ValueError, match="of width"):
        power(0.3)


def test_an_average_of_another_width_is_made_of_those_that_were_kept():
    kept = [(std, t) for t in range(500, 8001, 500) for std in (0.05, 0.1)]
    tau = (np.arange(40_000) + 0.5) / 5

    def profile(std, end):
        return np.where(tau <= end, (power(std) + 1) * (tau / end) ** power(std) / end / 5, 0)

    for std, most in ((0.05, 1e-9), (0.1, 1e-9), (0.07, 0.005), (0.15, 0.015)):
        fractions = mixture(kept, std, 8000)
        made = sum(fraction * profile(*k) for fraction, k in zip(fractions, kept, strict=True))
        assert np.abs(made - profile(std, 8000)).sum() < most


def test_a_run_is_averaged_afterwards_as_it_would_have_been_on_the_way(tmp_path):
    recipe = tiny(steps=160, average=0.07)
    on_the_way = train(points(), tmp_path / "run", recipe, progress=False)
    afterwards = reconstruct(tmp_path / "run", 0.07)
    other = reconstruct(tmp_path / "run", 0.2)

    def apart(a, b):
        a, b = (torch.cat([p.flatten() for p in c.net.parameters()]) for c in (a, b))
        return float((a - b).norm() / a.norm())

    assert apart(on_the_way, afterwards) < 2e-3 < apart(on_the_way, other)  # the kept ones are in half precision
    with pytest.raises(ValueError, match=r"keeps none of it; the nearest is 10"):
        reconstruct(tmp_path / "run", 0.1, step=3)
    with pytest.raises(ValueError, match=r"std = 0.005: the best average .* is off by"):
        reconstruct(tmp_path / "run", 0.005)
    kept = tmp_path / "run" / "averages-00000160.safetensors"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"averages-00000160.safetensors is damaged"):
        reconstruct(tmp_path / "run", 0.1)


def test_averages_are_kept_as_often_as_is_asked_for_and_at_the_end(tmp_path):
    train(points(), tmp_path, tiny(steps=31), averages=16, progress=False)
    kept = [int(path.stem.partition("-")[2]) for path in sorted(tmp_path.glob("averages-*"))]
    assert len(kept) == 16 and kept[-1] == 31


# the run


class Killed(Exception):
    pass


def killing(at):
    def callback(step, loss):
        if step == at:
            raise Killed

    return callback


SMALL = [MLP(16, 1), UNet(width=16, multiples=(1,), blocks=1, dropout=0.2)]


@pytest.mark.parametrize("network", by_day(SMALL, SMALL[:1]), ids=label)
def test_a_run_that_is_cut_off_again_and_again_ends_where_it_would_have(tmp_path, network):
    shape = (2,) if isinstance(network, MLP) else (1, 4, 4)
    data = Data(np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32), np.arange(64) % 3)
    recipe, how = tiny(network=network), {"save_every": 5, "averages": 4, "progress": False}
    whole = train(data, tmp_path / "whole", recipe, **how)
    for at in (3, 7, 13, 22):
        with pytest.raises(Killed):
            train(data, tmp_path / "parts", recipe, callback=killing(at), **how)
    assert same(whole, train(data, tmp_path / "parts", recipe, **how))
    first, second = (
        [line.rsplit(",", 1)[0] for line in (tmp_path / name / "log.csv").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert first == second and len(first) == 1 + 5  # all but the seconds
    assert same(whole, load(tmp_path / "whole"))
    assert same(whole, train(data, tmp_path / "whole", recipe, **how))  # nothing is left to do


@pytest.mark.nightly
def test_a_run_that_is_killed_three_times_and_shared_by_two_processes_gives_the_same_weights(tmp_path):
    line = (
        "train --data digits --network unet:width=16,blocks=1 --steps 40 --batch 16 --save-every 5 --no-progress --cpu"
    )

    def command(out, *start):
        return [*start, "scorediff", *line.split(), "--out", str(out)]

    python = (sys.executable, "-m")
    subprocess.run(command(tmp_path / "whole", *python), check=True, timeout=300)
    for wanted in (5, 15, 30):
        process = subprocess.Popen(command(tmp_path / "parts", *python))
        log = tmp_path / "parts" / "log.csv"
        while not (log.is_file() and log.read_text().count("\n") > wanted // 5):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command(tmp_path / "parts", *python), check=True, timeout=300)
    assert same(load(tmp_path / "whole"), load(tmp_path / "parts"))
    shared = (*python, "torch.distributed.run", "--nproc-per-node", "2", "-m")
    subprocess.run(command(tmp_path / "shared", *shared), check=True, timeout=300)
    for a, b in zip(load(tmp_path / "whole").net.parameters(), load(tmp_path / "shared").net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_folder_is_held_by_one_run_and_holds_one_kind_of_run(tmp_path):
    recipe = tiny()
    with pytest.raises(Killed):

        def again(step, loss):
            if step < 10:
                return
            with pytest.raises(ValueError, match="in use by another process"):
                train(points(), tmp_path / "run", recipe, progress=False)
            raise Killed

        train(points(), tmp_path / "run", recipe, save_every=5, progress=False, callback=again)
    with pytest.raises(ValueError, match=r"recipe.lr was 0.001, now 0.1"):
        train(points(), tmp_path / "run", dataclasses.replace(recipe, lr=0.1), progress=False)
    with pytest.raises(ValueError, match=r"data.sha256"):
        train(points(seed=1), tmp_path / "run", recipe, progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear Sir")
    with pytest.raises(ValueError, match="other things than a run"):
        train(points(), tmp_path / "other", recipe, progress=False)
    assert os.listdir(tmp_path / "other") == ["letter.txt"]


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_its_last_state(tmp_path):
    class Breaks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.calls = torch.nn.Parameter(torch.zeros(1)), 0

        def forward(self, x, t, label=None):
            self.calls += self.training
            return x * self.w * (float("nan") if self.calls > 12 else 1.0)

    with pytest.raises(TrainingError, match=r"the loss is nan .* at step 13"):
        train(points(), tmp_path / "run", tiny(), net=Breaks(), save_every=10, progress=False)
    with pytest.raises(ValueError, match="net="):
        load(tmp_path / "run")
    assert load(tmp_path / "run", net=Breaks()).card["step"] == 10


class Plain(torch.nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.w = torch.nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x, t, label=None):
        return x * self.w.mean()


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights(tmp_path):
    class Breaks(Plain):
        steps = 0

        def forward(self, x, t, label=None):
            self.steps += self.training
            # its derivative at 0 is infinite, and 0 times that is NaN
            return super().forward(x, t) + (0 * (self.w - self.w.detach()).abs().sqrt().sum() if self.steps > 12 else 0)

    words = r"its gradient nan long at step 13; .* holds the state of step 10. Begin in"
    with pytest.raises(TrainingError, match=words):
        train(points(), tmp_path, tiny(), net=Breaks(), save_every=5, progress=False)
    assert load(tmp_path, net=Breaks()).net.w.isfinite().all()
    with pytest.raises(TrainingError, match="nothing was saved yet"):
        train(points(), tmp_path / "a", tiny(lr=1e30, warmup=0), net=Plain(), progress=False)


def test_a_folder_in_which_nothing_was_saved_is_as_good_as_a_new_one(tmp_path):
    def killed(step, loss):
        raise Killed

    with pytest.raises(Killed):
        train(points(), tmp_path, tiny(steps=4), averages=4, callback=killed, progress=False)
    left_by_a_killed_process(tmp_path / "state.safetensors").write_bytes(b"half")
    found = train(points(), tmp_path, tiny(lr=0.5), averages=0, progress=False)
    assert found.card["recipe"]["lr"] == 0.5
    assert not list(tmp_path.glob(".state*")) and not list(tmp_path.glob("averages*"))
    os.remove(tmp_path / "model.safetensors")
    assert same(train(points(), tmp_path, tiny(lr=0.5), progress=False), load(tmp_path))


def test_a_user_defined_module_is_trained_as_it_must_be_and_refused_by_name(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.modes = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), set()
            self.b.weight = self.a.weight

        def forward(self, x, t, label=None):
            self.modes.add(self.training)
            return self.b(self.a(x))

    net, before = Tied().eval(), torch.random.get_rng_state()
    made = train(points(), tmp_path, tiny(), net=net, save_every=10, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert net.modes == {True} and same(made, load(tmp_path, net=Tied()))
    with pytest.raises(ValueError, match="another network than net"):
        train(points(), tmp_path / "plain", tiny(), net=Plain(1), progress=False)
        train(points(), tmp_path / "plain", tiny(), net=Plain(2), progress=False)
    with pytest.raises(ValueError, match="asks for a gradient"):
        train(points(), tmp_path / "still", tiny(), net=Tied().requires_grad_(False), progress=False)


def test_what_a_network_draws_is_another_in_every_step_and_the_same_after_a_kill(tmp_path):
    class Draws(Plain):
        drawn = ()

        def forward(self, x, t, label=None):
            self.drawn += (float(torch.rand(())),) * self.training
            return super().forward(x, t)

    def killed(step, loss):
        if step == 15:
            raise Killed

    whole, parts, recipe = Draws(), Draws(), tiny(steps=20)
    train(points(), tmp_path / "whole", recipe, net=whole, progress=False)
    with pytest.raises(Killed):
        train(points(), tmp_path / "parts", recipe, net=parts, save_every=10, callback=killed, progress=False)
    train(points(), tmp_path / "parts", recipe, net=parts, save_every=10, progress=False)
    assert len(set(whole.drawn)) == 20 and parts.drawn == whole.drawn[:15] + whole.drawn[10:]


def test_every_held_out_sample_counts_once():
    class Counts(torch.nn.Module):
        def forward(self, x, t, label=None):
            return x.new_tensor(0.0).expand_as(x)

    recipe, data = tiny(batch=64, schedule=sd.RectifiedFlow(), prediction=sd.DataPrediction()), points(100)
    recipe = dataclasses.replace(recipe, weighting=OutputWeighting())
    mean, error = held_out_loss(sd.Denoiser(Counts(), recipe.schedule, recipe.prediction), recipe, data)
    each = (data.values.astype(np.float64) ** 2).mean(1)
    assert mean == pytest.approx(each.mean(), rel=1e-6)
    assert error == pytest.approx(each.std(ddof=1) / 10, rel=1e-6)


def test_the_log_tells_a_million_steps_apart(tmp_path):
    run = Run(tmp_path, {})
    run.cut_log(0)
    run.log(step=1234567, loss=0.5)
    run.cut_log(1234567)
    run.close()
    assert (tmp_path / "log.csv").read_text().splitlines()[1].startswith("1234567,0.5,")


def test_a_full_disk_ends_the_run_and_leaves_what_was_there(tmp_path, monkeypatch):
    recipe, saved = tiny(), []

    def full(tensors, path, metadata=None):
        saved.append(path)
        if len(saved) > 4:
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return write(tensors, path, metadata)

    import safetensors.torch

    write = safetensors.torch.save_file
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left.*nothing is lost"):
        train(points(), tmp_path / "run", recipe, save_every=5, averages=0, progress=False)
    monkeypatch.setattr(safetensors.torch, "save_file", write)
    assert not [p for p in (tmp_path / "run").iterdir() if p.read_bytes() == b"half"]
    whole = train(points(), tmp_path / "whole", recipe, save_every=5, averages=0, progress=False)
    assert same(whole, train(points(), tmp_path / "run", recipe, save_every=5, averages=0, progress=False))


def test_a_damaged_state_is_named(tmp_path):
    train(points(), tmp_path / "run", tiny(), progress=False)
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"state.safetensors is damaged .*remove it"):
        train(points(), tmp_path / "run", tiny(), progress=False)


@pytest.mark.parametrize(
    "numbers",
    ["[]", "{}", '{"step": "4", "seconds": 1.0, "scaler": null}', '{"step": true, "seconds": 1.0, "scaler": null}',
     '{"step": 4, "seconds": NaN, "scaler": null}', '{"step": 4, "seconds": 1.0, "scaler": []}', "[" * 100_000],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_a_state_with_other_numbers_is_named(tmp_path, numbers):
    train(points(), tmp_path / "run", tiny(steps=2), averages=0, progress=False)
    state = tmp_path / "run" / "state.safetensors"
    tensors, _ = read_tensors(state, "numbers")
    write_tensors(state, tensors, {"numbers": numbers})
    with pytest.raises(ValueError, match=r"state.safetensors is damaged .*remove it to begin"):
        train(points(), tmp_path / "run", tiny(steps=2), averages=0, progress=False)


def test_a_run_whose_averages_are_of_another_network_is_refused_by_name(tmp_path):
    for width in (16, 32):
        recipe = tiny(steps=2, network=MLP(width, 1))
        train(points(), tmp_path / str(width), recipe, averages=2, progress=False)
    stranger = tmp_path / "16" / "averages-00000001.safetensors"
    stranger.write_bytes((tmp_path / "32" / stranger.name).read_bytes())
    with pytest.raises(ValueError, match=r"averages-00000001.safetensors does not hold the averages of width 0.05"):
        reconstruct(tmp_path / "16", 0.1)


@pytest.mark.parametrize("config", ["[]", "{", '{"name": "a program of others"}'])
def test_the_settings_of_something_else_are_not_overwritten_by_a_run(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config.json .*name a new"):
        train(points(), tmp_path, tiny(), progress=False)
    assert (tmp_path / "config.json").read_text() == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps = 0: a whole number from 1 on"),
        ({"lr": float("nan")}, "lr = nan: above 0"),
        ({"drop_labels": 1.5}, "a fraction from 0 to 1"),
        ({"precision": "fp8"}, "'no', 'bf16' or 'fp16'"),
        ({"average": 0.5}, "an average of width 0.5"),
        ({"held_out": 400}, "cannot hold out 400 of 400"),
        ({"seed": 2**63}, r"below 2\^63"),
        ({"flip": True}, "mirrors images"),
        ({"schedule": sd.EDM(), "times": LogitNormalTimes()}, "LogNormalTimes"),
        ({"network": UNet()}, "wants images"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        train(points(), tmp_path / "run", tiny(**changes), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", [{"save_every": 0}, {"averages": -1}, {"picture_every": -1}, {"picture_every": 5}])
def test_how_often_is_checked_before_anything_is_written(tmp_path, how):
    with pytest.raises(ValueError, match=f"{next(iter(how))} = "):
        train(points(), tmp_path / "run", tiny(), **how, progress=False)
    assert not (tmp_path / "run").exists()


def test_bf16_is_near_the_full_precision_and_not_the_same(tmp_path):
    half, full = (
        train(points(), tmp_path / p, tiny(precision=p), progress=False).net.enter.weight for p in ("bf16", "no")
    )
    assert half.dtype is torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0, atol=0.02)


def test_a_rate_rises_stays_and_falls():
    recipe = Recipe(steps=100, lr=2.0, warmup=10, cooldown=0.5)
    rates = [recipe.lr_at(step) for step in range(100)]
    assert rates[0] == 0.2 and rates[9:50] == [2.0] * 41 and rates[99] == pytest.approx(0.04)
    assert Recipe(times=ContinuousTimes(), warmup=0, cooldown=0).lr_at(9999) == Recipe().lr
