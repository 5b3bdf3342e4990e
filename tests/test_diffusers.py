"""Models and pipelines of diffusers: the same network by its own pipeline and by ours."""

import copy
import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_diffusers as tiny
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Transformer2DModel,
)
from matplotlib.image import imread
from typer.testing import CliRunner

import scorediff as sd
from scorediff.cli import app
from scorediff.guidance import ClassifierFree
from scorediff.interop.diffusers import from_diffusers
from scorediff.interop.pipelines import DiffusersPipeline

# diffusers on numpy 2: np.array(tensor) of a class that does not say whether it copies
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

KINDS = ["ddpm", "latent", "stable_diffusion", "stable_diffusion_xl", "class_dit", "stable_diffusion_3", "flux"]
IMAGE = {"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_image_proj"}
TEXT, NEGATIVE = "encoder_hidden_states", "negative_encoder_hidden_states"
TABLE = {key: value for key, value in tiny.LATENT.items() if key != "clip_sample"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a pipeline of a kind."""

    @functools.cache
    def save(kind):
        return tiny.save(kind, tmp_path_factory.mktemp(kind))

    return save


@pytest.fixture(scope="module")
def loaded(saved):
    """A pipeline of a kind, saved and loaded."""

    @functools.cache
    def load(kind):
        pipeline = DiffusersPipeline.load(saved(kind))
        pipeline.pipe.set_progress_bar_config(disable=True)
        return pipeline.sized(16, 24) if kind == "flux" else pipeline

    return load


def stepped_by(pipeline, scheduler):
    """The same pipeline with another scheduler."""
    pipe = copy.copy(pipeline.pipe)
    pipe.scheduler = scheduler
    return DiffusersPipeline(pipe, pipeline.size)


class Recorded(DDIMScheduler):
    """Keeps its last state: the pipeline clips it."""

    def step(self, *args, **options):
        made = super().step(*args, **options)
        self.last = made.prev_sample
        return made


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def apart(ours, theirs):
    """The largest difference, relative to the largest entry."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return float((ours - theirs).abs().max() / theirs.abs().max())


def rows(scheduler, *last):
    """Rows of the table as times of ours."""
    return [(row + 1) / 1000 for row in [*scheduler.timesteps.tolist(), *last]]


def times_at(schedule, ratios):
    """Times of a table at `sigma / alpha`; float32 ends may lie an ulp outside."""
    ends = [schedule.log_snr(t) for t in reversed(schedule.domain)]
    return schedule.time_at(np.clip(-np.log(ratios), *ends))


def flow_times(schedule, sigmas):
    with np.errstate(divide="ignore"):
        return schedule.time_at(np.log1p(-sigmas) - np.log(sigmas))


def sigmas_of(scheduler):
    return scheduler.sigmas.double().numpy()[:-1]


def ours(denoiser, solver, x, times, *, cond=None, terminal=None):
    return sd.sample(sd.ProbabilityFlow(denoiser), solver=solver, x=x, grid=times, cond=cond, terminal=terminal).x


def painted(pipeline, x, *, steps=6, scale=5.0, prompt="a cat", negative="dog", **options):
    """The latents that the stock pipeline makes of two starts."""
    words = {"negative_prompt": negative, "num_images_per_prompt": len(x), "guidance_scale": scale}
    return pipeline.pipe(prompt, **words, num_inference_steps=steps, latents=x, output_type="latent", **options).images


def guided_cat(pipeline, scale=5.0):
    return ClassifierFree(pipeline.denoiser, scale), pipeline.conditions("a cat", negative="dog", count=2)


# The same network by two routes. Their tables are float32, ours float64: 1e-5 is left of ten digits' cancellation, and
# what is measured is below 2e-6.


@pytest.mark.parametrize("to_one, last, terminal", [(False, [0], None), (True, [], "denoise")])
def test_stable_diffusion_by_its_ddim_is_ours_and_its_last_step_is_a_row_or_the_terminal_map(
    loaded, to_one, last, terminal
):
    pipeline = stepped_by(loaded("stable_diffusion"), DDIMScheduler(**tiny.LATENT, set_alpha_to_one=to_one))
    x = noise(2, 4, 8, 8)
    theirs = painted(pipeline, x)
    guided, cond = guided_cat(pipeline)
    times = rows(pipeline.pipe.scheduler, *last)
    assert apart(ours(guided, "ddim", x, times, cond=cond, terminal=terminal), theirs) < 1e-5
    # what the comparison would see
    assert apart(ours(guided_cat(pipeline, 6.0)[0], "ddim", x, times, cond=cond, terminal=terminal), theirs) > 1e-2
    assert apart(painted(pipeline, x, prompt="zebra"), theirs) > 1e-2


def test_stable_diffusion_by_its_multistep_solver_is_dpmpp_2m_and_the_terminal_map(loaded):
    scheduler = DPMSolverMultistepScheduler(**TABLE, algorithm_type="dpmsolver++", solver_type="midpoint")
    pipeline = stepped_by(loaded("stable_diffusion"), scheduler)
    x = noise(2, 4, 8, 8)
    theirs = painted(pipeline, x)
    guided, cond = guided_cat(pipeline)
    assert apart(ours(guided, "dpm++2m", x, rows(scheduler), cond=cond, terminal="denoise"), theirs) < 1e-5


@pytest.mark.parametrize("spacing", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "leading"}])
def test_stable_diffusion_by_its_euler_is_ddim_on_fractional_rows(loaded, spacing):
    scheduler = EulerDiscreteScheduler(**TABLE, **spacing)
    pipeline = stepped_by(loaded("stable_diffusion"), scheduler)
    z = noise(2, 4, 8, 8)
    theirs = painted(pipeline, z)
    guided, cond = guided_cat(pipeline)
    times = times_at(guided.schedule, sigmas_of(scheduler))
    # their line between rows, and our spline, differ by less than 3e-3 of a row
    assert np.abs(times * 1000 - 1 - scheduler.timesteps.numpy()).max() < 3e-3
    # their state is ours over alpha
    start = z * float(scheduler.init_noise_sigma * guided.schedule.alpha(times[0]))
    assert apart(ours(guided, "ddim", start, times, cond=cond, terminal="denoise"), theirs) < 1e-5


