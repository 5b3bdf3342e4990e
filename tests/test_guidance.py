"""A guided denoiser is one equation: its data and noise are those of closed forms, and every solver sees the same."""

import dataclasses
import gc
import itertools
import json
import math
import weakref

import numpy as np
import pytest
import torch
from discovery import GUIDANCES, SCHEDULES, by_day, label
from torch.testing import assert_close

import scorediff as sd
from scorediff import verify
from scorediff._core.conditions import Conditions
from scorediff.denoiser import Rescheduled

over_schedules = pytest.mark.parametrize(
    "schedule", by_day(SCHEDULES, (sd.VPLinear(), sd.EDM(), sd.RectifiedFlow())), ids=label
)
MEANS, STDS, WEIGHTS = ((-1.0, 0.5), (1.0, -0.5)), (0.4, 0.6), (0.3, 0.7)
CLASSES = [sd.targets.Gaussian(m, s**2) for m, s in zip(MEANS, STDS, strict=True)]
WHOLE = sd.targets.GaussianMixture(WEIGHTS, MEANS, [s**2 for s in STDS])
NONE = len(CLASSES)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoClasses:
    """A network that knows two classes, and label 2 for neither, exactly: the denoiser of a two-class mixture."""

    schedule: sd.schedules.Schedule = dataclasses.field(default_factory=sd.VPLinear)

    def __call__(self, t, x, *, label):
        outputs = [target.denoiser(self.schedule)(t, x) for target in (*CLASSES, WHOLE)]
        return tuple(torch.stack([r[k] for r in outputs])[label, torch.arange(len(x))] for k in (0, 1))


def as_network(prediction, schedule):
    """The same as a network that outputs `prediction`."""
    exact = TwoClasses(schedule)

    def net(x, t, label):
        time = t.double().numpy()
        scale = torch.from_numpy(np.broadcast_to(prediction.input_scale(schedule, time), time.shape).copy())
        data, noise = exact(time, x / scale[:, None], label=label)
        a, b = (torch.from_numpy(np.broadcast_to(c, time.shape).copy()) for c in prediction.row(schedule, time))
        return a[:, None] * data + b[:, None] * noise

    return sd.Denoiser(net, schedule, prediction)


def points(schedule, t, n=6, seed=0):
    return WHOLE.at(schedule, t).sample(n, seed=seed)


