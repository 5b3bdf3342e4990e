"""Whatever a network predicts, its data and noise are the same."""

import numpy as np
import pytest
import torch
from discovery import OURS, PREDICTIONS, SCHEDULES, engines_by_day, examples, label, within
from hypothesis import given
from hypothesis import strategies as st

import scorediff as sd


def perfect_network(prediction, schedule, target, dtype=torch.float64):
    """A network that outputs what `prediction` asks for, from the exact data and noise of `target`."""
    exact = target.denoiser(schedule)

    def net(x, t):
        # undo the input scale; times come as a tensor of shape (B,)
        time = t.to(torch.float64).numpy()
        scale = np.broadcast_to(np.asarray(prediction.input_scale(schedule, time), dtype=float), time.shape)
        data, noise = exact(time, x / torch.from_numpy(scale.copy()).reshape(-1, 1))
        a, b = (np.broadcast_to(np.asarray(c, dtype=float), time.shape) for c in prediction.row(schedule, time))
        return torch.from_numpy(a.copy()).reshape(-1, 1) * data + torch.from_numpy(b.copy()).reshape(-1, 1) * noise

    return sd.Denoiser(net, schedule, prediction)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=label)
@examples(5)
@given(log_snr=st.floats(-3, 3), seed=st.integers(0, 100))
def test_the_data_and_noise_of_a_network_are_those_it_was_made_of(prediction, schedule, log_snr, seed):
    target = sd.targets.Gaussian(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0]))
    t = schedule.time_at(within(schedule, log_snr))
    x = target.at(schedule, t).sample(3, seed=seed)
    data, noise = perfect_network(prediction, schedule, target)(t, x)
    exact_data, exact_noise = target.denoiser(schedule)(t, x)
    torch.testing.assert_close(data, exact_data, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(noise, exact_noise, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
def test_each_prediction_is_what_its_paper_says(schedule):
    t = schedule.time_at(0.7)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0, eps = 1.3, -0.4
    s, y, c = sigma / alpha, x0 + sigma / alpha * eps, 0.5
    c_skip, c_out = c**2 / (s**2 + c**2), s * c / np.sqrt(s**2 + c**2)
    written_out = {
        sd.NoisePrediction(): eps,
        sd.DataPrediction(): x0,
        sd.VPrediction(): alpha * eps - sigma * x0,
        sd.predictions.ScorePrediction(): -eps / sigma,
        sd.FlowPrediction(): eps - x0,
        sd.predictions.Negated(sd.VPrediction()): sigma * x0 - alpha * eps,
        sd.EDMPrediction(data_std=c): (x0 - c_skip * y) / c_out,
    }
    for prediction, output in written_out.items():
        a, b = prediction.row(schedule, t)
        assert a * x0 + b * eps == pytest.approx(output, rel=1e-12), prediction
    x = alpha * x0 + sigma * eps
    assert sd.EDMPrediction(c).input_scale(schedule, t) * x == pytest.approx(y / np.sqrt(s**2 + c**2), rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=label)
def test_data_and_noise_recombine_to_the_state(prediction, schedule):
    model = sd.Denoiser(lambda x, t: torch.sin(x), schedule, prediction)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    t = np.array([schedule.time_at(value) for value in (-2.0, 0.1, 2.0)])
    data, noise = model(t, x)
    again = data * torch.from_numpy(schedule.alpha(t))[:, None] + noise * torch.from_numpy(schedule.sigma(t))[:, None]
    torch.testing.assert_close(again, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=label)
def test_one_time_per_sample_is_the_same_as_one_at_a_time(prediction):
    schedule = sd.VPCosine()
    model = sd.Denoiser(lambda x, t: torch.tanh(x) * t[:, None], schedule, prediction)
    x, t = torch.randn(3, 2, dtype=torch.float64), np.array([0.2, 0.5, 0.9])
    together = model(t, x)
    for i in range(3):
        alone = model(float(t[i]), x[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=1e-13, atol=1e-13)


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
@pytest.mark.parametrize("solver", engines_by_day([s for s in OURS if not s.adaptive]), ids=label)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=label)
def test_a_solver_gets_the_same_samples_whatever_the_network_predicts(prediction, solver):
    # an exponential integrator takes the network's output as it is: its coefficients hold the prediction's row
    schedule, target = sd.VPCosine(), sd.targets.GaussianMixture((0.4, 0.6), ((1.0, -0.5), (-0.6, 0.8)), (0.1, 0.3))

    def samples(denoiser):
        problem = sd.ProbabilityFlow(denoiser) if sd.ProbabilityFlow in solver.solves else sd.ReverseSDE(denoiser)
        return sd.sample(problem, (5, 2), solver, steps=7, dtype=torch.float64).check().x

    exact = samples(target.denoiser(schedule))
    torch.testing.assert_close(samples(perfect_network(prediction, schedule, target)), exact, rtol=1e-9, atol=1e-9)


def test_noise_prediction_at_alpha_zero_is_refused():
    model = sd.Denoiser(lambda x, t: x, sd.RectifiedFlow(), sd.NoisePrediction())
    with pytest.raises(ValueError, match=r"NoisePrediction does not determine data and noise at t = 1"):
        model(1.0, torch.zeros(1, 2))
    sd.Denoiser(lambda x, t: x, sd.RectifiedFlow(), sd.FlowPrediction())(1.0, torch.zeros(1, 2))


def test_score_and_velocity_follow_from_data_and_noise():
    target, schedule = sd.targets.Gaussian(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])), sd.VPLinear()
    model = perfect_network(sd.VPrediction(), schedule, target)
    x = target.sample(4).requires_grad_()
    score = torch.autograd.grad(target.at(schedule, 0.4).log_prob(x).sum(), x)[0]
    torch.testing.assert_close(model.score(0.4, x), score)
    # f x - g^2 score / 2
    torch.testing.assert_close(model.velocity(0.4, x), x * schedule.f(0.4) - score * schedule.g2(0.4) / 2)