def test_a_scheduler_that_rounds_times_tells_the_network_of_up_to_half_a_row_beside_its_noise(loaded):
    scheduler = DPMSolverMultistepScheduler(**TABLE, use_karras_sigmas=True)
    pipeline = stepped_by(loaded("stable_diffusion"), scheduler)
    x = noise(2, 4, 8, 8)
    theirs = painted(pipeline, x)
    guided, cond = guided_cat(pipeline)
    times = times_at(guided.schedule, sigmas_of(scheduler))
    off = np.abs(times * 1000 - 1 - scheduler.timesteps.numpy()).max()
    assert 0.4 < off <= 0.5
    own = guided.denoiser
    rounded = sd.Denoiser(own.net, own.schedule, own.prediction, time=lambda t: np.round(own.time(t)))
    whole = ours(ClassifierFree(rounded, 5.0), "dpm++2m", x, times, cond=cond, terminal="denoise")
    assert apart(whole, theirs) < 1e-5
    fractional = ours(guided, "dpm++2m", x, times, cond=cond, terminal="denoise")
    assert 1e-4 < apart(fractional, theirs) < 1e-3  # docs/diffusers.md says 3e-4


@pytest.mark.parametrize("negative, nothing", [("dog", "dog"), (None, "")])
def test_sdxl_is_given_text_pool_and_size_and_its_nothing_is_zeros(loaded, negative, nothing):
    pipeline = loaded("stable_diffusion_xl")
    x = noise(2, 4, 8, 8)
    theirs = painted(pipeline, x, negative=negative)
    cond = pipeline.conditions("a cat", negative=nothing, count=2)
    guided = ClassifierFree(pipeline.denoiser, 5.0)
    times = rows(pipeline.pipe.scheduler, 0)
    assert apart(ours(guided, "ddim", x, times, cond=cond), theirs) < 1e-5
    assert bool(cond["negative_text_embeds"].any()) is (negative is not None)
    other = cond | {"time_ids": cond["time_ids"] + 100}
    assert apart(ours(guided, "ddim", x, times, cond=other), theirs) > 1e-3


def test_sdxl_of_another_size_is_given_that_size(loaded):
    pipeline = loaded("stable_diffusion_xl").sized(24, 16)
    x = noise(2, *pipeline.shape)
    theirs = painted(pipeline, x, height=24, width=16)
    guided, cond = guided_cat(pipeline)
    assert apart(ours(guided, "ddim", x, rows(pipeline.pipe.scheduler, 0), cond=cond), theirs) < 1e-5


def test_stable_diffusion_3_by_its_flow_euler_is_ddim_from_pure_noise(loaded):
    pipeline = loaded("stable_diffusion_3")
    x = noise(2, 4, 8, 8)
    theirs = painted(pipeline, x)
    guided, cond = guided_cat(pipeline)
    assert guided.schedule == sd.RectifiedFlow(3.0)
    times = flow_times(guided.schedule, sigmas_of(pipeline.pipe.scheduler))
    assert times[0] == 1.0
    assert apart(ours(guided, "ddim", x, times, cond=cond, terminal="denoise"), theirs) < 1e-5
    # the same sigmas as times of a flow whose shift was forgotten
    other = from_diffusers(pipeline.pipe, FlowMatchEulerDiscreteScheduler(shift=1.0))
    assert apart(ours(ClassifierFree(other, 5.0), "ddim", x, times, cond=cond, terminal="denoise"), theirs) > 1e-3


@pytest.mark.parametrize("scale, distilled", [(1.0, 2.0), (4.0, 3.5)])
def test_flux_is_given_its_guidance_and_may_be_guided_besides(loaded, scale, distilled):
    pipeline = loaded("flux")
    stock = pipeline.pipe
    x = noise(2, *pipeline.shape)
    assert x.shape == (2, 4, 8, 12)
    options = {"true_cfg_scale": scale, "height": 16, "width": 24}
    theirs = painted(pipeline, stock._pack_latents(x, *x.shape), scale=distilled, **options)
    theirs = stock._unpack_latents(theirs, 16, 24, stock.vae_scale_factor)
    cond = pipeline.conditions("a cat", negative="dog", count=2)
    if distilled != pipeline.guidance_scale:
        cond["guidance"] = torch.full((2,), distilled)
    guided = ClassifierFree(pipeline.denoiser, scale)
    times = flow_times(guided.schedule, sigmas_of(stock.scheduler))
    # uniform in the flow's own time, whose shift is that of 24 tokens
    assert np.allclose(times, np.linspace(1, 1 / 6, 6), atol=1e-6)
    assert apart(ours(guided, "ddim", x, times, cond=cond, terminal="denoise"), theirs) < 1e-5
    other = cond | {"guidance": cond["guidance"] + 1}
    assert apart(ours(guided, "ddim", x, times, cond=other, terminal="denoise"), theirs) > 1e-3