def scores(schedule, t, x):
    """The score of each class and of the mixture, written out."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    logs, each = [], []
    for mean, std, weight in zip(MEANS, STDS, WEIGHTS, strict=True):
        variance, away = (alpha * std) ** 2 + sigma**2, x - alpha * torch.tensor(mean, dtype=x.dtype)
        each.append(-away / variance)
        logs.append(math.log(weight / variance) - away.square().sum(1) / (2 * variance))
    weights = torch.stack(logs).softmax(0)
    return (*each, weights[0, :, None] * each[0] + weights[1, :, None] * each[1])


def score_of(output, schedule, t):
    return output[1] * (-1 / float(schedule.sigma(t)))


def agrees_with_the_state(output, schedule, t, x):
    assert_close(output[0] * schedule.alpha(t) + output[1] * schedule.sigma(t), x, rtol=1e-10, atol=1e-10)


LABEL = torch.tensor([0, 1, 0, 1, 0, 1])


@over_schedules
@pytest.mark.parametrize("prediction", [sd.NoisePrediction(), sd.VPrediction(), sd.EDMPrediction(), None])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_classifier_free_guidance_has_the_score_in_closed_form(schedule, prediction, scale):
    model = TwoClasses(schedule) if prediction is None else as_network(prediction, schedule)
    guided = sd.ClassifierFree(model, scale, null={"label": NONE})
    for log_snr in (-1.0, 0.5, 2.0):
        t = schedule.time_at(log_snr)
        x = points(schedule, t)
        first, second, whole = scores(schedule, t, x)
        towards = torch.where(LABEL[:, None] == 0, first, second)
        output = guided(t, x, label=LABEL)
        assert_close(score_of(output, schedule, t), whole + scale * (towards - whole), rtol=1e-9, atol=1e-9)
        agrees_with_the_state(output, schedule, t, x)
        assert output.rows == (len(x) if scale == 1.0 else 2 * len(x))


def test_the_two_conventions_of_the_scale_differ_by_one():
    model, x = TwoClasses(), points(sd.VPLinear(), 0.5)
    by_scale = sd.ClassifierFree(model, 3.5, null={"label": NONE})(0.5, x, label=LABEL)
    by_weight = sd.ClassifierFree.of_weight(model, 2.5, null={"label": NONE})(0.5, x, label=LABEL)
    towards, away = model(0.5, x, label=LABEL), model(0.5, x, label=torch.full_like(LABEL, NONE))
    assert_close(by_scale[1], by_weight[1])
    assert_close(by_weight[1], (1 + 2.5) * towards[1] - 2.5 * away[1], rtol=1e-12, atol=1e-12)


def test_classifier_guidance_by_the_exact_classifier_is_classifier_free_guidance():
    schedule = sd.VPLinear()

    def log_prob(x, t, label):
        densities = [target.at(schedule, float(t[0])).log_prob(x) + math.log(w) for target, w in zip(CLASSES, WEIGHTS)]  # noqa: B905
        return torch.stack(densities).log_softmax(0)[label, torch.arange(len(x))]

    unconditional = WHOLE.denoiser(schedule)
    by_classifier = sd.guidance.ClassifierGuidance(unconditional, log_prob, scale=2.0)
    by_label = sd.ClassifierFree(TwoClasses(schedule), 2.0, null={"label": NONE})
    for t in (0.05, 0.3, 0.9):
        x = points(schedule, t)
        output = by_classifier(t, x, classifier_label=LABEL)
        assert_close(output[1], by_label(t, x, label=LABEL)[1], rtol=1e-8, atol=1e-8)
        assert (output.rows, output.vjps) == (2 * len(x), 1)
        agrees_with_the_state(output, schedule, t, x)


def test_autoguidance_is_the_weak_output_and_scale_times_what_the_good_one_adds():
    schedule = sd.VPLinear()
    weak = sd.targets.GaussianMixture(WEIGHTS, MEANS, (0.5, 0.7)).denoiser(schedule)
    good = as_network(sd.EDMPrediction(), schedule)
    x = points(schedule, 0.4)
    output = sd.guidance.Autoguidance(_Labelled(good, LABEL), weak, 2.5)(0.4, x)
    expected = weak(0.4, x)[1] + 2.5 * (good(0.4, x, label=LABEL)[1] - weak(0.4, x)[1])
    assert_close(output[1], expected, rtol=1e-10, atol=1e-10)
    assert output.rows == 2 * len(x)
    with pytest.raises(ValueError, match=r"weak\.on\(schedule\)"):
        sd.guidance.Autoguidance(good, CLASSES[0].denoiser(sd.EDM()), 2.0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Labelled:
    """A denoiser whose label is always the same."""

    denoiser: object
    label: torch.Tensor

    @property
    def schedule(self):
        return self.denoiser.schedule

    def __call__(self, t, x):
        return self.denoiser(t, x, label=self.label)


@pytest.mark.parametrize("of", [sd.DataPrediction(), sd.NoisePrediction(), sd.VPrediction()])
def test_a_rescaled_output_has_the_standard_deviation_of_the_unguided_one(of):
    schedule = sd.VPLinear()
    images = sd.targets.Gaussian(torch.zeros(3, 8, 8, dtype=torch.float64), 0.3).denoiser(schedule)
    model = _Scaled(images)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    guided = sd.ClassifierFree(model, 5.0, null={"by": 0.5})
    cond = {"by": torch.full((4,), 1.5, dtype=torch.float64)}
    plain, strong = model(0.4, x, **cond), guided(0.4, x, **cond)

    def output(pair):
        a, b = of.row(schedule, 0.4)
        return pair[0] * a + pair[1] * b

    for phi in (0.0, 0.7, 1.0):
        found = output(sd.guidance.Rescaled(guided, phi, of)(0.4, x, **cond))
        ratio = output(plain).flatten(1).std(1) / output(strong).flatten(1).std(1)
        factor = (phi * ratio + 1 - phi).reshape(-1, 1, 1, 1)
        assert_close(found, output(strong) * factor, rtol=1e-9, atol=1e-9)
    assert sd.guidance.Rescaled(guided, 1.0, of)(0.4, x, **cond).rows == 8


@dataclasses.dataclass(frozen=True, eq=False)
class _Scaled:
    """A denoiser whose data is multiplied by a condition."""

    denoiser: object

    @property
    def schedule(self):
        return self.denoiser.schedule

    def __call__(self, t, x, *, by):
        data = self.denoiser(t, x)[0] * by.reshape(-1, 1, 1, 1)
        return data, (x - data * float(self.schedule.alpha(t))) / float(self.schedule.sigma(t))


# --- an interval of noise levels


def test_guidance_in_an_interval_holds_there_and_nowhere_else():
    schedule = sd.VPLinear()
    guided = sd.ClassifierFree(TwoClasses(schedule), 3.0, null={"label": NONE})
    limited = sd.guidance.GuidanceInterval.in_sigma(guided, 0.2, 2.0)
    for sigma, inside in ((0.19, False), (0.21, True), (1.99, True), (2.01, False)):
        t = schedule.time_at(-math.log(sigma))
        x = points(schedule, t)
        output = limited(t, x, label=LABEL)
        assert_close(output[1], (guided if inside else TwoClasses(schedule))(t, x, label=LABEL)[1])
        assert output.rows == len(x) * (2 if inside else 1)
    at = [schedule.time_at(-math.log(s)) for s in (0.2, 2.0)]
    assert sorted(limited.discontinuities) == pytest.approx(at)
    assert limited(at[1], x, label=LABEL).rows == 2 * len(x) and limited(at[0], x, label=LABEL).rows == len(x)
    assert sd.guidance.GuidanceInterval(guided).discontinuities == () and sd.guidance.GuidanceInterval(guided)(
        0.5, x, label=LABEL
    ).rows == 2 * len(x)
    assert sd.guidance.GuidanceInterval(guided, low=50.0, high=60.0)(0.5, x, label=LABEL).rows == len(x)
    assert sd.guidance.GuidanceInterval(guided, low=-60.0, high=-50.0)(0.5, x, label=LABEL).rows == len(x)


def test_samples_at_different_times_are_evaluated_as_one_by_one():
    schedule = sd.VPLinear()
    guided = sd.ClassifierFree(as_network(sd.NoisePrediction(), schedule), 3.0, null={"label": NONE})
    limited = sd.guidance.Rescaled(sd.guidance.GuidanceInterval.in_sigma(guided, 0.2, 2.0), 0.5, sd.NoisePrediction())
    times = np.array([0.02, 0.1, 0.3, 0.5, 0.8, 1.0])
    x = points(schedule, 0.5)
    output = limited(times, x, label=LABEL)
    inside = 0
    for i, t in enumerate(times.tolist()):
        alone = limited(t, x[i : i + 1], label=LABEL[i : i + 1])
        inside += alone.rows - 1
        for part in (0, 1):
            assert_close(output[part][i : i + 1], alone[part], rtol=1e-10, atol=1e-10)
    assert 0 < inside < len(x) and output.rows == len(x) + inside


@pytest.mark.parametrize("solver", ["exponential-adams:rtol=1e-5", "exp-rk43:rtol=1e-6", "rk45:rtol=1e-7,atol=1e-7"])
def test_adaptive_solvers_step_to_the_ends_of_the_interval_and_agree(solver):
    schedule = sd.VPLinear()
    guided = sd.ClassifierFree(TwoClasses(schedule), 2.0, null={"label": NONE})
    flow = sd.ProbabilityFlow(sd.guidance.GuidanceInterval.in_sigma(guided, 0.3, 3.0))
    x = sd.prior(schedule, (6, 2), dtype=torch.float64)
    ends = sorted([schedule.t_start, *flow.denoiser.discontinuities, schedule.t_end], reverse=True)
    # one segment at a time, so that no step meets a jump whatever the solver knows of it
    expected, inner = x, 1e-12
    for first, last in itertools.pairwise(ends):
        segment = sd.sample(
            flow,
            solver=sd.RK45(1e-9, 1e-9),
            x=expected,
            t_start=first - inner,
            t_end=last + inner,
            cond={"label": LABEL},
        )
        expected = segment.check().x
    found = sd.sample(flow, solver=solver, x=x, cond={"label": LABEL}).check()
    assert (found.x - expected).abs().max() < 2e-4
    assert len(x) * found.calls >= found.evaluations.sum()
    assert found.evaluations.sum() < found.rows < 2 * found.evaluations.sum()


# --- clipping


def test_clipped_data_and_the_noise_that_agrees_with_it():
    schedule, t = sd.VPLinear(), 0.4
    model = WHOLE.denoiser(schedule)
    x = points(schedule, t) * 2
    data = model(t, x)[0]
    clipped = sd.guidance.Clipped(model, 0.5)(t, x)
    assert_close(clipped[0], data.clamp(-0.5, 0.5), rtol=1e-12, atol=1e-12)
    agrees_with_the_state(clipped, schedule, t, x)
    s = data.abs().amax(1, keepdim=True).clamp(min=0.5)
    dynamic = sd.guidance.DynamicThreshold(model, quantile=1.0, bound=0.5)(t, x)
    assert_close(dynamic[0], data * 0.5 / s, rtol=1e-12, atol=1e-12)
    agrees_with_the_state(dynamic, schedule, t, x)


def test_the_threshold_is_the_quantile_of_each_sample():
    schedule, t = sd.VPLinear(), 0.1
    model = sd.targets.Gaussian(torch.zeros(10, 10, dtype=torch.float64), 4.0).denoiser(schedule)
    x = sd.targets.Gaussian(torch.zeros(10, 10, dtype=torch.float64), 4.0).at(schedule, t).sample(3)
    sizes = model(t, x)[0].flatten(1).abs().sort(1).values
    s = sizes[:, 89].reshape(3, 1, 1)
    data = model(t, x)[0]
    assert_close(
        sd.guidance.DynamicThreshold(model, quantile=0.9)(t, x)[0], data.clamp(-s, s) / s, rtol=1e-12, atol=1e-12
    )


def test_what_clips_is_recorded_and_order_tools_warn_of_it():
    schedule = sd.VPLinear()
    guided = sd.guidance.Clipped(sd.ClassifierFree(TwoClasses(schedule), 2.0, null={"label": NONE}), 0.8)
    assert guided.kinks == ("Clipped",) and guided.denoiser.kinks == ()
    assert sd.guidance.GuidanceInterval(sd.guidance.DynamicThreshold(guided), low=0.0).kinks == (
        "DynamicThreshold",
        "Clipped",
    )
    flow = sd.ProbabilityFlow(guided)
    solution = sd.sample(flow, (6, 2), "ddim", steps=4, cond={"label": LABEL}, dtype=torch.float64)
    said = solution.settings["denoiser"]
    assert (said["type"], said["bound"], said["denoiser"]["scale"]) == ("Clipped", 0.8, 2.0)
    with pytest.warns(UserWarning, match="Clipped is not smooth"):
        sd.study.work_precision(
            flow, ["ddim"], [4], x=sd.prior(schedule, (2, 2), dtype=torch.float64), cond={"label": LABEL[:2]},
            reference=torch.zeros(2, 2), progress=False,
        )  # fmt: skip
    with pytest.warns(UserWarning, match="Clipped is not smooth"):
        verify.order(
            "ddim", guidance=lambda model: sd.guidance.Clipped(model, 0.5), schedule=schedule, steps=(8, 12, 16, 24)
        )


def test_a_solver_keeps_its_order_on_a_guided_equation_and_loses_it_where_that_jumps():
    def towards(model):
        return sd.guidance.Autoguidance(
            model, sd.targets.Gaussian(verify.GAUSSIAN.mean + 0.3, 1.0).denoiser(model.schedule), 1.5
        )

    options = {"target": verify.GAUSSIAN, "schedule": sd.VPLinear()}
    smooth = verify.order("dpm++2m", guidance=towards, **options)
    assert smooth.ok, smooth
    with pytest.warns(UserWarning, match="jumps at t ="):
        jumping = verify.order(
            "dpm++2m", guidance=lambda m: sd.guidance.GuidanceInterval(towards(m), low=0.1234), **options
        )
    assert not jumping.ok


# --- inverse problems


PRIOR_STD, NOISE_STD = 0.7, 0.3
PRIOR = sd.targets.Gaussian(torch.tensor([0.5, -0.2, 0.1]), PRIOR_STD**2)
OPERATOR = sd.guidance.Matrix(torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64), (3,))
OBSERVED = torch.tensor([[0.8, -0.6]], dtype=torch.float64)


def posterior(operator=OPERATOR, noise_std=NOISE_STD, observed=OBSERVED):
    """The distribution of the data given the measurement, by Bayes' rule for Gaussians."""
    a = operator.matrix
    precision = a.T @ a / noise_std**2 + torch.eye(3, dtype=torch.float64) / PRIOR_STD**2
    covariance = precision.inverse()
    mean = covariance @ (a.T @ observed[0] / noise_std**2 + PRIOR.mean.double() / PRIOR_STD**2)
    return sd.targets.Gaussian(mean, (covariance + covariance.T) / 2)


