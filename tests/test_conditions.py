"""A tensor has a row for each sample, all else is the same for all: at every entrance, at every batch size."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import scorediff as sd

SCHEDULE = sd.VPLinear()
ROWS = 3
X = sd.prior(SCHEDULE, (4, 2), seed=1, dtype=torch.float64) * torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]

#: A condition that all samples share, of `rows` entries, and the number that a network makes of it.
KINDS = {
    "a list": lambda rows: list(range(rows)),
    "a tuple": lambda rows: tuple(range(rows)),
    "an array": lambda rows: np.arange(float(rows)),
    "a string": lambda rows: "0123456789"[:rows],
    "a dictionary": lambda rows: {str(i): i for i in range(rows)},
    "a list of tensors": lambda rows: [torch.tensor(float(i)) for i in range(rows)],
    "a shared tensor": lambda rows: sd.shared(torch.arange(float(rows))[:, None]),
    "a shared list": lambda rows: sd.shared(list(range(rows))),
}


class Given(torch.nn.Module):
    """A network that notes how long `table` is, and adds its sum and each sample's own `label`."""

    def __init__(self):
        super().__init__()
        self.lengths = set()

    def forward(self, x, t, table, label):
        self.lengths.add(len(table))
        values = table.values() if isinstance(table, dict) else table
        total = sum(float(value) for value in values)
        column = label.reshape(-1, *(1,) * (x.ndim - 1)).to(x)
        return 0.5 * x + 0.01 * total + 0.1 * column


def fixed(flow, x, cond):
    return sd.sample(flow, solver="dpm++2m", x=x, steps=3, cond=cond).x


def in_batches(flow, x, cond):
    return sd.sample(flow, solver="dpm++2m", x=x, steps=3, cond=cond, batch_size=ROWS).x


def adaptive(flow, x, cond):
    return sd.sample(flow, solver="rk45:rtol=0.1", x=x, cond=cond).check().x


def solved(flow, x, cond):
    return sd.solve(flow, x, "heun", steps=3, cond=cond).x


def encoded(flow, x, cond):
    return sd.encode(flow, x, "exponential-adams:rtol=0.1", cond=cond).check().x


def with_a_terminal(flow, x, cond):
    return sd.sample(sd.ReverseSDE(flow.denoiser), solver="ddpm", x=x, steps=3, cond=cond, terminal="denoise").x


def in_a_study(flow, x, cond):
    return sd.study.reference(flow, x, tolerance=1e-2, cond=cond).x


def called(flow, x, cond):
    return flow.denoiser(0.9 - 0.15 * np.arange(len(x)), x, **cond)[0]


def asked_for_its_velocity(flow, x, cond):
    return flow.denoiser.velocity(0.5, x, **cond)


ENTRANCES = [fixed, in_batches, adaptive, solved, encoded, with_a_terminal, in_a_study, called, asked_for_its_velocity]


class ByHand:
    """A user's own denoiser around another one, which it hands its conditions on to."""

    schedule = SCHEDULE

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def __call__(self, t, x, **cond):
        return self.denoiser(t, x, **cond)


def one_class(x, t, label):
    return -0.5 * ((x - label.reshape(-1, 1).to(x)) ** 2).flatten(1).sum(1)


#: Denoisers made of one that takes `table` and `label`, and what they are given besides.
MADE = {
    "itself": (lambda model: model, {}),
    "on another schedule": (lambda model: model.on(sd.VPCosine()), {}),
    "a user's own": (ByHand, {}),
    "by no class": (lambda model: sd.ClassifierFree(model, 2.0, null={"label": 0}), {}),
    "by a negative": (lambda model: sd.ClassifierFree(model, 2.0), {"negative_label": -1.0}),
    "in an interval": (
        lambda model: sd.guidance.GuidanceInterval.in_sigma(sd.ClassifierFree(model, 2.0, null={"label": 0}), 0.3, 3.0),
        {},
    ),
    "in an interval, by hand": (
        lambda model: ByHand(
            sd.guidance.GuidanceInterval.in_sigma(sd.ClassifierFree(model, 2.0, null={"label": 0}), 0.3, 3.0)
        ),
        {},
    ),
    "by a classifier": (
        lambda model: sd.guidance.ClassifierGuidance(model, one_class),
        {"classifier_label": 0.5},
    ),
    "by a weak one": (lambda model: sd.guidance.Autoguidance(model, model, 2.0), {}),
}


def given(value, extra, n):
    """Conditions for `n` samples, each its own but for `value`."""
    own = torch.arange(float(n))
    return {"table": value, "label": own, **{name: own * factor for name, factor in extra.items()}}