def test_dit_by_its_pipeline_is_ours_with_the_null_class_and_without_the_variance(loaded):
    pipeline = loaded("class_dit")
    pipe = pipeline.pipe
    generator = torch.Generator().manual_seed(0)
    images = pipe([7, 3], guidance_scale=5.0, num_inference_steps=6, generator=generator, output_type="pt").images
    cond = pipeline.conditions(["dog", 3], negative="")
    assert cond["class_labels"].tolist() == [7, 3] and cond["negative_class_labels"].tolist() == [1000, 1000]
    guided = ClassifierFree(pipeline.denoiser, 5.0)
    start = noise(2, 4, 8, 8)
    made = ours(guided, "ddim", start, rows(pipe.scheduler), cond=cond, terminal="denoise")
    assert apart((pipeline.decode(made) / 2 + 0.5).clamp(0, 1), images) < 1e-5
    other = cond | {"class_labels": torch.tensor([8, 3])}
    made = ours(guided, "ddim", start, rows(pipe.scheduler), cond=other, terminal="denoise")
    assert apart((pipeline.decode(made) / 2 + 0.5).clamp(0, 1)[1:], images[1:]) < 1e-5
    assert apart((pipeline.decode(made) / 2 + 0.5).clamp(0, 1)[:1], images[:1]) > 1e-3