@over_schedules
def test_pseudo_inverse_guidance_is_the_exact_posterior_of_isotropic_gaussian_data(schedule):
    guided = sd.guidance.PiGDM(PRIOR.denoiser(schedule), OPERATOR, NOISE_STD, data_std=PRIOR_STD)
    exact = posterior().denoiser(schedule)
    for log_snr in (-2.0, 0.0, 2.5):
        t = schedule.time_at(log_snr)
        x = PRIOR.at(schedule, t).sample(5, seed=1)
        output = guided(t, x, observed=sd.shared(OBSERVED))
        for part in (0, 1):
            assert_close(output[part], exact(t, x)[part], rtol=1e-8, atol=1e-8)
        assert (output.rows, output.vjps) == (5, 1)
    x = sd.prior(schedule, (200, 3), dtype=torch.float64)
    options = {"x": x, "cond": {"observed": sd.shared(OBSERVED)}}
    solution = sd.sample(sd.ProbabilityFlow(guided), solver="exponential-adams:rtol=1e-5", **options).check()
    assert_close(
        solution.x, sd.sample(sd.ProbabilityFlow(exact), solver="exponential-adams:rtol=1e-5", x=x).x, rtol=0, atol=1e-5
    )
    assert solution.vjps == solution.calls


@torch.no_grad()
def test_dps_is_the_posterior_that_takes_the_denoised_sample_for_the_data():
    schedule = sd.VPLinear()
    guided = sd.guidance.DPS(PRIOR.denoiser(schedule), OPERATOR, NOISE_STD)
    exact, a = posterior().denoiser(schedule), OPERATOR.matrix
    errors = []
    for t in (0.5, 0.2, 0.05, 0.01):
        x = PRIOR.at(schedule, t).sample(5, seed=1)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        plain, output = PRIOR.denoiser(schedule)(t, x), guided(t, x, observed=sd.shared(OBSERVED))
        slope = alpha * PRIOR_STD**2 / ((alpha * PRIOR_STD) ** 2 + sigma**2)
        gradient = slope * (OBSERVED - plain[0] @ a.T) @ a / NOISE_STD**2
        assert_close(output[1], plain[1] - sigma * gradient, rtol=1e-9, atol=1e-9)
        agrees_with_the_state(output, schedule, t, x)
        errors.append(float((output[0] - exact(t, x)[0]).abs().max()))
    # it differs, by the variance of the data given the state, which falls like sigma^2
    assert errors[0] > 0.1 and all(b < a for a, b in itertools.pairwise(errors)) and errors[-1] < 1e-3


