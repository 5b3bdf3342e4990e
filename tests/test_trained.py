"""What a network was trained as is what the scheduler that came with it says, or is refused."""

import diffusers
import numpy as np
import pytest

import scorediff as sd
from scorediff.interop import shift_for, trained_as

ROWS = (np.arange(1000) + 1) / 1000
TABLES = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid"},
    {"trained_betas": np.linspace(1e-3, 0.03, 1000).tolist()},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"prediction_type": "sample"},
]


@pytest.mark.parametrize("options", TABLES, ids=lambda options: "-".join(options) or "default")
@pytest.mark.parametrize("whole", [True, False])
def test_a_table_of_betas_is_met_row_by_row(options, whole):
    scheduler = diffusers.DDPMScheduler(**options)
    trained = trained_as(scheduler if whole else dict(scheduler.config))
    theirs = scheduler.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(trained.schedule.alpha(ROWS) ** 2, theirs, atol=1e-6)
    np.testing.assert_allclose(trained.schedule.sigma(ROWS) ** 2, 1 - theirs, rtol=1e-3)
    np.testing.assert_allclose(trained.time(ROWS), np.arange(1000), atol=1e-9)
    kinds = {"epsilon": sd.NoisePrediction, "sample": sd.DataPrediction, "v_prediction": sd.VPrediction}
    assert type(trained.prediction) is kinds[scheduler.config.prediction_type]


def test_alphas_cumprod_alone_will_do():
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    trained = trained_as({"alphas_cumprod": table.tolist(), "prediction_type": "v_prediction"})
    np.testing.assert_allclose(trained.schedule.alpha(ROWS) ** 2, table, rtol=1e-9)


@pytest.mark.parametrize("whole", [True, False])
def test_a_flow_has_its_shift_and_is_given_a_thousand_sigma(whole):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    trained = trained_as(scheduler if whole else dict(scheduler.config))
    assert trained.schedule == sd.RectifiedFlow(3.0) and trained.prediction == sd.FlowPrediction()
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2])
    t = np.array([1.0, 0.6, 0.2])
    np.testing.assert_allclose(trained.schedule.sigma(t), scheduler.sigmas[:3], rtol=1e-6)
    np.testing.assert_allclose(trained.time(t), scheduler.timesteps, rtol=1e-6)
    wan = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction", use_karras_sigmas=False
    )
    assert trained_as(wan).schedule == sd.RectifiedFlow(5.0)


def test_a_shift_left_to_the_size_of_the_image_has_to_be_given():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(ValueError, match="shift_for"):
        trained_as(scheduler)
    config = scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = config.base_shift + slope * (1024 - config.base_image_seq_len)
    shift = shift_for(scheduler, 1024)
    assert shift == pytest.approx(np.exp(mu), rel=1e-12)
    sigmas = np.array([0.9, 0.4])
    scheduler.set_timesteps(sigmas=sigmas.tolist(), mu=mu)
    np.testing.assert_allclose(
        trained_as(scheduler, shift=shift).schedule.sigma(sigmas), scheduler.sigmas[:2], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "make",
    [
        lambda kind: diffusers.EDMEulerScheduler(prediction_type=kind),
        lambda kind: diffusers.EulerDiscreteScheduler(
            timestep_type="continuous", prediction_type=kind, sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True
        ),
    ],
    ids=["edm", "continuous"],
)
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # within diffusers
def test_edms_preconditioning_is_read_as_its_scheduler_applies_it(make, kind):
    import torch

    scheduler = make(kind)
    if kind == "epsilon" and isinstance(scheduler, diffusers.EulerDiscreteScheduler):
        with pytest.raises(ValueError, match="v is known"):
            trained_as(scheduler)
        return
    trained = trained_as(scheduler)
    scheduler.set_timesteps(5)
    x, output = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    model = sd.Denoiser(lambda x, t: output, trained.schedule, trained.prediction, time=trained.time)
    for i, sigma in enumerate(scheduler.sigmas[:-1].tolist()):
        scheduler._step_index = i
        t = trained.schedule.time_at(-np.log(sigma)) if i else trained.schedule.t_start
        given = float(np.asarray(trained.time(t)))
        assert given == pytest.approx(float(scheduler.timesteps[i]), abs=1e-5)
        scaled = scheduler.scale_model_input(x, scheduler.timesteps[i])
        scale = float(trained.prediction.input_scale(trained.schedule, t))
        torch.testing.assert_close(x * scale, scaled, rtol=1e-5, atol=1e-6)
        theirs = scheduler.step(output, scheduler.timesteps[i], x).pred_original_sample
        torch.testing.assert_close(model(t, x)[0], theirs, rtol=1e-4, atol=1e-4)


def of_class(name, **config):
    return {"_class_name": name, "num_train_timesteps": 1000, **config}


@pytest.mark.parametrize(
    ("config", "error", "word"),
    [
        (3, TypeError, "a scheduler of diffusers or its config is wanted, got int"),
        (of_class("LCMScheduler", beta_schedule="linear"), TypeError, "LCMScheduler is not known"),
        (of_class("CogVideoXDDIMScheduler", snr_shift_scale=3.0), TypeError, "CogVideoXDDIMScheduler is not known"),
        (of_class("CosineDPMSolverMultistepScheduler", sigma_data=1.0), TypeError, "is not known"),
        (of_class("DDIMScheduler"), ValueError, "DDIMScheduler has no 'beta_schedule'"),
        (of_class("DDIMScheduler", beta_schedule="linear"), ValueError, "has no 'beta_start'"),
        (of_class("DDIMScheduler", beta_schedule="linaer"), ValueError, "did you mean 'linear'"),
        (
            of_class(
                "DDIMScheduler", beta_schedule="sigmoid", beta_start=1e-4, beta_end=0.02, prediction_type="epsilno"
            ),
            ValueError,
            "did you mean 'epsilon'",
        ),
        (of_class("FlowMatchEulerDiscreteScheduler"), ValueError, "has no 'shift'"),
        (of_class("FlowMatchEulerDiscreteScheduler", invert_sigmas=True), ValueError, "from_flow_matching"),
        (of_class("EDMEulerScheduler", sigma_data=0.5), ValueError, "has no 'sigma_min'"),
    ],
)
def test_a_configuration_that_does_not_say_it_all_is_refused(config, error, word):
    with pytest.raises(error, match=word):
        trained_as(config)


def test_a_shift_is_for_flows_alone():
    with pytest.raises(ValueError, match="not a scheduler of a flow"):
        trained_as(diffusers.DDIMScheduler(), shift=3.0)
    with pytest.raises(ValueError, match="a fixed shift"):
        shift_for(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 64)