def test_an_unconditional_latent_pipeline_is_ours_through_its_vq_autoencoder(loaded):
    pipeline = loaded("latent")
    generator = torch.Generator().manual_seed(0)
    images = pipeline.pipe(2, generator=generator, num_inference_steps=6, output_type="np").images
    assert pipeline.conditions() == {} and pipeline.shape == (3, 8, 8) and pipeline.pixels == (16, 16)
    made = ours(pipeline.denoiser, "ddim", noise(2, 3, 8, 8), rows(pipeline.pipe.scheduler), terminal="denoise")
    mine = (pipeline.decode(made) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert apart(mine, torch.from_numpy(images)) < 1e-5


@pytest.mark.parametrize(
    "kind, zero",
    [("epsilon", False), ("v_prediction", False), ("v_prediction", True), ("sample", False), ("sample", True)],
)
def test_pixels_by_ddim_are_ours_for_every_prediction_and_from_no_signal_at_all(kind, zero):
    options = {"prediction_type": kind, "rescale_betas_zero_snr": zero, "timestep_spacing": "trailing"}
    pipe = DDIMPipeline(tiny.unet(), DDIMScheduler())
    pipe.scheduler = Recorded(**tiny.LATENT, **options)  # of the one it is made with it makes its own
    pipe.set_progress_bar_config(disable=True)
    pipe(2, generator=torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np")
    pipeline = DiffusersPipeline(pipe)
    assert pipeline.shape == (3, 8, 8)
    start = noise(2, 3, 8, 8)
    made = ours(pipeline.denoiser, "ddim", start, rows(pipe.scheduler), terminal="denoise")
    assert pipeline.decode(made) is made and pipeline.encode(start.clamp(-1, 1)) is not None
    assert apart(made, pipe.scheduler.last) < 1e-5
    schedule = pipeline.denoiser.schedule
    # ours starts at the last row but one, where every solver can
    assert schedule.t_start == (0.999 if zero else 1.0) and bool(schedule.alpha(1.0) == 0) is zero


# DenoiserWrapper the network.


@pytest.mark.parametrize("kind", ["stable_diffusion", "stable_diffusion_3"])
def test_what_is_decoded_are_the_pipelines_own_images(loaded, kind):
    pipeline = loaded(kind)
    x = noise(1, 4, 8, 8)
    words = {"negative_prompt": "dog", "guidance_scale": 2.0, "num_inference_steps": 3, "latents": x}
    latents = pipeline.pipe("a cat", **words, output_type="latent").images
    images = pipeline.pipe("a cat", **words, output_type="pt").images
    assert apart((pipeline.decode(latents) / 2 + 0.5).clamp(0, 1), images) < 1e-6


@pytest.mark.parametrize("kind", ["stable_diffusion", "stable_diffusion_3", "latent"])
def test_encoding_and_decoding_is_the_autoencoder_without_any_scaling(loaded, kind):
    pipeline = loaded(kind)
    vae = getattr(pipeline.pipe, "vae", None) or pipeline.pipe.vqvae
    images = noise(2, 3, 16, 24).clamp(-1, 1)
    states = pipeline.encode(images)
    assert states.shape == (2, pipeline.shape[0], 8, 12)
    with torch.no_grad():
        assert apart(pipeline.decode(states), vae(images).sample) < 1e-5


def test_latents_with_means_and_deviations_of_their_own_are_brought_to_0_and_1():
    config = {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [0.5, 1.0, 2.0, 3.0], "scaling_factor": 0.5}
    pipe = DDIMPipeline(tiny.unet(in_channels=4, out_channels=4), DDIMScheduler())
    pipe.vae = tiny.vae(**config)
    pipeline, images = DiffusersPipeline(pipe), noise(2, 3, 16, 16).clamp(-1, 1)
    mean, std = (torch.tensor(config[f"latents_{key}"])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        z = pipe.vae.encode(images).latent_dist.mode()
        states = pipeline.encode(images)
        assert apart(states, (z - mean) / std * 0.5) < 1e-6
        assert apart(pipeline.decode(states), pipe.vae(images).sample) < 1e-5


def test_an_autoencoder_that_overflows_in_float16_decodes_in_float32_and_goes_back(saved):
    pipeline = DiffusersPipeline.load(saved("stable_diffusion"), dtype=torch.float16)
    assert pipeline.pipe.vae.config.force_upcast
    x = noise(1, 4, 8, 8)
    images = pipeline.decode(x)
    assert pipeline.pipe.vae.dtype is torch.float16
    pipeline.pipe.vae.to(torch.float32)
    assert torch.equal(pipeline.decode(x), images) and images.dtype is torch.float32


def test_conditions_are_what_the_pipelines_encode_prompt_says(loaded):
    options = {"num_images_per_prompt": 2, "do_classifier_free_guidance": True, "negative_prompt": ["dog", "frog"]}
    prompts = ["a cat", "a bat"]
    pipeline = loaded("stable_diffusion")
    with torch.no_grad():
        theirs = pipeline.pipe.encode_prompt(prompts, "cpu", **options)
    cond = pipeline.conditions(prompts, negative=["dog", "frog"], count=2)
    assert torch.equal(cond.pop("encoder_hidden_states"), theirs[0])
    assert torch.equal(cond.pop("negative_encoder_hidden_states"), theirs[1]) and not cond
    assert not torch.equal(theirs[0][0], theirs[0][2]) and torch.equal(theirs[0][0], theirs[0][1])
    names = {"stable_diffusion_xl": "text_embeds", "stable_diffusion_3": "pooled_projections"}
    for kind, pooled in names.items():
        pipe = loaded(kind).pipe
        others = {"prompt_2": None, "prompt_3": None} if kind.endswith("3") else {}
        with torch.no_grad():
            theirs = pipe.encode_prompt(prompts, **others, **options)
        cond = loaded(kind).conditions(prompts, negative=["dog", "frog"], count=2)
        listed = ["encoder_hidden_states", "negative_encoder_hidden_states", pooled, f"negative_{pooled}"]
        assert all(torch.equal(cond[name], value) for name, value in zip(listed, theirs, strict=True))
        assert not any(name.startswith("negative_") for name in loaded(kind).conditions(prompts))


def test_a_prompt_makes_as_many_rows_as_are_counted_and_one_negative_stands_for_all(loaded):
    cond = loaded("flux").conditions(["a cat", "dog"], negative="", count=3)
    assert {value.shape[0] for value in cond.values()} == {6}
    assert cond["guidance"].tolist() == [3.5] * 6
    against = cond["negative_encoder_hidden_states"]
    assert torch.equal(against[0], against[5])


def test_shapes_follow_the_size_of_the_image(loaded):
    pipeline = loaded("stable_diffusion")
    assert pipeline.pixels == (16, 16) and pipeline.shape == (4, 8, 8)
    assert pipeline.sized(32, 24).shape == (4, 16, 12) and pipeline.sized(32, 24).pixels == (32, 24)
    assert pipeline.sized(32, 24).image_shape == (3, 32, 24) and loaded("ddpm").image_shape == (3, 8, 8)
    assert loaded("ddpm").shape == (3, 8, 8) and loaded("ddpm").sized(16, 8).shape == (3, 16, 8)
    assert loaded("flux").sized(512, 512).denoiser.schedule.shift > loaded("flux").denoiser.schedule.shift > 1
    with pytest.raises(ValueError, match="multiples of 4"):
        loaded("flux").sized(18, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_of_every_kind_is_loaded_ready_and_sampled_adaptively(loaded, kind):
    pipeline = loaded(kind)
    assert not any(p.requires_grad for p in pipeline.adapter.parameters())
    prompts = {"ddpm": None, "latent": None, "class_dit": 3}.get(kind, "a cat")
    cond = pipeline.conditions(prompts, count=1 if prompts is None else 2)
    solver = sd.ExponentialAdams(rtol=0.05, atol=0.05)
    flow = sd.ProbabilityFlow(pipeline.denoiser)
    solution = sd.sample(flow, (2, *pipeline.shape), solver, cond=cond, terminal="denoise").check()
    assert torch.isfinite(pipeline.decode(solution.x)).all() and solution.evaluations.max() < 100


def test_an_adaptive_solver_gives_each_sample_its_own_steps_and_its_own_text(loaded):
    pipeline = loaded("stable_diffusion_3")
    flow = sd.ProbabilityFlow(ClassifierFree(pipeline.denoiser, 5.0))
    prompts = ["a cat", "dog", "zebra"]
    cond = pipeline.conditions(prompts, negative="")
    solver = sd.ExponentialAdams(rtol=1e-3, atol=1e-3)
    x = noise(3, 4, 8, 8) * torch.tensor([1, 2, 4]).reshape(3, 1, 1, 1)
    together = sd.sample(flow, solver=solver, x=x, cond=cond).check()
    assert len(set(together.evaluations.tolist())) > 1 and together.rows == 2 * together.evaluations.sum()
    for i, prompt in enumerate(prompts):
        alone = sd.sample(
            flow, solver=solver, x=x[i : i + 1], ids=[i], cond=pipeline.conditions(prompt, negative="")
        ).check()
        assert apart(together.x[i : i + 1], alone.x) < 1e-3  # torch's kernels round by the size of a batch
        assert abs(int(together.evaluations[i]) - int(alone.evaluations[0])) <= 2


# The network alone.


def test_a_bare_model_with_the_config_of_its_scheduler_is_the_pipelines_denoiser(loaded):
    pipe = loaded("stable_diffusion").pipe
    cond = loaded("stable_diffusion").conditions("a cat", count=2)
    x = noise(2, 4, 8, 8)
    with torch.no_grad():
        whole = from_diffusers(pipe)(0.5, x, **cond)
        for scheduler in (pipe.scheduler, pipe.scheduler.config, dict(pipe.scheduler.config)):
            assert torch.equal(from_diffusers(pipe.unet, scheduler)(0.5, x, **cond)[0], whole[0])


@pytest.mark.nightly
def test_a_compiled_model_is_known_as_what_it_was(loaded):
    net, x = tiny.unet(), noise(2, 3, 8, 8)
    with torch.no_grad():
        one, other = (
            from_diffusers(model, DDIMScheduler())(0.5, x) for model in (net, torch.compile(net, backend="eager"))
        )
    assert apart(other[0], one[0]) < 1e-5


def test_a_learned_variance_is_dropped_and_a_class_is_given():
    scheduler = DDIMScheduler()
    net = tiny.unet(out_channels=6, num_class_embeds=5)
    x, label = noise(2, 3, 8, 8), torch.tensor([1, 4])
    with torch.no_grad():
        output = from_diffusers(net, scheduler)(0.301, x, class_labels=label)
        assert torch.equal(output.output, net(x, torch.full((2,), 300.0), label).sample[:, :3])
    pipeline = DiffusersPipeline(DDIMPipeline(net, scheduler))
    assert pipeline.conditions([1, 4], count=2)["class_labels"].tolist() == [1, 1, 4, 4]
    with pytest.raises(ValueError, match="no class ''; known: 0 to 4"):
        pipeline.conditions([1, 4], negative="")


def test_a_table_of_time_embeddings_is_given_the_nearest_row():
    denoiser = from_diffusers(tiny.unet(time_embedding_type="learned", num_train_timesteps=1000), DDIMScheduler())
    x = noise(1, 3, 8, 8)
    with torch.no_grad():
        rows = [denoiser((row + 1) / 1000, x).output for row in (300.0, 300.4, 300.6, 301.0)]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[2], rows[3]) and not torch.equal(rows[1], rows[2])
    smooth = from_diffusers(tiny.unet(), DDIMScheduler())
    with torch.no_grad():
        assert not torch.equal(smooth(0.301, x).output, smooth(0.3014, x).output)


def test_the_older_class_of_dit_is_called_as_the_newer_one():
    new = tiny.dit()
    sizes = {key: new.config[key] for key in ("num_attention_heads", "attention_head_dim", "num_layers", "sample_size")}
    kind = {"norm_type": "ada_norm_zero", "num_embeds_ada_norm": 1000, "norm_elementwise_affine": False}
    others = {"patch_size": 2, "activation_fn": "gelu-approximate", "attention_bias": True}
    old = Transformer2DModel(**sizes, **kind, **others, in_channels=4, out_channels=8).eval()
    old.load_state_dict(new.state_dict())
    x, label = noise(2, 4, 8, 8), torch.tensor([1, 1000])
    with torch.no_grad():
        one, other = (from_diffusers(net, DDIMScheduler())(0.5, x, class_labels=label) for net in (new, old))
    assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_followed_and_the_state_keeps_its_own(saved, kind):
    pipeline = DiffusersPipeline.load(saved(kind), dtype=torch.bfloat16)
    pipeline = pipeline.sized(16, 24) if kind == "flux" else pipeline
    denoiser = pipeline.denoiser
    assert denoiser.dtype is torch.bfloat16
    prompts = {"ddpm": None, "latent": None, "class_dit": 3}.get(kind, "a cat")
    cond = pipeline.conditions(prompts, count=1 if prompts is None else 2)
    x = sd.sample(sd.ProbabilityFlow(denoiser), (2, *pipeline.shape), "dpm++2m", steps=3, cond=cond).x
    assert x.dtype is torch.float32 and torch.isfinite(x).all()
    pipeline.adapter.net.to(torch.float32)
    assert denoiser.dtype is torch.float32


def test_conditions_of_another_precision_than_the_network_are_refused_by_name(saved, loaded):
    pipeline = DiffusersPipeline.load(saved("stable_diffusion"), dtype=torch.bfloat16)
    cond = loaded("stable_diffusion").conditions("a cat")
    with pytest.raises(ValueError, match=r"cond\['encoder_hidden_states'\] is of torch.float32"):
        pipeline.denoiser(0.5, noise(1, 4, 8, 8), **cond)


# What is wrong is said by name.


@pytest.mark.parametrize(
    "source, scheduler, error, words",
    [
        (tiny.unet, None, TypeError, "UNet2DModel comes without a scheduler"),
        (tiny.unet, {"prediction_type": "epsilon"}, ValueError, "no 'beta_schedule'"),
        (tiny.vae, DDIMScheduler(), TypeError, r"AutoencoderKL is not known, .*UNet2DModel.*Denoiser\(lambda"),
        (lambda: "a name", DDIMScheduler(), TypeError, "str has neither a unet nor a transformer"),
        (lambda: tiny.unet().train(), DDIMScheduler(), ValueError, "training mode"),
        (lambda: tiny.unet(in_channels=9), DDIMScheduler(), ValueError, "takes 9 channels and returns 3"),
        (lambda: tiny.text_unet(**IMAGE), DDIMScheduler(), ValueError, "encoder_hid_dim_type 'text_image_proj'"),
        (lambda: Transformer2DModel(1, 4, 4, norm_num_groups=4).eval(), DDIMScheduler(), ValueError, "'layer_norm'"),
    ],
)
def test_a_source_that_is_not_known_is_refused(source, scheduler, error, words):
    with pytest.raises(error, match=words):
        from_diffusers(source(), scheduler)


def test_a_pipeline_without_a_network_and_a_flow_without_a_shift_are_refused(loaded):
    class Empty:
        scheduler = DDIMScheduler()

    with pytest.raises(TypeError, match="Empty has neither a unet nor a transformer"):
        from_diffusers(Empty())
    with pytest.raises(ValueError, match="give shift="):
        from_diffusers(loaded("flux").pipe)
    with pytest.raises(ValueError, match="shift = 2"):
        from_diffusers(loaded("ddpm").pipe, shift=2.0)


@pytest.mark.parametrize(
    "kind, shape, cond, error, words",
    [
        ("stable_diffusion", (2, 4, 8, 8), {}, ValueError, rf"wants {TEXT}: give cond=\{{'{TEXT}': \(B, \*, 16\)\}}"),
        ("stable_diffusion", (2, 3, 8, 8), {}, ValueError, r"shape \(2, 3, 8, 8\): .* wants \(B, 4, H, W\)"),
        ("stable_diffusion", (2, 4, 8, 8), {TEXT: (1, 5, 16)}, ValueError, r"\(1, 5, 16\) for 2 samples.*sd\.shared"),
        ("stable_diffusion", (2, 4, 8, 8), {TEXT: (2, 5, 8)}, ValueError, r"shape \(2, 5, 8\)"),
        (
            "stable_diffusion",
            (2, 4, 8, 8),
            {TEXT: (2, 5, 16), NEGATIVE: (2, 5, 16)},
            TypeError,
            "is for ClassifierFree",
        ),
        ("stable_diffusion_xl", (2, 4, 8, 8), {TEXT: (2, 5, 32)}, ValueError, r"wants text_embeds: .*time_ids"),
        ("ddpm", (2, 3, 8, 8), {"prompt": (2, 5)}, TypeError, "no condition 'prompt': it takes nothing"),
        ("class_dit", (2, 4, 8, 8), {}, ValueError, r"'class_labels': \(B,\)"),
        ("stable_diffusion_3", (2, 4, 7, 8), {}, ValueError, "multiples of 2"),
        ("flux", (2, 16, 8, 8), {}, ValueError, r"wants \(B, 4, H, W\), with H and W multiples of 2"),
        ("flux", (2, 4, 8, 8), {TEXT: (2, 5, 16), "pooled_projections": (2, 16)}, ValueError, "wants guidance"),
    ],
)
def test_a_state_or_condition_that_a_network_does_not_take_is_refused(loaded, kind, shape, cond, error, words):
    with pytest.raises(error, match=words):
        loaded(kind).denoiser(0.5, noise(*shape), **{key: noise(*sides) for key, sides in cond.items()})


@pytest.mark.parametrize("solver", ["dpm++2m", "exponential-adams:rtol=0.1"])
def test_one_text_for_all_is_shared(loaded, solver):
    pipeline = loaded("stable_diffusion")
    text = pipeline.conditions("a cat")[TEXT]
    flow, steps = sd.ProbabilityFlow(pipeline.denoiser), {"steps": 3} if solver == "dpm++2m" else {}
    one, many = (
        sd.sample(flow, (3, *pipeline.shape), solver, cond={TEXT: value}, **steps).check().x
        for value in (sd.shared(text), text.expand(3, -1, -1))
    )
    assert torch.equal(one, many)
    with pytest.raises(ValueError, match=r"\(B, \*, 16\) is wanted, with B = 3"):
        sd.sample(flow, (3, *pipeline.shape), "ddim", steps=1, cond={TEXT: sd.shared(text.expand(2, -1, -1))})


def test_a_condition_that_is_not_a_tensor_and_a_dit_that_is_not_square_are_refused(loaded):
    with pytest.raises(TypeError, match=r"cond\['class_labels'\] must be a tensor, got list"):
        loaded("class_dit").denoiser(0.5, noise(1, 4, 8, 8), class_labels=[1])
    with pytest.raises(ValueError, match="square"):
        loaded("class_dit").denoiser(0.5, noise(1, 4, 4, 16), class_labels=torch.tensor([1]))


@pytest.mark.parametrize(
    "kind, prompts, options, error, words",
    [
        ("ddpm", "a cat", {}, TypeError, "DDPMPipeline takes neither prompts nor labels.*'a cat'"),
        ("latent", None, {"negative": ""}, TypeError, "LDMPipeline takes neither"),
        ("stable_diffusion", None, {}, TypeError, "wants a prompt"),
        ("stable_diffusion", 3, {}, TypeError, "a prompt must be text, got 3"),
        ("stable_diffusion", ["a", "b"], {"negative": ["c"]}, ValueError, "1 negatives for 2 prompts"),
        ("stable_diffusion", "a", {"count": 0}, ValueError, "count = 0"),
        ("class_dit", None, {}, TypeError, "wants a label"),
        ("class_dit", "dogg", {}, ValueError, "did you mean 'dog'"),
        ("class_dit", 1000, {}, ValueError, "no class 1000; known: 0 to 999"),
    ],
)
def test_prompts_that_a_pipeline_cannot_take_are_refused(loaded, kind, prompts, options, error, words):
    with pytest.raises(error, match=words):
        loaded(kind).conditions(prompts, **options)


def test_a_pipeline_whose_text_is_not_known_wants_conditions_by_hand(loaded):
    class Mine:
        unet, scheduler = loaded("stable_diffusion").pipe.unet, DDIMScheduler()

    with pytest.raises(TypeError, match=r"how Mine encodes text is not known.*encoder_hidden_states"):
        DiffusersPipeline(Mine()).conditions("a cat")


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 8, 8), torch.full((1, 3, 8, 8), 255.0), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_images_that_are_not_in_minus_1_to_1_are_refused(loaded, images):
    with pytest.raises(ValueError, match=r"floats of shape \(B, C, H, W\) in \[-1, 1\]"):
        loaded("stable_diffusion").encode(images)


# Folders.


class _Opens:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of Stable Diffusion's."""
    return shutil.copytree(saved("stable_diffusion"), tmp_path / "copy")


@pytest.mark.parametrize(
    "part, name", [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin"), ("vae", "vae.ckpt")]
)
def test_weights_that_are_pickles_are_refused_unread(folder, tmp_path, part, name):
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    torch.save({"weight": _Opens(tmp_path / "trap")}, folder / part / name)
    with pytest.raises(
        ValueError, match=rf"{part}/{name} is a pickle, which may run any code.*safe_serialization=True"
    ):
        DiffusersPipeline.load(folder)
    assert not (tmp_path / "trap").exists()
    torch.load(folder / part / name, weights_only=False)  # it would have
    assert (tmp_path / "trap").exists()


def test_an_index_of_shards_that_are_pickles_is_refused_unread(folder, tmp_path):
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "part.bin"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    torch.save({"weight": _Opens(tmp_path / "trap")}, folder / "unet" / "part.bin")
    with pytest.raises(ValueError, match=r"part\.bin is a pickle"):
        DiffusersPipeline.load(folder)
    assert not (tmp_path / "trap").exists()


def test_a_pickle_beside_safetensors_is_left_alone(folder, tmp_path):
    for place in ("unet/diffusion_pytorch_model.bin", "vae/training_args.bin", "all-in-one.ckpt"):
        torch.save({"weight": _Opens(tmp_path / "trap")}, folder / place)
    net = DiffusersPipeline.load(folder).adapter.net
    net.save_pretrained(folder / "unet", max_shard_size="20KB")  # as safetensors in parts, with an index
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists()
    again = DiffusersPipeline.load(folder).adapter.net
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert not (tmp_path / "trap").exists()


def test_code_in_a_folder_is_not_run(folder, tmp_path):
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')\nclass Pipe: pass\n")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": ["mine", "Pipe"]}))
    with pytest.raises(ValueError, match="custom code is not run"):
        DiffusersPipeline.load(folder)
    shutil.copy(folder / "mine.py", folder / "unet" / "mine.py")
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["mine", "Pipe"]}))
    with pytest.raises(ValueError, match="cannot be loaded by diffusers"):
        DiffusersPipeline.load(folder)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda f: (f / "model_index.json").write_text("{"), "model_index.json is damaged"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}'), "NoSuchPipeline"),
        (lambda f: shutil.rmtree(f / "vae"), "cannot be loaded by diffusers"),
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short"),
            "cannot be loaded by diffusers",
        ),
        (lambda f: (f / "unet" / "config.json").write_text("{"), "cannot be loaded by diffusers"),
    ],
)
def test_a_damaged_folder_is_one_error_that_names_it(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ValueError, match=words) as error:
        DiffusersPipeline.load(folder)
    assert str(folder) in str(error.value)