def test_inpainting_without_noise_keeps_what_is_known_and_samples_the_rest_given_it():
    schedule = sd.VPLinear()
    known = torch.tensor([True, False, True])
    guided = sd.guidance.PiGDM(PRIOR.denoiser(schedule), sd.guidance.Mask(known), 0.0, data_std=PRIOR_STD)
    observed = torch.tensor([[0.9, 0.0, -0.4]], dtype=torch.float64)
    x = sd.sample(
        sd.ProbabilityFlow(guided), (500, 3), "unipc-3", steps=40, cond={"observed": sd.shared(observed)},
        dtype=torch.float64, terminal="denoise",
    ).check().x  # fmt: skip
    assert_close(x[:, known], observed[:, known].expand(500, 2), rtol=0, atol=1e-9)
    free = sd.sample(
        sd.ProbabilityFlow(PRIOR.denoiser(schedule)), (500, 3), "unipc-3", steps=40, dtype=torch.float64,
        terminal="denoise",
    ).x  # fmt: skip
    # independent entries: what is not known is as it would be alone
    assert_close(x[:, 1], free[:, 1], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (sd.guidance.Mask(torch.tensor([[True, False], [False, True]])), (1, 2, 2)),
        (sd.guidance.AveragePooling(2), (2, 4, 6)),
        (
            sd.guidance.Matrix(
                torch.tensor([[1.0, 2.0, 0.5], [2.0, 4.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]), (3,)
            ),
            (3,),
        ),
        (sd.guidance.Matrix(torch.tensor([[1.0, 2.0, 0.5, -1.0]]), (2, 2)), (2, 2)),
    ],
)
def test_an_operator_has_its_adjoint_and_solves_its_normal_equations(operator, shape):
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = operator(torch.randn_like(x))
    assert_close((operator(x) * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1))
    signal = np.array([0.5, 1.0, 2.0])
    for noise in (0.3, 0.0):
        solved = operator.solve(y, signal, noise)
        back = operator(operator.adjoint(solved)) * torch.from_numpy(signal).reshape(-1, *(1,) * (y.ndim - 1))
        assert_close(back + noise * solved, y, rtol=1e-8, atol=1e-8)


