"""A network that is taken for what it is not is found out, and what it is is often named."""

import numpy as np
import pytest
from discovery import PREDICTIONS, by_day

import scorediff as sd
from scorediff.interop.inspection import _TIMES, inspect
from scorediff.lab.data import digits

SCHEDULE = sd.VPLinear()
TARGET = sd.targets.GaussianMixture()
DATA = TARGET.sample(64, seed=0).float()


def network(prediction, number):
    """The exact network that outputs `prediction` and is given `number` for the time."""
    exact, inner = TARGET.denoiser(SCHEDULE), np.linspace(SCHEDULE.t_end, SCHEDULE.t_start, 20001)
    numbers = np.array([number(SCHEDULE, t) for t in inner])
    order = np.argsort(numbers)

    def net(x, numbered):
        t = float(np.interp(float(numbered[0]), numbers[order], inner[order]))
        data, noise = exact(t, x / float(prediction.input_scale(SCHEDULE, t)))
        a, b = prediction.row(SCHEDULE, t)
        return float(a) * data + float(b) * noise

    return net


@pytest.mark.parametrize(
    "time", ["999 t", *(pytest.param(t, marks=pytest.mark.nightly) for t in ("t", "1 - t", "log(sigma / alpha) / 4"))]
)
@pytest.mark.parametrize("prediction", by_day(PREDICTIONS, [sd.NoisePrediction()]), ids=repr)
def test_with_data_what_a_network_predicts_and_which_time_it_is_given_is_found(prediction, time):
    net = network(prediction, _TIMES[time])
    right = inspect(
        sd.Denoiser(net, SCHEDULE, prediction, time=lambda t: _TIMES[time](SCHEDULE, t)), (2,), data=DATA, n=64
    )
    assert right.ok and right.declared < 1 and right.better is None, right
    declared = sd.DataPrediction() if prediction == sd.NoisePrediction() else sd.NoisePrediction()
    wrong = inspect(sd.Denoiser(net, SCHEDULE, declared, time=lambda t: 37 * t**3), (2,), data=DATA, n=64)
    assert wrong.better is not None and wrong.better.error < 1.01 * right.declared, wrong
    # several meanings may be the same at every level looked at; the right one is among them
    same = (wrong.better.prediction, wrong.better.time) == (prediction, time)
    assert same or abs(wrong.better.error / right.declared - 1) < 0.01


@pytest.mark.parametrize("generated", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_trained_network_looks_right_on_its_data_and_on_samples_it_generates(generated):
    trained = sd.load("digits-unet")
    found = inspect(trained.denoiser, trained.shape, data=None if generated else digits().float(), n=8)
    assert found.ok and found.declared < 0.6 and found.recombined < 1e-6 and found.sensitivity > 0.1, found
    assert "nothing looks wrong" in str(found)


@pytest.mark.nightly
def test_a_wrong_time_scale_is_seen_without_data_and_a_wrong_prediction_too():
    trained = sd.load("digits-unet")
    scaled = sd.Denoiser(trained.net, trained.schedule, trained.prediction, time=lambda t: 999 * t)
    found = inspect(scaled, trained.shape, n=8)
    assert found.better is not None and found.better.time == "log(sigma / alpha) / 4"
    as_noise = sd.Denoiser(trained.net, trained.schedule, sd.NoisePrediction(), time=trained.denoiser.time)
    found = inspect(as_noise, trained.shape, n=8)
    assert not found.ok and "give data=" in str(found)
    named = inspect(as_noise, trained.shape, data=digits().float(), n=8).better
    assert named is not None and isinstance(named.prediction, sd.EDMPrediction)


def test_what_does_not_look_at_the_time_or_is_not_finite_is_said():
    timeless = sd.Denoiser(lambda x, t: x, SCHEDULE, sd.NoisePrediction())
    assert any("hardly looks at the time" in w for w in inspect(timeless, (2,), data=DATA).faults)
    broken = sd.Denoiser(lambda x, t: x / 0.0, SCHEDULE, sd.NoisePrediction())
    found = inspect(broken, (2,), data=DATA)
    assert not found.finite and any("not finite" in w for w in found.faults)

    class Torn:
        schedule = SCHEDULE

        def __call__(self, t, x):
            return x * 0, x

    assert any("do not belong together" in w for w in inspect(Torn(), (2,), data=DATA).faults)


def test_data_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"data of shape \(64, 2\) for 16 samples of shape \(3,\)"):
        inspect(sd.Denoiser(lambda x, t: x, SCHEDULE, sd.NoisePrediction()), (3,), data=DATA)


ON = [sd.EDM(0.5, 1.5), sd.schedules.ZeroTerminalSNR(), sd.EDM(), sd.EDM(10.0, 80.0), sd.VE(), sd.RectifiedFlow(3.0)]


@pytest.mark.parametrize("schedule", by_day(ON, ON[:2]))
@pytest.mark.parametrize("std", [1.0, *(pytest.param(s, marks=pytest.mark.nightly) for s in (0.01, 30.0))])
@pytest.mark.parametrize("generated", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_right_network_raises_no_alarm_on_any_schedule_or_scale(schedule, std, generated):
    target = sd.targets.GaussianMixture((0.5, 0.5), ((-std, std / 2), (std, -std / 3)), (0.1 * std**2, 0.3 * std**2))
    exact = target.denoiser(schedule)
    net = sd.Denoiser(lambda x, t: exact(t.double().numpy(), x)[1], schedule, sd.NoisePrediction())
    found = inspect(net, (2,), data=None if generated else target.sample(64, seed=1).float(), n=64)
    assert found.better is None and not found.hopeless, found


def test_what_cannot_be_looked_at_is_refused():
    net = sd.Denoiser(lambda x, t: x, SCHEDULE, sd.NoisePrediction())
    with pytest.raises(TypeError, match="look at the denoiser that it guides"):
        inspect(sd.guidance.Clipped(net), (2,), data=DATA)
    with pytest.raises(ValueError, match="all alike"):
        inspect(net, (2,), data=DATA * 0)
    with pytest.raises(ValueError, match="for 100 samples"):
        inspect(net, (2,), data=DATA, n=100)