def test_a_folder_that_is_not_there_or_holds_something_else_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        DiffusersPipeline.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither model_index\.json"):
        DiffusersPipeline.load(tmp_path)


def test_a_network_of_pixels_alone_is_loaded_with_the_scheduler_beside_it(saved, tmp_path):
    whole = DiffusersPipeline.load(saved("ddpm"))
    alone = DiffusersPipeline.load(saved("ddpm") / "unet")
    x = noise(2, 3, 8, 8)
    assert torch.equal(whole.denoiser(0.5, x)[0], alone.denoiser(0.5, x)[0]) and alone.shape == (3, 8, 8)
    bare = shutil.copytree(saved("ddpm") / "unet", tmp_path / "unet")
    with pytest.raises(FileNotFoundError, match=r"no scheduler_config.json"):
        DiffusersPipeline.load(bare)
    with pytest.raises(ValueError, match=r"holds a UNet2DConditionModel alone.*from_diffusers"):
        DiffusersPipeline.load(saved("stable_diffusion") / "unet")


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_without_the_libraries_the_extra_is_named(saved, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"{library}.utils.logging")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scorediff\[interop\]'"):
        DiffusersPipeline.load(saved("stable_diffusion"))


def test_loading_leaves_the_libraries_as_loud_as_they_were(saved):
    from diffusers.utils import logging

    logging.set_verbosity_info()
    try:
        DiffusersPipeline.load(saved("ddpm"))
        assert logging.get_verbosity() == logging.INFO and logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