# --- one equation, whatever the solver


def example(cls, model, n=6):
    """A guidance of a class: its fields by their names, those that are not known here by their defaults."""
    known = {
        "weak": _Labelled(model, torch.full((n,), NONE)),
        "scale": 1.5,
        "null": {"label": NONE},
        "log_prob": lambda x, t: -(x - 0.5).square().sum(1) / (1 + t),
        "operator": sd.guidance.Mask(torch.tensor([True, False])),
        "noise_std": 0.5,
        "bound": 0.8,
        "low": -3.0,
    }
    options = {f.name: known[f.name] for f in dataclasses.fields(cls) if f.name in known}
    try:
        return cls(model, **options)
    except (TypeError, ValueError):  # only a guidance will do
        return cls(sd.ClassifierFree(model, 2.0, null={"label": NONE}), **options)


@torch.no_grad()
@pytest.mark.parametrize("cls", GUIDANCES, ids=lambda cls: cls.__name__)
def test_every_guidance_is_a_denoiser(cls):
    schedule = sd.VPLinear()

    def posed(rows):
        """A guidance and the conditions of some of the samples."""
        guided, cond = example(cls, TwoClasses(schedule), len(LABEL[rows])), {"label": LABEL[rows]}
        if "operator" in cls.__dataclass_fields__:
            cond["observed"] = sd.shared(torch.tensor([[0.3, 0.0]]))
        if cls is sd.guidance.Autoguidance:
            return dataclasses.replace(guided, denoiser=_Labelled(TwoClasses(schedule), LABEL[rows])), {}
        return guided, cond

    guided, cond = posed(slice(None))
    x = points(schedule, 0.5)
    one, many = guided(0.5, x, **cond), guided(np.full(6, 0.5), x, **cond)
    for part in (0, 1):
        assert_close(one[part], many[part], rtol=1e-9, atol=1e-9)
        # no sample knows of another
        for i in range(len(x)):
            alone, its_own = posed(slice(i, i + 1))
            assert_close(alone(0.5, x[i : i + 1], **its_own)[part], one[part][i : i + 1], rtol=1e-9, atol=1e-9)
        assert not one[part].requires_grad
    agrees_with_the_state(one, schedule, 0.5, x)
    given = Conditions.of(cond, len(x))
    both = guided.pair(0.5, x, given)
    assert_close(both[0][1], one[1], rtol=1e-9, atol=1e-9)
    assert_close(guided.plain(0.5, x, given)[1], both[1][1], rtol=1e-9, atol=1e-9)
    assert (one[1] - both[1][1]).abs().max() > 1e-3, "it guides"
    # in another precision, on another schedule, and by solvers of both problems
    assert guided(0.5, x.float(), **cond)[0].dtype is torch.float32
    elsewhere = guided.on(sd.EDM())
    t = sd.EDM().time_at(schedule.log_snr(0.5))
    assert_close(elsewhere(t, x / schedule.alpha(0.5), **cond)[0], one[0], rtol=1e-8, atol=1e-8)
    for problem, solver in ((sd.ProbabilityFlow(guided), "dpm++2m"), (sd.ReverseSDE(guided), "sde-dpm++2m")):
        solution = sd.sample(problem, solver=solver, x=x, steps=5, cond=cond).check()
        assert solution.rows >= 6 * solution.calls
        assert solution.settings["denoiser"]["type"] == cls.__name__
        assert len(json.dumps(solution.settings, allow_nan=False)) < 5000
    # around a network that is itself carried over from another schedule
    carried = guided.denoiser
    inner = (
        carried if isinstance(carried, sd.guidance.Guidance) else Rescheduled(Rescheduled(carried, sd.EDM()), schedule)
    )
    assert_close(dataclasses.replace(guided, denoiser=inner)(0.5, x, **cond)[0], one[0], rtol=1e-8, atol=1e-8)


def test_gradients_flow_through_a_guided_run():
    x = points(sd.VPLinear(), 1.0)[:2].requires_grad_()
    known = sd.guidance.Mask(torch.tensor([True, False]))
    guided = sd.guidance.PiGDM(WHOLE.denoiser(sd.VPLinear()), known, 0.5)
    cond = {"observed": sd.shared(torch.tensor([[0.3, 0.0]]))}

    def run(start):
        return sd.sample(sd.ProbabilityFlow(guided), solver="ddim", x=start, steps=3, cond=cond, grad=True).x.sum()

    (slope,) = torch.autograd.grad(run(x), x)
    h = torch.zeros_like(x)
    h[0, 1] = 1e-5
    assert float(slope[0, 1]) == pytest.approx(float((run(x + h) - run(x - h)).detach()) / 2e-5, rel=1e-6)


