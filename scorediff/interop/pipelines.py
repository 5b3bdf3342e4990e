"""Pipelines of diffusers taken apart: their text encoders and autoencoder, and a denoiser for any solver between."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorediff.denoiser import Denoiser
from scorediff.interop.conditions import Prompts, conditions_of, guidance_scale_of
from scorediff.interop.diffusers import Adapter, adapter_for, from_diffusers, network_of
from scorediff.interop.folders import load_pipeline
from scorediff.interop.trained import shift_for

__all__ = ["DiffusersPipeline"]


@dataclass(frozen=True, eq=False)
class DiffusersPipeline:
    """A pipeline of diffusers around our solvers: prompts or labels become conditions, any solver carries states of
    `shape`, and images are made of them.

    `pipe` is any pipeline whose network `from_diffusers` knows; its scheduler says what the network was trained
    on, and takes no step. `size` is that of an image, (height, width) in pixels, None, the default, for the
    size that the pipeline is made for.

        pipeline = DiffusersPipeline.load(folder)
        flow = ProbabilityFlow(ClassifierFree(pipeline.denoiser, scale=7.5))
        cond = pipeline.conditions("a cat", negative="", count=4)
        x = sample(flow, "dpm++2m", (4, *pipeline.shape), steps=20, cond=cond, terminal="denoise").x
        images = pipeline.decode(x)

    A safety checker is not run. Raises TypeError for a network that is not known, ValueError for a size that the
    pipeline cannot make.
    """

    pipe: Any
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        multiple = self._cell * self.adapter.patch
        if any(side < 1 or side % multiple for side in self.size or ()):
            raise ValueError(f"size = {self.size}: {self.name} makes images whose sides are multiples of {multiple}")

    @classmethod
    def load(
        cls, folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "DiffusersPipeline":
        """The pipeline that `save_pretrained` wrote to `folder`, its weights in `dtype` on `device`.

        A folder of one `UNet2DModel` with its scheduler will do too. Nothing is fetched, no code of the folder is run,
        and weights are read from safetensors alone. Raises FileNotFoundError where there is no such folder, ValueError
        for one whose weights are pickles or that is damaged, ModuleNotFoundError without diffusers.
        """
        return cls(load_pipeline(folder, dtype).to(device))

    @property
    def name(self) -> str:
        """The class of the pipeline."""
        return type(self.pipe).__name__

    @cached_property
    def adapter(self) -> Adapter:
        """The network as it is called: it says what conditions it wants."""
        return adapter_for(network_of(self.pipe))

    @property
    def denoiser(self) -> Denoiser:
        """The network as a denoiser; of a flow whose shift depends on the size, for this size."""
        if not self.pipe.scheduler.config.get("use_dynamic_shifting"):
            return from_diffusers(self.pipe)
        rows, columns = (side // self.adapter.patch for side in self.shape[1:])
        return from_diffusers(self.pipe, shift=shift_for(self.pipe.scheduler, rows * columns))

    @property
    def guidance_scale(self) -> float:
        """The scale of guidance that the pipeline takes by default; 1, which is none, where it knows none."""
        return guidance_scale_of(self.pipe)

    @property
    def labels(self) -> Mapping[str, int]:
        """The names of classes, where the pipeline has some."""
        return getattr(self.pipe, "labels", None) or {}

    @property
    def pixels(self) -> tuple[int, int]:
        """The size of an image, (height, width)."""
        if self.size is not None:
            return self.size
        side = self.adapter.config.get("sample_size") or getattr(self.pipe, "default_sample_size", None)
        if side is None:
            raise ValueError(f"the network of {self.name} says no size: give sized(height, width)")
        height, width = (side, side) if isinstance(side, int) else side
        return height * self._cell, width * self._cell

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one sample, (C, H, W): of latents, or of pixels where there is no autoencoder."""
        height, width = self.pixels
        return self.adapter.channels, height // self._cell, width // self._cell

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image, (C, height, width)."""
        return self.shape[0] if self._vae is None else self._vae.config.in_channels, *self.pixels

    def sized(self, height: int, width: int) -> "DiffusersPipeline":
        """The same pipeline for images of `height` by `width` pixels."""
        return replace(self, size=(height, width))

    def conditions(
        self, prompts: Prompts | None = None, *, negative: Prompts | None = None, count: int = 1
    ) -> dict[str, Tensor]:
        """What the network is to be given: `count` rows in turn for each of the `prompts`, which are texts, or classes
        by number or name. An unconditional pipeline takes none.

        With `negative`, one for all or one for each, there is also what to be guided away from, for `ClassifierFree`,
        under names that begin with `negative_`; where it is empty for all, this is what stands for nothing in the
        pipeline (no text, zeros, no class). A network that takes a scale of guidance is given the pipeline's, as
        `guidance`.

        Raises TypeError for what the pipeline does not take, ValueError for a class that it does not know.
        """
        return conditions_of(self.pipe, self.adapter, prompts, negative=negative, count=count, pixels=self.pixels)

    def encode(self, images: Tensor) -> Tensor:
        """Images of shape (B, 3, H, W) in [-1, 1] as states (B, C, H', W'): the mean of what the autoencoder makes of
        them, or themselves without one. Raises ValueError for other images.
        """
        if images.ndim != 4 or not images.is_floating_point() or images.abs().amax() > 1.01:
            raise ValueError(
                f"images of {images.dtype} of shape {tuple(images.shape)}, from {images.min():g} to {images.max():g}: "
                "floats of shape (B, C, H, W) in [-1, 1] are wanted"
            )
        if self._vae is None:
            return images
        with torch.no_grad(), _wide_enough(self._vae) as vae:
            made = vae.encode(images.to(vae.device, vae.dtype))
            z = made.latent_dist.mode() if hasattr(made, "latent_dist") else made.latents
            mean, std = self._moments(z)
            return ((z - mean) / std).to(images)

    def decode(self, latents: Tensor) -> Tensor:
        """States of shape (B, C, H, W) as images (B, 3, H', W') in [-1, 1], as far as the autoencoder keeps to it; or
        themselves without one.
        """
        if self._vae is None:
            return latents
        with torch.no_grad(), _wide_enough(self._vae) as vae:
            mean, std = self._moments(latents)
            return vae.decode((latents * std + mean).to(vae.device, vae.dtype), return_dict=False)[0].to(latents)

    @property
    def _vae(self) -> Any:
        return getattr(self.pipe, "vae", None) or getattr(self.pipe, "vqvae", None)

    @property
    def _cell(self) -> int:
        """How many pixels one cell of a state is wide."""
        if self._vae is None:
            return 1
        own = getattr(self.pipe, "vae_scale_factor", None)
        return own or 2 ** (len(self._vae.config.block_out_channels) - 1)

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the autoencoder's latents, which the network has 0 and 1 for."""
        config = self._vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            mean, std = config.get("shift_factor") or 0.0, 1.0
        mean, std = (torch.as_tensor(v).to(like).reshape(1, -1, 1, 1) for v in (mean, std))
        return mean, std / config.get("scaling_factor", 1.0)


@contextmanager
def _wide_enough(vae: Any) -> Iterator[Any]:
    """The autoencoder in float32 where it says that it overflows in float16."""
    narrow = vae.dtype is torch.float16 and vae.config.get("force_upcast", False)
    convert = torch.nn.Module.to  # their own says each time that it may lose digits
    try:
        yield convert(vae, torch.float32) if narrow else vae
    finally:
        if narrow:
            convert(vae, torch.float16)