def flow_of(made):
    """The flow of a denoiser that is so made, what it is given besides, and its network."""
    make, extra = MADE[made]
    net = Given()
    return sd.ProbabilityFlow(make(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))), extra, net


def case(entrance, made):
    """Every entrance and every denoiser by day, all pairs of them by night."""
    by_day = entrance is called or made == "itself" or (entrance is adaptive and made.startswith("in an interval"))
    return pytest.param(entrance, made, id=f"{entrance.__name__}, {made}", marks=() if by_day else pytest.mark.nightly)


over_everything = pytest.mark.parametrize(("entrance", "made"), [case(e, made) for e in ENTRANCES for made in MADE])


@over_everything
def test_what_all_samples_share_is_whole_at_every_entrance_whatever_the_batch(entrance, made):
    flow, extra, net = flow_of(made)
    kinds = KINDS if entrance is called or made == "itself" else ["a list", "a shared tensor"]
    for n in (1, 2, ROWS, 4):
        one = entrance(flow, X[:n], given([sum(range(ROWS)), 0, 0], extra, n))
        for kind in kinds:
            assert torch.equal(entrance(flow, X[:n], given(KINDS[kind](ROWS), extra, n)), one), (kind, n)
    assert net.lengths == {ROWS}


@over_everything
def test_what_is_a_samples_own_goes_with_it_whatever_the_batch(entrance, made):
    flow, extra, _ = flow_of(made)
    whole = entrance(flow, X, given("01", extra, 4))
    for n in (1, 2, ROWS):
        assert_close(entrance(flow, X[:n], given("01", extra, n)), whole[:n], rtol=1e-12, atol=1e-12)
    # and it is its own: with that of another, another comes out
    assert not torch.isclose(entrance(flow, X, given("01", extra, 4) | {"label": torch.arange(4.0) + 1}), whole).any()


@over_everything
def test_a_tensor_of_another_number_of_rows_is_refused_at_every_entrance_with_the_way_out(entrance, made):
    flow, extra, _ = flow_of(made)
    for n in (1, 2, ROWS):
        for shape in [(), (n + 1,), (n + 1, n), (0, n)]:
            with pytest.raises(ValueError, match=r"cond\['label'\] is a tensor of shape .* for . samples.*sd\.shared"):
                entrance(flow, X[:n], given("01", extra, n) | {"label": torch.ones(shape)})


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_null_or_a_negative_for_all_never_becomes_one_for_each_by_its_length(rows):
    model = sd.Denoiser(lambda x, t, text: x * text.mean(1, keepdim=True), SCHEDULE, sd.NoisePrediction())
    text, x = torch.arange(rows * 2.0).reshape(rows, 2), X[:rows]
    all_of_them = torch.full((rows + (rows == 1), 2), 0.5)
    for guided, more in (
        (sd.ClassifierFree(model, 2.0, null={"text": all_of_them}), {}),
        (sd.ClassifierFree(model, 2.0), {"negative_text": sd.shared(all_of_them)}),
        # one number a sample, where each has two: beside a batch of two they would run along the wrong side
        (sd.ClassifierFree(model, 2.0), {"negative_text": torch.arange(float(rows))}),
    ):
        with pytest.raises(ValueError, match=r"text is of shape .* its negative Tensor of shape"):
            guided(0.5, x, text=text, **more)
    right = sd.ClassifierFree(model, 2.0)(0.5, x, text=text, negative_text=torch.full((rows, 2), 0.5)).output
    for null in (torch.full((2,), 0.5), torch.full((1, 2), 0.5), torch.tensor(0.5), 0.5, np.full(2, 0.5)):
        assert torch.equal(sd.ClassifierFree(model, 2.0, null={"text": null})(0.5, x, text=text).output, right)
        shared = sd.ClassifierFree(model, 2.0)(0.5, x, text=text, negative_text=sd.shared(null)).output
        assert torch.equal(shared, right)


@pytest.mark.parametrize("make", [sd.guidance.DPS, sd.guidance.PiGDM])
def test_a_measurement_that_all_share_is_one_row_whatever_the_batch(make):
    target = sd.targets.Gaussian((0.5, -0.5), 0.3)
    guided = make(target.denoiser(SCHEDULE), sd.guidance.Mask(torch.tensor([True, False])), 0.1)
    y = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for n in (1, 2, 3):
        each = guided(0.5, X[:n], observed=y.expand(n, 2)).output
        assert torch.equal(guided(0.5, X[:n], observed=sd.shared(y)).output, each)
        with pytest.raises(ValueError, match=r"observed has shape .*, shared: the operator gives \(1, 2\)"):
            guided(0.5, X[:n], observed=sd.shared(y.expand(n + (n == 1), 2)))


def test_what_is_shared_twice_is_shared_once():
    assert sd.shared(sd.shared("a")).value == "a"