def test_negative_conditions_come_with_the_samples_and_follow_them():
    model = TwoClasses()
    x = sd.prior(sd.VPLinear(), (6, 2), dtype=torch.float64)
    negative = torch.tensor([1, 0, NONE, NONE, 1, 0])
    guided, cond = sd.ClassifierFree(model, 2.0, null={"label": 0}), {"label": LABEL, "negative_label": negative}
    whole = sd.sample(sd.ProbabilityFlow(guided), solver="exponential-adams", x=x, cond=cond).check()
    for i in range(6):
        rows = {key: value[i : i + 1] for key, value in cond.items()}
        alone = sd.sample(sd.ProbabilityFlow(guided), solver="exponential-adams", x=x[i : i + 1], cond=rows)
        assert_close(alone.x, whole.x[i : i + 1], rtol=1e-9, atol=1e-9)
    output = guided(0.5, x, **cond)
    towards, away = model(0.5, x, label=LABEL), model(0.5, x, label=negative)
    assert_close(output[0], away[0] + 2.0 * (towards[0] - away[0]), rtol=1e-10, atol=1e-10)


def test_a_trained_network_is_guided_by_the_label_that_stands_for_none():
    trained = sd.load("digits-unet")
    label = torch.arange(4)
    guided = sd.ClassifierFree(trained.denoiser, 2.0, null=trained.null)
    x = sd.prior(trained.schedule, (4, *trained.shape))
    output = guided(0.5, x, label=label)
    towards, away = trained.denoiser(0.5, x, label=label), trained.denoiser(0.5, x)
    assert_close(output[0], away[0] + 2.0 * (towards[0] - away[0]), rtol=0, atol=2e-4)
    assert output.rows == 8


def measured(net=lambda x, t: x):
    model = sd.Denoiser(net, sd.VPLinear(), sd.NoisePrediction())
    return sd.guidance.PiGDM(model, sd.guidance.Mask(torch.tensor([True, False])))(0.5, X, observed=X)


def blocked():
    """A network that lets no gradient through: its Jacobian would be left out silently."""
    return measured(torch.no_grad()(lambda x, t: x * 0.9))


class _Flat:
    """A denoiser whose data would broadcast."""

    schedule = sd.VPLinear()

    def __call__(self, t, x):
        return x[:, :1], x


MODEL = TwoClasses()
X = points(sd.VPLinear(), 0.5)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (lambda: sd.ClassifierFree(MODEL, math.nan), "number is wanted"),
        (lambda: sd.ClassifierFree(MODEL, 2.0)(0.5, X, label=LABEL), "given the same .conditions: label.: give null="),
        (
            lambda: sd.ClassifierFree(MODEL, 2.0)(0.5, X, negative_label=LABEL),
            "negative_label is given, but label is not",
        ),
        (
            lambda: sd.ClassifierFree(MODEL, 2.0, {"label": torch.zeros(3)})(0.5, X, label=LABEL),
            r"its negative Tensor of shape \(3,\)",
        ),
        (
            lambda: sd.ClassifierFree(MODEL, 2.0)(0.5, X, label=LABEL, negative_label=LABEL[:3]),
            r"of shape \(3,\) for 6 samples.*sd\.shared",
        ),
        (lambda: sd.ClassifierFree(MODEL, 2.0, {"label": None})(0.5, X, label=LABEL), "its negative NoneType"),
        (
            lambda: sd.ClassifierFree(MODEL, 2.0, {"lable": 2})(0.5, X, label=LABEL),
            "null has lable, which is not among",
        ),
        (lambda: sd.ClassifierFree(MODEL, 2.0, {"label": 2})(0.5, X), "null has label, which is not among"),
        (lambda: sd.ClassifierFree(None, 2.0), "wants a denoiser, got NoneType"),
        (lambda: sd.guidance.Clipped(3), "wants a denoiser, got int"),
        (lambda: sd.guidance.PiGDM(MODEL, X), "give an Operator"),
        (lambda: sd.guidance.DPS(MODEL, OPERATOR, 0.1, math.nan), "number is wanted"),
        (lambda: sd.guidance.Matrix(torch.ones(1, 2, dtype=torch.int64), (2,)), "give floats"),
        (lambda: sd.guidance.Mask(torch.tensor([True, False]))(torch.zeros(2, 3)), "a mask of shape"),
        (lambda: blocked(), "no gradient with respect to the state"),
        (lambda: torch.inference_mode()(measured)(), "not inference_mode"),
        (lambda: sd.guidance.Clipped(_Flat())(0.5, X), r"returned torch.float64 of shape \(6, 1\)"),
        (lambda: sd.ClassifierFree(MODEL, 2.0, {"label": 2})(0.5, X, label=1), "a row for each sample"),
        (lambda: sd.guidance.Rescaled(MODEL), "only a guidance can be rescaled"),
        (lambda: sd.guidance.Rescaled(sd.ClassifierFree(MODEL, 2.0), 1.5), "phi = 1.5"),
        (lambda: sd.guidance.GuidanceInterval(MODEL), "only a guidance can be limited"),
        (lambda: sd.guidance.GuidanceInterval(sd.ClassifierFree(MODEL, 2.0), 1.0, 1.0), "low < high"),
        (lambda: sd.guidance.GuidanceInterval.in_sigma(sd.ClassifierFree(MODEL, 2.0), -1.0, 1.0), "0 <= low < high"),
        (lambda: sd.guidance.ClassifierGuidance(MODEL, 3), "log_prob must be a callable"),
        (
            lambda: sd.guidance.ClassifierGuidance(WHOLE.denoiser(sd.VPLinear()), lambda x, t: x)(0.5, X),
            "one number a sample",
        ),
        (
            lambda: sd.guidance.ClassifierGuidance(WHOLE.denoiser(sd.VPLinear()), lambda x, t: t)(0.5, X),
            "does not depend on x",
        ),
        (lambda: sd.guidance.Clipped(MODEL, 0.0), "bound = 0"),
        (lambda: sd.guidance.DynamicThreshold(MODEL, quantile=0.0), "quantile = 0"),
        (lambda: sd.guidance.DPS(MODEL, OPERATOR, 0.0), "noise_std = 0"),
        (lambda: sd.guidance.PiGDM(MODEL, OPERATOR, -1.0), "noise_std = -1"),
        (lambda: sd.guidance.PiGDM(MODEL, OPERATOR, data_std=0.0), "data_std = 0"),
        (lambda: sd.guidance.PiGDM(MODEL, OPERATOR)(0.5, X, label=LABEL), "what was measured is not given"),
        (
            lambda: sd.guidance.PiGDM(MODEL, sd.guidance.Mask(torch.tensor([True, False])))(
                0.5, X, label=LABEL, observed=X[:, :1]
            ),
            r"observed has shape \(6, 1\)",
        ),
        (lambda: sd.guidance.Mask(torch.ones(2)), "boolean"),
        (lambda: sd.guidance.AveragePooling(0), "factor = 0"),
        (lambda: sd.guidance.AveragePooling(3)(torch.zeros(1, 1, 4, 4)), "do not fill"),
        (lambda: sd.guidance.Matrix(torch.zeros(2, 3), (2, 2)), "4 columns"),
        (
            lambda: sd.guidance.PiGDM(
                sd.targets.Gaussian().denoiser(sd.RectifiedFlow()), sd.guidance.Mask(torch.tensor([True, False]))
            )(1.0, X, observed=X),
            "where alpha is 0",
        ),
    ],
)
def test_a_guidance_that_makes_no_sense_is_refused_with_the_way_out(fault, word):
    with pytest.raises((ValueError, TypeError), match=word):
        fault()