def test_a_model_on_another_schedule_sees_the_same_log_snr_and_the_rescaled_state():
    target = sd.targets.Gaussian(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0]))
    model = perfect_network(sd.NoisePrediction(), sd.VPLinear(), target).on(sd.EDM())
    x = target.at(sd.EDM(), 1.7).sample(4)
    for got, exact in zip(model(1.7, x), target.denoiser(sd.EDM())(1.7, x), strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-11, atol=1e-11)


class Recorder(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=dtype))
        self.seen = []

    def forward(self, x, t, **cond):
        self.seen.append((x.dtype, t.dtype, tuple(t.shape), t.tolist(), cond))
        return x * self.weight


@pytest.mark.parametrize(
    ("dtype", "time_dtype"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_network_is_called_in_its_own_dtype_with_times_never_in_half_precision(dtype, time_dtype):
    net = Recorder(dtype)
    data, noise = sd.Denoiser(net, sd.VPLinear(), sd.NoisePrediction())(0.5, torch.randn(3, 2), label=7)
    assert net.seen == [(dtype, time_dtype, (3,), [0.5] * 3, {"label": 7})]
    assert data.dtype == noise.dtype == torch.float32


def test_a_network_moved_to_another_dtype_later_is_followed():
    net = Recorder(torch.float32)
    model = sd.Denoiser(net, sd.VPLinear(), sd.NoisePrediction())
    net.half()
    model(0.5, torch.randn(3, 2))
    assert net.seen[0][0] == torch.float16


def test_integer_steps_are_reached_by_an_explicit_time_map():
    net, schedule = Recorder(torch.float32), sd.VPDiscrete()
    model = sd.Denoiser(net, schedule, sd.NoisePrediction(), time=schedule.index)
    model(1.0, torch.randn(1, 2))
    model(np.array([0.5]), torch.randn(1, 2))
    assert [seen[3] for seen in net.seen] == [[999.0], [499.0]]


@pytest.mark.parametrize(
    ("args", "error", "word"),
    [
        ((3, sd.VPLinear(), sd.NoisePrediction()), TypeError, "callable"),
        ((torch.sin, "vp", sd.NoisePrediction()), ValueError, "unknown schedule 'vp'.*known: .*vp-linear"),
        ((torch.sin, sd.VPLinear(), "eps"), ValueError, "did you mean 'epsilon'.*known: .*flow_prediction.*sample"),
        ((torch.sin, 3, sd.NoisePrediction()), TypeError, "3 is not a Schedule: give one, or its name"),
        ((torch.sin, sd.VPLinear(), sd.NoisePrediction), TypeError, "is not a Prediction: give one, or its name"),
    ],
)
def test_a_denoiser_is_checked_at_birth(args, error, word):
    with pytest.raises(error, match=word):
        sd.Denoiser(*args)


@pytest.mark.parametrize(
    ("net", "error", "word"),
    [
        (lambda x, t: x[:, :1], ValueError, r"shape \(2, 1\) for a state of shape \(2, 3\) at t = 0.5"),
        (lambda x, t: (x, x), TypeError, "tuple"),
        (lambda x, t: x.long(), TypeError, "int64"),
    ],
)
def test_an_output_that_is_not_a_prediction_is_refused(net, error, word):
    with pytest.raises(error, match=word):
        sd.Denoiser(net, sd.VPLinear(), sd.NoisePrediction())(0.5, torch.zeros(2, 3))
