"""Pipelines of diffusers with random weights, small enough to be made, saved, loaded and run in a second."""

import json
import string

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LDMPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

_LETTERS = string.ascii_lowercase
_VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
_UNET = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
LATENT = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
}


def unet(seed=0, **options):
    """Of pixels, 8 by 8."""
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    return UNet2DModel(**{**_UNET, **blocks, "in_channels": 3, "out_channels": 3, **options}).eval()


def text_unet(seed=0, **options):
    torch.manual_seed(seed)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**{**_UNET, **blocks, "cross_attention_dim": 16, **options}).eval()


def dit(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "norm_num_groups": 4}
    net = DiTTransformer2DModel(**{**sizes, "in_channels": 4, "out_channels": 8, **options})
    # it begins with layers of zeros, which hide its conditions
    return _lively(net).eval()


def vae(channels=4, **options):
    torch.manual_seed(1)
    return AutoencoderKL(**_VAE, latent_channels=channels, **{"scaling_factor": 0.7, **options}).eval()


def clip(kind=CLIPTextModel, seed=2, projection=16):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 54, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 12}
    return _lively(kind(CLIPTextConfig(**sizes, **ids, projection_dim=projection))).eval()


def clip_tokenizer(folder):
    """Letter by letter."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)


def ddpm(folder):
    return DDPMPipeline(unet(), DDPMScheduler(clip_sample=False))


def latent(folder):
    torch.manual_seed(1)
    vqvae = VQModel(**_VAE, latent_channels=3, num_vq_embeddings=16, vq_embed_dim=3, scaling_factor=0.6).eval()
    return LDMPipeline(vqvae, unet(), DDIMScheduler(**LATENT))


def stable_diffusion(folder):
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(folder / "words"),
        unet=text_unet(),
        scheduler=DDIMScheduler(**LATENT, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder):
    words = clip_tokenizer(folder / "words")
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 40,
    }
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(CLIPTextModelWithProjection, seed=3),
        tokenizer=words,
        tokenizer_2=words,
        unet=text_unet(**added, cross_attention_dim=32),
        scheduler=DDIMScheduler(**LATENT, set_alpha_to_one=False),
        add_watermarker=False,
    )


def class_dit(folder):
    return DiTPipeline(dit(), vae(), DDIMScheduler(clip_sample=False))


def stable_diffusion_3(folder):
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    widths = {"joint_attention_dim": 32, "pooled_projection_dim": 32, "in_channels": 4, "out_channels": 4}
    words = clip_tokenizer(folder / "words")
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(sample_size=8, pos_embed_max_size=8, **sizes, **widths).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=words,
        text_encoder_2=clip(CLIPTextModelWithProjection, seed=3),
        tokenizer_2=words,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux(folder, **options):
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    widths = {"in_channels": 16, "joint_attention_dim": 16, "pooled_projection_dim": 16, "axes_dims_rope": (4, 4, 8)}
    net = FluxTransformer2DModel(patch_size=1, guidance_embeds=True, **sizes, **widths).eval()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), *((letter, -2.0) for letter in _LETTERS)]
    t5 = T5EncoderModel(T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **options),
        vae=vae(shift_factor=0.1),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(folder / "words"),
        text_encoder_2=t5,
        tokenizer_2=T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=16),
        transformer=net,
    )


def _lively(net):
    """Weights as large as trained ones have, so that conditions change what is made."""
    for weight in net.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return net


def save(kind, folder):
    """A pipeline of a kind, by the name of its function here, in `folder / "saved"`."""
    globals()[kind](folder / "words").save_pretrained(folder / "saved")
    if kind == "class_dit":  # the folders of the authors name classes, those that diffusers writes do not
        path = folder / "saved" / "model_index.json"
        names = {"id2label": {"0": "white cat, cat", "7": "dog"}}
        path.write_text(json.dumps({**json.loads(path.read_text()), **names}))
    return folder / "saved"