def test_what_lies_elsewhere_or_has_another_type_is_named():
    net = torch.nn.Linear(2, 2)
    model = sd.Denoiser(lambda x, t, **c: x, sd.VPLinear(), sd.NoisePrediction())
    assert model(0.5, X)[0].dtype is X.dtype

    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = net

        def forward(self, x, t, context):
            return self.layer(x) + self.layer(context)

    model = sd.Denoiser(Told(), sd.VPLinear(), sd.NoisePrediction())
    with pytest.raises(ValueError, match=r"cond\['context'\] is of torch.float64, the network of torch.float32"):
        model(0.5, X.float(), context=X)
    with pytest.raises(ValueError, match="the state is on meta, the network on cpu"):
        model(0.5, X.float().to("meta"), context=X.float())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(0.5, X.float(), context=torch.zeros(6, 3))


def test_the_weak_order_of_a_guided_equation_is_not_measured():
    with pytest.raises(ValueError, match="orders are of the flow, at eta = 0"):
        verify.order("ddpm", guidance=sd.guidance.Clipped)


# --- what is shared among samples, what lies at an end, what is nested


class _Tokens(torch.nn.Module):
    """A network given a table that is the same for all samples, and one row each."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def forward(self, x, t, tokens, label):
        self.sizes.add(tuple(tokens.shape))
        return x * 0.5 + tokens.sum() * 0.1 + label[:, None] * 0.2


@pytest.mark.parametrize("length", range(1, 7))
def test_a_shared_condition_stays_shared_whatever_its_length(length):
    sizes = set()
    model = sd.Denoiser(_Tokens(sizes), sd.VPLinear(), sd.NoisePrediction())
    guided = sd.guidance.GuidanceInterval.in_sigma(sd.ClassifierFree(model, 2.0, null={"label": 0.0}), 0.3, 3.0)
    x = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)[:, None]
    cond = {"tokens": sd.shared(torch.arange(length)[:, None] / 10.0), "label": torch.arange(7.0)}
    flow = sd.ProbabilityFlow(guided)
    whole = sd.sample(flow, solver="rk45", x=x, cond=cond).check()
    assert sizes == {(length, 1)}
    batches = sd.sample(flow, solver="rk45", x=x, cond=cond, batch_size=length)
    assert_close(batches.x, whole.x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["rk45", "exponential-adams", "heun"])
def test_a_run_that_ends_or_begins_on_a_jump_stays_on_its_own_side(solver):
    guided = sd.guidance.GuidanceInterval.in_sigma(sd.ClassifierFree(TwoClasses(), 3.0, null={"label": NONE}), 0.3, 3.0)
    flow, (low, high) = sd.ProbabilityFlow(guided), sorted(guided.discontinuities)
    steps = {} if solver != "heun" else {"steps": 8}
    x = sd.prior(sd.VPLinear(), (6, 2), dtype=torch.float64)
    for first, last in ((1.0, high), (high, low), (low, 1e-3)):
        on, beside = (
            sd.sample(
                flow, solver=solver, x=x, t_start=first - by, t_end=last + by, cond={"label": LABEL}, **steps
            ).check()
            for by in (0.0, 1e-9)
        )
        assert_close(on.x, beside.x, rtol=0, atol=1e-6)
        assert on.rows == beside.rows


def test_jumps_and_kinks_are_known_on_another_schedule_and_of_a_weak_network():
    schedule = sd.VPLinear()
    guided = sd.ClassifierFree(TwoClasses(), 3.0, null={"label": NONE})
    limited = sd.guidance.GuidanceInterval.in_sigma(guided, 0.001, 2.0)
    elsewhere = limited.on(sd.EDM())
    assert elsewhere.discontinuities == pytest.approx((2.0,)), "0.001 lies below the least sigma"
    assert sd.guidance.Clipped(guided).on(sd.EDM()).kinks == ("Clipped",)
    weak = sd.guidance.GuidanceInterval(
        sd.guidance.Clipped(sd.ClassifierFree(TwoClasses(), 2.0, null={"label": NONE})), low=0.0
    )
    auto = sd.guidance.Autoguidance(TwoClasses(), weak, 2.0)
    assert auto.kinks == ("Clipped",) and auto.discontinuities == weak.discontinuities
    narrow = sd.guidance.Autoguidance(TwoClasses(schedule), Rescheduled(TwoClasses(sd.EDM(0.1, 10.0)), schedule), 2.0)
    with pytest.raises(ValueError, match="start and end the run inside"):
        sd.sample(sd.ProbabilityFlow(narrow), (6, 2), "ddim", steps=2, cond={"label": LABEL}, dtype=torch.float64)
    with pytest.raises(ValueError, match="start and end the run inside"):
        sd.sample(sd.ProbabilityFlow(sd.guidance.Clipped(narrow)), (6, 2), "ddim", steps=2, cond={"label": LABEL})


def test_scales_multiply_the_gradient_and_counts_add_up_when_nested():
    schedule, x = sd.VPLinear(), points(sd.VPLinear(), 0.4)
    exact, known = WHOLE.denoiser(schedule), sd.guidance.Mask(torch.tensor([True, False]))
    y = torch.tensor([[0.3, 0.0]], dtype=torch.float64)
    plain = exact(0.4, x)[1]
    for make in (
        lambda s: sd.guidance.DPS(exact, known, 0.5, s),
        lambda s: sd.guidance.PiGDM(exact, known, 0.5, scale=s),
    ):
        once, thrice = (make(s)(0.4, x, observed=sd.shared(y))[1] - plain for s in (1.0, 3.0))
        assert_close(thrice, 3 * once)
    times = []
    by_time = sd.guidance.ClassifierGuidance(
        exact, lambda x, t: times.append(t) or -x.square().sum(1), time=lambda t: 999 * t
    )
    by_time(0.4, x)
    assert times[0].tolist() == pytest.approx([399.6] * 6)
    inner = sd.guidance.PiGDM(TwoClasses(), known, 0.5)
    nested = sd.guidance.Clipped(sd.ClassifierFree(inner, 2.0, null={"label": NONE}), 3.0)
    output = nested(0.4, x, label=LABEL, observed=y.expand(6, 2))
    assert (output.rows, output.vjps) == (12, 1)


def test_what_does_not_clip_changes_nothing_down_to_the_last_digits():
    schedule = sd.EDM(1e-3, 80.0)
    model = sd.Denoiser(lambda x, t: torch.sin(x), schedule, sd.NoisePrediction())
    x = torch.linspace(-1, 1, 12).reshape(6, 2)
    t = 1e-3
    assert_close(sd.guidance.Clipped(model, 100.0)(t, x)[1], model(t, x)[1], rtol=0, atol=1e-6)
    guided = sd.ClassifierFree(
        sd.Denoiser(lambda x, t, by: torch.sin(x) * by[:, None], schedule, sd.NoisePrediction()), 2.0, {"by": 0.5}
    )
    cond = {"by": torch.ones(6)}
    assert_close(sd.guidance.Rescaled(guided, 0.0)(t, x, **cond)[1], guided(t, x, **cond)[1], rtol=0, atol=1e-6)
    flow = sd.ProbabilityFlow(sd.guidance.Clipped(sd.targets.Gaussian((0.5, 0.1), 0.3).denoiser(sd.RectifiedFlow())))
    sd.sample(flow, (3, 2), "euler", steps=4, t_end=0.0, spacing="time").check()


def test_a_matrix_that_lost_its_rank_to_rounding_has_a_least_norm_solution():
    a = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.7, -0.3]])
    operator = sd.guidance.Matrix(torch.cat([a, (a[0] * 0.3 + a[1] / 7)[None]]), (3,))
    y = operator(torch.ones(2, 3))
    solved = operator.solve(y, 1.0, 0.0)
    assert solved.abs().max() < 10
    assert_close(operator(operator.adjoint(solved)), y, rtol=1e-4, atol=1e-4)


def test_no_network_is_kept_alive_by_a_measured_order():
    class Weak:
        schedule = sd.VPLinear()

        def __call__(self, t, x):
            return sd.targets.Gaussian(verify.GAUSSIAN.mean, 1.0).denoiser(self.schedule)(t, x)

    weak = Weak()
    verify.order("ddim", guidance=lambda m, weak=weak: sd.guidance.Autoguidance(m, weak, 1.5), target=verify.GAUSSIAN,
                 schedule=sd.VPLinear(), steps=(4, 6, 8, 12))  # fmt: skip
    alive = weakref.ref(weak)
    del weak
    gc.collect()
    assert alive() is None
