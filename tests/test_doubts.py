"""What is seldom meant is warned of once, where a run starts, with the module and the way out."""

import functools
import warnings

import numpy as np
import pytest
import torch
from discovery import SCHEDULES
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import scorediff as sd
from scorediff.interop.inspection import inspect
from scorediff.interop.wrapping import Wrapped

SCHEDULE, TABLE = sd.VPLinear(), sd.VPDiscrete()
X = torch.zeros(4, 2)


class Net(nn.Module):
    """A network with `inner` on the way, at `encoder.1`."""

    def __init__(self, inner):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2), inner)

    def forward(self, x, t, **cond):
        made = self.encoder(x)
        return x * t[:, None] + 0.1 * (made[0] if isinstance(made, tuple) else made)


class Attention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, dropout=dropout)

    def forward(self, x):
        return self.attention(x, x, x)[0]


#: What acts otherwise in training mode, and its name in `Net`.
NOISY = {
    "Dropout(p=0.1": (lambda: nn.Dropout(0.1), "encoder.1"),
    "AlphaDropout(p=0.2": (lambda: nn.AlphaDropout(0.2), "encoder.1"),
    "BatchNorm1d(2": (lambda: nn.BatchNorm1d(2), "encoder.1"),
    "RReLU(": (nn.RReLU, "encoder.1"),
    "LSTM(2, 2": (lambda: nn.LSTM(2, 2, 2, dropout=0.5), "encoder.1"),
    "MultiheadAttention(": (lambda: Attention(0.1), "encoder.1.attention"),
    "Dropout(p=0.3": (lambda: nn.TransformerEncoderLayer(2, 1, 4, dropout=0.3), "encoder.1.dropout"),
    "_SpectralNorm(": (lambda: spectral_norm(nn.Linear(2, 2)), "encoder.1.parametrizations.weight.0"),
}
#: What does not, so that nobody need call eval().
QUIET = {
    "a layer": lambda: nn.Linear(2, 2),
    "dropout of nothing": lambda: nn.Dropout(0.0),
    "a layer norm": lambda: nn.LayerNorm(2),
    "a batch norm without averages": lambda: nn.BatchNorm1d(2, track_running_stats=False),
    "an LSTM of one layer": lambda: nn.LSTM(2, 2),
    "attention without dropout": lambda: Attention(0.0),
    "a leak that is not drawn": lambda: nn.RReLU(0.2, 0.2),
}


class Holder:
    def __init__(self, net):
        self.net = net

    def __call__(self, x, t):
        return self.net(x, t)


class OwnDenoiser(sd.DenoiserBase):
    schedule = SCHEDULE

    def __init__(self, net):
        self.net = net

    def evaluate(self, t, x, cond):
        return sd.Denoiser(self.net, SCHEDULE, "noise").evaluate(t, x, cond)


def denoiser(net):
    return sd.Denoiser(net, SCHEDULE, "noise")


#: Ways to have a network in a denoiser.
WAYS = {
    "itself": denoiser,
    "wrapped": lambda net: denoiser(Wrapped(net, lambda net, x, t: net(x, t))),
    "in a sequence": lambda net: denoiser(Wrapped(nn.ModuleList([net]), lambda nets, x, t: nets[0](x, t))),
    "a function of it": lambda net: denoiser(lambda x, t: net(x, t)),
    "its method": lambda net: denoiser(net.forward),
    "a partial of it": lambda net: denoiser(functools.partial(net)),
    "an object with it": lambda net: denoiser(Holder(net)),
    "on another schedule": lambda net: denoiser(net).on(sd.VPCosine()),
    "a class of the user's": OwnDenoiser,
    "guided": lambda net: sd.guidance.Clipped(denoiser(net)),
    "the weak one": lambda net: sd.guidance.Autoguidance(denoiser(lambda x, t: x), denoiser(net), 2.0),
    "a classifier": lambda net: sd.guidance.ClassifierGuidance(
        denoiser(lambda x, t: x), Wrapped(net, lambda net, x, t: net(x, t).sum(1))
    ),
}
RUNS = {
    "sample": lambda model: sd.sample(model, (4, 2), "ddim", steps=2, batch_size=2),
    "solve": lambda model: sd.solve(model, X, "heun", steps=1),
    "encode": lambda model: sd.encode(model, X, "ddim", steps=2),
    "adaptive": lambda model: sd.sample(model, (4, 2), "rk45:rtol=0.5", max_evaluations=8),
    "sde": lambda model: sd.sample(sd.ReverseSDE(model), (4, 2), "ddpm", steps=2),
}


