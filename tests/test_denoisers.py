"""Every denoiser is one: networks, guidances, exact and user-defined ones answer the same questions."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import scorediff as sd
from scorediff._core import registry
from scorediff._core.conditions import Conditions
from scorediff.denoiser import CallableDenoiser, NetworkOutput, PairOutput, Rescheduled
from scorediff.solvers.counting import CountingDenoiser

SCHEDULE = sd.VPLinear()
TARGET = sd.targets.Gaussian((0.3, -1.0), (0.5, 2.0))
EXACT = TARGET.denoiser(SCHEDULE)
X = TARGET.at(SCHEDULE, 0.5).sample(6)


class MLP(torch.nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(2, 8, dtype=dtype), torch.nn.Linear(8, 2, dtype=dtype))
        self.seen = []

    def forward(self, x, t):
        self.seen.append(x.dtype)
        return self.inner(x)


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """A user's denoiser that knows nothing of the library's classes."""

    schedule: sd.schedules.Schedule = dataclasses.field(default_factory=sd.VPLinear)

    def __call__(self, t, x, **cond):
        return tuple(EXACT(t, x))


# --- the parameters of a network


def assigned(net):
    net.load_state_dict(MLP(torch.float64).state_dict(), assign=True)


def emptied(net):
    net.double().to_empty(device="cpu")
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)


def swapped(net):
    net.inner = MLP(torch.float64).inner


@pytest.mark.parametrize("change", [assigned, emptied, swapped])
def test_a_network_that_has_other_parameters_by_now_is_followed(change):
    net = MLP()
    model = sd.Denoiser(net, SCHEDULE, sd.NoisePrediction())
    guided = sd.guidance.Clipped(model).on(sd.EDM())
    assert model.dtype is guided.dtype is torch.float32
    change(net)
    assert model.dtype is guided.dtype is torch.float64
    model(0.5, X)
    assert net.seen == [torch.float64]


def test_the_device_of_a_network_is_that_of_the_parameters_it_has_now():
    net = MLP()
    model = sd.Denoiser(net, SCHEDULE, sd.NoisePrediction())
    assert model.device == torch.device("cpu")
    net.to_empty(device="meta")
    assert model.device == torch.device("meta")


def test_the_first_floating_parameter_counts_else_the_first_floating_buffer_else_nothing():
    net = torch.nn.Module()
    model = sd.Denoiser(lambda x, t: x, SCHEDULE, sd.NoisePrediction())
    assert model.dtype is None and model.device is None
    model = sd.Denoiser(net.requires_grad_(False), SCHEDULE, sd.NoisePrediction())
    assert model.dtype is None
    net.register_buffer("table", torch.ones(2, dtype=torch.float16))
    assert model.dtype is torch.float16
    net.deep = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Sequential(torch.nn.Linear(1, 1).double())])
    assert model.dtype is torch.float64 is next(net.parameters()).dtype
    net.first = torch.nn.Parameter(torch.ones(1))
    net.register_parameter("missing", None)
    assert model.dtype is torch.float32 is next(net.parameters()).dtype


# --- user-defined denoisers


def test_a_callable_with_a_schedule_is_wrapped_once_where_it_enters():
    foreign = Foreign()
    flow = sd.ProbabilityFlow(foreign)
    assert isinstance(flow.denoiser, CallableDenoiser) and flow.denoiser.function is foreign
    assert sd.ReverseSDE(flow.denoiser).denoiser is flow.denoiser
    assert sd.guidance.Clipped(flow.denoiser).denoiser is flow.denoiser
    assert isinstance(sd.guidance.Clipped(foreign).denoiser, CallableDenoiser)
    assert isinstance(sd.guidance.Autoguidance(EXACT, foreign, 2.0).weak, CallableDenoiser)
    assert isinstance(Rescheduled(foreign, sd.EDM()).denoiser, CallableDenoiser)
    assert sd.ProbabilityFlow(EXACT).denoiser is EXACT
    for solver, steps in (("unipc-3", {"steps": 6}), ("exponential-adams", {})):
        one, other = (sd.solve(sd.ProbabilityFlow(d), X, solver, **steps) for d in (foreign, EXACT))
        assert torch.equal(one.x, other.x) and np.array_equal(one.evaluations, other.evaluations)
    assert one.settings["denoiser"] == {"type": "Foreign"}


@pytest.mark.parametrize("given", [None, 3, torch.sin, sd.VPLinear(), Foreign, sd.guidance.Clipped])
def test_what_is_not_a_denoiser_is_refused_at_the_entrance(given):
    for make in (sd.ProbabilityFlow, sd.ReverseSDE, sd.guidance.Clipped, lambda d: Rescheduled(d, sd.EDM())):
        with pytest.raises(TypeError, match=r"wants a denoiser, got .*Denoiser\(net, schedule, prediction\)"):
            make(given)


class Shifted(sd.DenoiserBase):
    """A user-defined class with the two things that it must have."""

    schedule = SCHEDULE

    def evaluate(self, t, x, cond):
        data, noise = EXACT(t, x)
        return PairOutput(x, data, noise)


def test_a_user_defined_class_has_all_else_by_default():
    model = Shifted()
    assert model.discontinuities == model.kinks == model.made_of == ()
    assert model.dtype is None and model.device is None and model.check(1.0, 0.0) is None
    assert model.to_dict() == {"type": "Shifted"}
    assert_close(model.score(0.5, X), EXACT.score(0.5, X))
    assert model.on(sd.EDM()).schedule == sd.EDM()
    assert sd.sample(sd.ProbabilityFlow(model), (3, 2), "ddim", steps=3).check().calls == 3
    with pytest.raises(TypeError, match="abstract"):
        sd.DenoiserBase()


def test_every_denoiser_of_the_package_is_a_final_class_at_most_two_below_the_base():
    found = [cls for cls in registry.concrete(sd.DenoiserBase) if cls.__module__.startswith("scorediff.")]
    assert {"Denoiser", "Rescheduled", "CallableDenoiser", "ExactDenoiser", "CountingDenoiser", "DPS"} <= {
        cls.__name__ for cls in found
    }
    for cls in found:
        assert getattr(cls, "__final__", False), f"{cls.__name__} is not final"
        assert sum(issubclass(base, sd.DenoiserBase) for base in cls.__mro__) <= 3, cls


class Rough(sd.DenoiserBase):
    schedule, discontinuities, kinks = SCHEDULE, (0.3, 0.6), ("Rough",)
    dtype, device = torch.float16, torch.device("meta")

    def evaluate(self, t, x, cond):
        return EXACT.evaluate(t, x, cond)

    def check(self, t_start, t_end):
        raise ValueError("checked")


@pytest.mark.parametrize(
    "around",
    [
        sd.guidance.Clipped,
        lambda d: sd.ClassifierFree(d, 2.0),
        lambda d: sd.guidance.Autoguidance(d, EXACT, 2.0),
        lambda d: sd.guidance.GuidanceInterval(sd.ClassifierFree(d, 2.0)),
        lambda d: sd.guidance.PiGDM(d, sd.guidance.Mask(torch.tensor([True, False]))),
        lambda d: sd.guidance.Clipped(sd.guidance.Clipped(d)),
    ],
)
def test_what_a_denoiser_says_of_itself_is_said_of_what_is_made_of_it(around):
    made = around(Rough())
    assert made.discontinuities == (0.3, 0.6) and "Rough" in made.kinks
    assert made.dtype is torch.float16 and made.device == torch.device("meta")
    with pytest.raises(ValueError, match="checked"):
        made.check(1.0, 0.5)
    with pytest.raises(ValueError, match="checked"):
        CountingDenoiser(made, X, sd.Grid([1.0, 0.5]), {})
    weak = sd.guidance.Autoguidance(EXACT, made, 2.0)
    assert weak.discontinuities == (0.3, 0.6) and weak.kinks == made.kinks and weak.dtype is None


def test_score_and_velocity_of_a_guidance_are_those_of_the_equation_it_makes():
    guided = sd.guidance.Clipped(EXACT, 0.5)
    noise = guided(0.4, X)[1]
    assert_close(guided.score(0.4, X), -noise / float(SCHEDULE.sigma(0.4)))
    assert_close(guided.velocity(0.4, X), sd.ProbabilityFlow(guided).drift(0.4, X))
    assert (guided.velocity(0.4, X) - EXACT.velocity(0.4, X)).abs().max() > 1e-3


# --- what one evaluation gives


@pytest.mark.parametrize("t", [0.4, np.array([0.1, 0.2, 0.4, 0.6, 0.8, 1.0])])
def test_both_kinds_of_output_are_one_pair(t):
    made = EXACT(t, X)
    assert isinstance(made, PairOutput) and len(made) == 2 and made.rows == 6 and made.vjps == 0
    as_network = made.as_network(SCHEDULE, t, X)
    assert isinstance(as_network, NetworkOutput) and as_network.as_network(SCHEDULE, t, X) is as_network
    for k in (0, 1):
        assert_close(as_network[k], made[k], rtol=1e-12, atol=1e-12)
    assert_close(as_network.in_v(SCHEDULE, t, X).output, as_network.output, rtol=1e-12, atol=1e-12)
    to_data, to_noise = (0.3, -0.7) if np.ndim(t) == 0 else (np.linspace(0.1, 1, 6), np.linspace(-1, 2, 6))
    column = [torch.as_tensor(c, dtype=torch.float64).reshape(-1, 1) for c in (to_data, to_noise)]
    wanted = made[0] * column[0] + made[1] * column[1]
    for kind in (made, as_network):
        terms = kind.terms(to_data, to_noise)
        found = sum(torch.as_tensor(c, dtype=torch.float64).reshape(-1, 1) * v for c, v in terms)
        assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert [len(kind.computed) for kind in (made, as_network)] == [2, 1]


@pytest.mark.parametrize("noise", [X[:, :1], X.float(), X.numpy(), None])
def test_a_pair_that_is_not_as_the_state_is_refused(noise):
    with pytest.raises(ValueError, match=r"the denoiser returned .* for a state of torch.float64 of shape \(6, 2\)"):
        PairOutput(X, X, noise)


def test_a_call_counter_has_its_conditions_already():
    counted = CountingDenoiser(EXACT, X, sd.Grid([1.0, 0.5]), {})
    counted(0.5, X)
    sd.guidance.Clipped(counted)(0.5, X)
    assert counted.calls == 2 and counted.evaluations.tolist() == [2] * 6
    with pytest.raises(TypeError, match="label: a run has its conditions from its start"):
        counted(0.5, X, label=3)


# --- conditions


def seen_by(cond, x=X, solver="rk45", **options):
    """The conditions as a network sees them, evaluation by evaluation."""
    seen = []

    def net(x, t, **given):
        seen.append((len(x), given))
        return 0.5 * x + sum(v.double().mean() for v in given.values() if isinstance(v, torch.Tensor)) * 0.01

    flow = sd.ProbabilityFlow(sd.Denoiser(net, SCHEDULE, sd.NoisePrediction()))
    sd.sample(flow, solver=solver, x=x, cond=cond, **options).check()
    return seen


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_shared_tensor_is_given_whole_and_unwrapped_whatever_its_length(rows):
    scale = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None] ** 3
    table, label = torch.arange(float(rows)), torch.arange(6)
    seen = seen_by({"table": sd.shared(table), "label": label, "name": "plain"}, x=X * scale)
    assert {n for n, _ in seen} > {6}, "samples leave the batch"
    for n, given in seen:
        assert given["table"] is table and given["name"] == "plain" and len(given["label"]) == n
    seen = seen_by({"table": sd.shared(table)}, solver="ddim", steps=2, batch_size=rows)
    assert all(given["table"] is table for _, given in seen)


@pytest.mark.parametrize("value", [torch.ones(3, 2), torch.tensor(1.0), torch.ones(1, 6)])
def test_a_tensor_of_another_number_of_rows_is_refused_with_the_way_out(value):
    model = sd.Denoiser(lambda x, t, **cond: x, SCHEDULE, sd.NoisePrediction())
    words = r"cond\['context'\] is a tensor of shape .* for 6 samples: .*sd\.shared\(value\)"
    for call in (
        lambda: model(0.5, X, context=value),
        lambda: model.on(sd.EDM())(0.5, X, context=value),
        lambda: sd.sample(sd.ProbabilityFlow(model), x=X, solver="ddim", steps=2, cond={"context": value}),
        lambda: sd.solve(sd.ProbabilityFlow(model), X, "ddim", steps=2, cond={"context": value}),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert_close(model(0.5, X, context=sd.shared(value))[1], X)


def test_parts_of_conditions_keep_what_is_shared():
    cond = Conditions.of({"a": torch.arange(6), "b": sd.shared(torch.arange(6)), "prefix_c": sd.shared(3)}, 6)
    assert cond.per_sample == {"a"} and Conditions.of(cond, 2) is cond
    part = cond.of_rows(slice(0, 2))
    assert part["a"].tolist() == [0, 1] and len(part["b"]) == 6
    assert part.beginning("prefix_") == {"c": 3} and "prefix_c" not in part.without("prefix_")


# --- names, and what is shown


@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        ("epsilon", sd.NoisePrediction()),
        ("noise-prediction", sd.NoisePrediction()),
        ("sample", sd.DataPrediction()),
        ("v_prediction", sd.VPrediction()),
        ("v-prediction", sd.VPrediction()),
        ("flow_prediction", sd.FlowPrediction()),
        ("edm-prediction:data_std=0.3", sd.EDMPrediction(0.3)),
    ],
)
def test_a_prediction_and_a_schedule_go_by_the_names_of_the_field(name, prediction):
    model = sd.Denoiser(torch.sin, "vp-linear:beta_max=18", name)
    assert model.schedule == sd.VPLinear(beta_max=18) and model.prediction == prediction


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (
            sd.Denoiser(MLP(), SCHEDULE, sd.NoisePrediction()),
            "Denoiser(MLP of 42 parameters, VPLinear(beta_min=0.1, beta_max=20.0), NoisePrediction())",
        ),
        (
            sd.ProbabilityFlow(sd.Denoiser(torch.sin, sd.VPDiscrete(), "v_prediction", time=sd.VPDiscrete().index)),
            "ProbabilityFlow(Denoiser(sin, VPDiscrete(1000 betas, 0.0001 .. 0.02), VPrediction(), time=index))",
        ),
        (
            sd.ReverseSDE(TARGET.denoiser(sd.EDM()), eta=0.5),
            "ReverseSDE(ExactDenoiser(target=Gaussian(event_shape=(2,)), schedule=EDM(sigma_min=0.002, sigma_m",
        ),
        (sd.guidance.Mask(torch.ones(28, 28, dtype=torch.bool)), "Mask(known=Tensor(28, 28))"),
    ],
)
def test_a_denoiser_and_a_problem_say_what_they_are(shown, words):
    assert repr(shown).startswith(words)


def test_a_guidance_says_what_it_is_in_one_line_without_numbers_of_tensors_and_addresses():
    def classifier(x, t):
        return -x.square().sum(1)

    plain = CallableDenoiser(Foreign().__call__, SCHEDULE)
    made = [
        sd.ClassifierFree(sd.Denoiser(MLP(), SCHEDULE, "epsilon"), 3.0, {"text": torch.zeros(77, 64)}),
        sd.guidance.ClassifierGuidance(plain, classifier),
        sd.guidance.PiGDM(EXACT, sd.guidance.Matrix(torch.ones(40, 2), (2,))),
        sd.guidance.Clipped(Shifted()).on(sd.EDM()),
    ]
    for guided in made:
        assert "\n" not in repr(guided) and " at 0x" not in repr(guided) and len(repr(guided)) < 250, repr(guided)
    assert "null={'text': Tensor(77, 64)}" in repr(made[0]) and "log_prob=classifier" in repr(made[1])
    assert repr(made[3]).startswith("Rescheduled(Clipped(denoiser=Shifted, bound=1.0), EDM(")