# The command line.


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scorediff(*line):
    return CliRunner().invoke(app, ["sample", *map(str, line)])


def test_one_command_makes_an_image_of_a_text(saved, loaded, here):
    line = ("--model", saved("stable_diffusion"), "--prompt", "a cat", "--negative", "", "--guidance", 7.5)
    result = scorediff(*line, "--solver", "dpm++2m", "--steps", 4, "--n", 1, "--out", "cat.png")
    assert result.exit_code == 0, result.output
    assert "cat.png: 1 samples by dpm++2m, 5 evaluations each" in result.stdout
    pipeline = loaded("stable_diffusion")
    cond = pipeline.conditions("a cat", negative="")
    flow = sd.ProbabilityFlow(ClassifierFree(pipeline.denoiser, 7.5))
    made = sd.sample(flow, (1, *pipeline.shape), "dpm++2m", steps=4, seed=0, cond=cond, terminal="denoise").x
    image = (pipeline.decode(made)[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
    assert np.abs(imread(here / "cat.png")[..., :3] - image.numpy()).max() <= 0.51 / 255


def test_the_command_writes_numbers_sheets_and_what_it_was_asked(saved, here):
    line = ("--model", saved("stable_diffusion"), "--prompt", "a cat", "--size", 24, "--n", 3, "--steps", 2)
    assert scorediff(*line, "--batch-size", 2, "--out", "a.npz").exit_code == 0
    assert scorediff(*line, "--out", "a.png").exit_code == 0
    with np.load(here / "a.npz") as file:
        assert file["samples"].shape == (3, 3, 24, 24) and file["evaluations"].tolist() == [3, 3, 3]
        settings = json.loads(str(file["settings"]))
    assert (
        settings["prompt"] == "a cat" and settings["size"] == [24, 24] and settings["terminal"] == {"type": "Denoise"}
    )
    assert settings["pipeline"] == "StableDiffusionPipeline" and settings["guidance"] == 7.5
    assert imread(here / "a.png").shape[:2] == (2 * (2 * 24 + 2) + 2, 2 * (2 * 24 + 2) + 2)


def test_the_command_takes_classes_pixels_flows_and_another_end(saved, loaded, here):
    assert scorediff("--model", saved("class_dit"), "--label", "dog", "--steps", 2, "--out", "a.npz").exit_code == 0
    assert scorediff("--model", saved("class_dit"), "--label", "none", "--guidance", 1, "--steps", 2).exit_code == 0
    with np.load(here / "a.npz") as file:
        assert file["labels"].tolist() == [7] and file["samples"].shape == (1, 3, 16, 16)
    assert scorediff("--model", saved("ddpm"), "--steps", 2, "--terminal", "none", "--out", "b.npz").exit_code == 0
    with np.load(here / "b.npz") as file:
        assert file["evaluations"].tolist() == [2]
    line = (
        "--model",
        saved("flux"),
        "--prompt",
        "a cat",
        "--guidance",
        2,
        "--size",
        16,
        "--steps",
        2,
        "--out",
        "c.npz",
    )
    assert scorediff(*line).exit_code == 0, scorediff(*line).output
    pipeline = loaded("flux").sized(16, 16)
    cond = pipeline.conditions("a cat") | {"guidance": torch.tensor([2.0])}
    flow, shape = sd.ProbabilityFlow(pipeline.denoiser), (1, *pipeline.shape)
    made = sd.sample(flow, shape, "dpm++2m", steps=2, seed=0, cond=cond, terminal="denoise").x
    with np.load(here / "c.npz") as file:
        assert apart(torch.from_numpy(file["samples"]), pipeline.decode(made)) < 1e-6


@pytest.mark.parametrize(
    "kind, line, words",
    [
        ("stable_diffusion", (), "StableDiffusionPipeline wants --prompt TEXT"),
        ("stable_diffusion", ("--prompt", "a", "--guidance", 1, "--negative", "b"), "--guidance 1 means none"),
        ("stable_diffusion", ("--prompt", "a", "--label", 3), "takes no classes"),
        ("stable_diffusion", ("--prompt", "a", "--size", 17), "multiples of 2"),
        ("stable_diffusion", ("--prompt", "a", "--bandwidth", 0.1), "--model digits"),
        ("stable_diffusion", ("--prompt", "a", "--out", "folder"), "end its name in .png or .npz"),
        ("ddpm", ("--prompt", "a cat"), "--prompt 'a cat': DDPMPipeline takes no conditions"),
        ("ddpm", ("--guidance", 2), "--guidance 2.0: DDPMPipeline takes no conditions"),
        ("class_dit", ("--prompt", "a"), "--prompt 'a': DiTPipeline is conditioned on a class, by --label"),
        ("class_dit", ("--label", "dogs"), "did you mean 'dog'"),
        ("class_dit", ("--label", "??"), "known: all, none, 0, 1, 2"),
        ("flux", ("--prompt", "a", "--negative", "b"), "--negative 'b'"),
        (None, ("--model", "digits", "--prompt", "a"), "--prompt 'a': digits is not a pipeline of diffusers"),
        (None, ("--model", "digits", "--guidance", 2), "--guidance 2.0: digits is not a pipeline"),
        (None, ("--model", "nowhere/sd", "--prompt", "a"), "--prompt 'a': nowhere/sd is not a pipeline of diffusers"),
        (None, ("--model", "nowhere/sd"), "unknown model 'nowhere/sd'"),
    ],
)
def test_what_a_pipeline_does_not_take_is_one_line_and_code_2(saved, here, kind, line, words):
    result = scorediff(*(() if kind is None else ("--model", saved(kind))), *line)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("scorediff: ") and result.stderr.count("\n") == 1 and words in result.stderr
    assert not list(here.iterdir())


def test_a_folder_of_pickles_is_one_line_on_the_command_line(folder, here):
    for path in (folder / "unet").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    result = scorediff("--model", folder, "--prompt", "a cat")
    assert result.exit_code == 2 and "is a pickle" in result.stderr and result.stderr.count("\n") == 1