def warned(call):
    """What is warned of, and where."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [(str(w.message), w.filename) for w in found]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("way", WAYS)
def test_a_network_in_training_mode_is_warned_of_once_however_it_is_held_and_run(way, run):
    net = Net(nn.Dropout(0.1))
    model = WAYS[way](net)
    ((words, file),) = warned(lambda: RUNS[run](model))
    assert "encoder.1 of " in words and "Dropout(p=0.1" in words and "call its eval()" in words and file == __file__
    net.eval()
    assert not warned(lambda: RUNS[run](model))


@pytest.mark.parametrize("kind", NOISY)
def test_the_module_that_acts_otherwise_is_named_and_eval_settles_it(kind):
    make, name = NOISY[kind]
    net = Net(make())
    ((words, _),) = warned(lambda: RUNS["sample"](denoiser(net)))
    assert f"{name} of Net, {kind}" in words
    assert not warned(lambda: RUNS["sample"](denoiser(net.eval())))
    # a part alone that was left in training mode
    net.encoder[1].train()
    assert len(warned(lambda: RUNS["sample"](denoiser(net)))) == 1


@pytest.mark.parametrize("kind", QUIET)
def test_a_network_that_is_the_same_in_training_mode_is_nothing_to_warn_of(kind):
    net = Net(QUIET[kind]())
    assert net.training and not warned(lambda: RUNS["sample"](denoiser(net)))


def test_many_modules_are_counted_and_one_that_is_met_twice_once():
    net = Net(nn.Sequential(*(nn.Dropout(0.1) for _ in range(5))))
    ((words, _),) = warned(lambda: RUNS["sample"](sd.guidance.Autoguidance(denoiser(net), denoiser(net), 2.0)))
    assert "encoder.1.0 of Net" in words and "encoder.1.2 of Net" in words and "and 2 more" in words


def test_inspect_evaluates_twice_and_names_what_is_in_training_mode():
    data = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    for net, words in (
        (Net(nn.Dropout(0.5)), "another output the second time"),
        (Net(nn.BatchNorm1d(2)), "in training mode: encoder.1 of Net, BatchNorm1d"),
        # what no list can know
        (lambda x, t: x + 0.01 * torch.rand_like(x), "another output the second time, apart by 0."),
    ):
        found = inspect(denoiser(net), (2,), data=data)
        assert not found.ok and any(words in fault for fault in found.faults), found
    found = inspect(denoiser(Net(nn.Dropout(0.5)).eval()), (2,), data=data)
    assert found.repeated == 0 and not found.in_training and "differs by 0.0e+00" in str(found)


# --- the number for the time


@pytest.mark.parametrize("schedule", [TABLE, sd.schedules.ZeroTerminalSNR(), sd.VPDiscrete((0.1, 0.2, 0.3))], ids=repr)
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: model.on(sd.VE(0.5, 0.9)), sd.guidance.Clipped])
def test_a_network_on_a_table_that_is_given_the_time_for_the_row_is_warned_of(schedule, wrap):
    def run(time):
        model = wrap(sd.Denoiser(lambda x, t: x, schedule, "noise", time=time))
        return warned(
            lambda: sd.sample(model, (2, 2), "ddim", steps=1, t_start=0.9 if model.schedule == schedule else 1)
        )

    ((words, file),) = run(None)
    assert f"the row, 0 .. {len(schedule.betas) - 1}" in words and "time=schedule.index" in words and file == __file__
    assert not run(schedule.index) and not run(lambda t: t)


def test_a_network_on_a_formula_may_be_given_the_time():
    for schedule in SCHEDULES:
        if not isinstance(schedule, (sd.VPDiscrete, sd.schedules.ZeroTerminalSNR)):
            model = sd.Denoiser(lambda x, t: x, schedule, "v_prediction")
            assert not warned(lambda model=model: sd.sample(model, (2, 2), "euler", steps=1))


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (lambda t: np.log(0.5 - t) if np.ndim(t) else (np.nan if t > 0.5 else 0.0), "NaN at t = "),
        (lambda t: np.ones(3), r"shape \(3,\) for times of shape \(\)"),
        (lambda t: None, r"time\(t\) = None"),
        (lambda t: "now", r"time\(t\) = 'now'"),
    ],
)
def test_a_number_that_is_none_is_refused_before_the_network_is_given_it(time, words):
    def net(x, t):
        raise AssertionError("it was called")

    model = sd.Denoiser(net, SCHEDULE, "noise", time=time)
    with pytest.raises(ValueError, match=words):
        model(0.7, X)


def test_times_of_their_own_have_numbers_of_their_own():
    model = sd.Denoiser(lambda x, t: x * t[:, None], SCHEDULE, "noise", time=lambda t: np.ones(1) * np.mean(t))
    with pytest.raises(ValueError, match=r"shape \(1,\) for times of shape \(4,\)"):
        model(np.linspace(0.2, 0.8, 4), X)


# --- the scale of the data

PIXELS = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
SPARSE = torch.where(torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)) > 0.9, 255.0, 0.0)
OUT = {"pixels": PIXELS, "sparse pixels": SPARSE, "unscaled latents": 5.5 * torch.randn(2, 4, 16, 16), "far": X - 7}
IN = {
    "images": PIXELS / 127.5 - 1,
    "from 0 to 1": PIXELS / 255,
    "unit variance": torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    "twice that": 2 * torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    "one far point": torch.tensor([[0.1, 0.2], [6.0, 0.3], [0.2, 0.1]]),
    "none": torch.zeros(0, 2),
    "of one size within it": torch.full((4, 2), 4.0),
}
STARTS = {
    "add_noise": lambda x: sd.add_noise(SCHEDULE, x, 0.5),
    "encode": lambda x: sd.encode(denoiser(lambda x, t: x), x, "ddim", steps=1),
}


@pytest.mark.parametrize("start", STARTS)
def test_data_far_from_unit_size_are_warned_of_with_their_range(start):
    for name, x in OUT.items():
        ((words, file),) = warned(lambda x=x: STARTS[start](x))
        assert f"data from {x.min():.4g} to {x.max():.4g}" in words and "x / 127.5 - 1" in words, name
        assert file == __file__
    for name, x in IN.items():
        assert not warned(lambda x=x: STARTS[start](x)), name


def test_a_state_with_noise_on_it_is_measured_by_that_noise():
    model = sd.Denoiser(lambda x, t: 0 * x, sd.EDM(), "data")
    x = sd.prior(sd.EDM(), (8, 2), t_start=40.0)
    assert not warned(lambda: sd.encode(model, x, "ddim", steps=1, t_end=40.0))
    assert not warned(lambda: sd.encode(model, torch.full((8, 2), 150.0), "ddim", steps=1, t_end=40.0))
    assert len(warned(lambda: sd.encode(model, x, "ddim", steps=1, t_end=0.1))) == 1
