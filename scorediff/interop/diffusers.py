"""Networks of diffusers as denoisers: an adapter for each class of model, chosen by the name of the class."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scorediff.denoiser import Denoiser
from scorediff.interop.trained import trained_as

__all__ = ["Adapter", "adapter_for", "from_diffusers", "network_of"]

# what is known of a condition's shape behind the batch dimension, None where it may be anything; or nothing at all
Shape = tuple[int | None, ...] | None


def from_diffusers(source: Any, scheduler: Any = None, *, shift: float | None = None) -> Denoiser:
    """The network of diffusers as a denoiser, on the schedule that it was trained on.

    `source` is a pipeline, whose network and scheduler are taken, or a model, with the `scheduler` that came with it or
    the configuration of one (a mapping); what that says of sampling (its steps, its clipping) is left out. `shift` is
    that of a flow, where the configuration leaves it to the size of the image: see `trained_as`.

    States are what the network works on, of shape (B, C, H, W): latents, or images of pixels in [-1, 1]; Flux's are not
    packed. Conditions are tensors of B rows, or `shared(row)` of one for all, by the names that the network knows:
    `encoder_hidden_states`, `pooled_projections`, `text_embeds`, `time_ids`, `class_labels`, `guidance` (a scale that
    the network is given); a learned variance is dropped. The network is given fractional times, except one whose time
    embedding is a table (`time_embedding_type` "learned"), which is given the nearest row.

    Raises TypeError for a class of model or of source that is not known and where no scheduler is given, ValueError for
    a model in training mode, one that wants what is not supported, or a configuration that lacks something.

    >>> import torch
    >>> from diffusers import DDPMScheduler, UNet2DModel
    >>> options = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}
    >>> net = UNet2DModel(sample_size=8, block_out_channels=(8,), norm_num_groups=4, **options).eval()
    >>> model, x = from_diffusers(net, DDPMScheduler()), torch.ones(3, 3, 8, 8)
    >>> model.prediction, model(0.5, x)[0].shape
    (NoisePrediction(), torch.Size([3, 3, 8, 8]))

    >>> from_diffusers(torch.nn.Linear(2, 2))
    Traceback (most recent call last):
        ...
    TypeError: Linear comes without a scheduler: give the one that it was trained with, or its config
    """
    scheduler = getattr(source, "scheduler", None) if scheduler is None else scheduler
    if scheduler is None:
        raise TypeError(
            f"{type(source).__name__} comes without a scheduler: give the one that it was trained with, or its config"
        )
    net = adapter_for(network_of(source))
    trained = trained_as(scheduler, shift=shift)
    return Denoiser(net, trained.schedule, trained.prediction, time=trained.time)


def network_of(source: Any) -> nn.Module:
    """The network of a pipeline, its `unet` or `transformer`; a module itself. Raises TypeError where there is none."""
    if isinstance(source, nn.Module):
        return source
    for name in ("unet", "transformer"):
        if isinstance(getattr(source, name, None), nn.Module):
            return getattr(source, name)
    raise TypeError(
        f"{type(source).__name__} has neither a unet nor a transformer: give a pipeline with one, or a model"
    )


class Adapter(nn.Module, ABC):
    """A model of diffusers as `(x, t, **cond) -> output`, with `x` and the output of shape (B, C, H, W), `t` of shape
    (B,) and conditions of B rows, or of one for all. `net` is the model, `config` its configuration.

    Raises ValueError for a model in training mode or one that takes another image beside the state; when called,
    TypeError or ValueError for a state or conditions that it does not take.
    """

    #: How many classes its labels are of, and the label of none; None where there are none, or it has no such label.
    classes: int | None = None
    null: int | None = None
    net: Any
    config: Any

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.config = net, net.config
        #: Rows and columns of a state come in multiples of it.
        self.patch: int = self.config.get("patch_size") or 1
        if net.training:
            raise ValueError(f"{self.name} is in training mode, in which networks drop at random: call its eval()")
        channels = self.config.in_channels or 0
        made = self.config.out_channels or channels
        if made not in (channels, 2 * channels):
            raise ValueError(
                f"{self.name} takes {channels} channels and returns {made}: an image beside the state is not supported"
            )

    @property
    def name(self) -> str:
        """The class of the model."""
        return _plain(self.net).__name__

    @property
    def channels(self) -> int:
        """The channels of a state."""
        return self.config.in_channels

    @property
    @abstractmethod
    def conditions(self) -> Mapping[str, Shape]:
        """What it must be given, by name, with the shape of one sample's."""

    @abstractmethod
    def call(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """What the model makes of checked input."""

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._check_state(x)
        cond = {name: _for_all(value, len(x)) for name, value in cond.items()}
        self._check(cond, len(x))
        output = self.call(x, t, cond)
        # the second half is a learned variance
        return output[:, : x.shape[1]] if output.shape[1] == 2 * x.shape[1] else output

    def _check_state(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels or any(side % self.patch for side in x.shape[2:]):
            sides = f", with H and W multiples of {self.patch}" if self.patch > 1 else ""
            raise ValueError(f"a state of shape {tuple(x.shape)}: {self.name} wants (B, {self.channels}, H, W){sides}")

    def _check(self, cond: Mapping[str, Any], batch: int) -> None:
        for name, inner in self.conditions.items():
            if name not in cond:
                listed = ", ".join(f"{key!r}: {_shape(value)}" for key, value in self.conditions.items())
                raise ValueError(f"{self.name} wants {name}: give cond={{{listed}}}")
            value = cond[name]
            if not isinstance(value, Tensor):
                raise TypeError(f"cond[{name!r}] must be a tensor, got {type(value).__name__}")
            if value.shape[:1] != (batch,) or (inner is not None and not _fits(value.shape[1:], inner)):
                raise ValueError(
                    f"cond[{name!r}] has shape {tuple(value.shape)}: {_shape(inner)} is wanted, with B = {batch}"
                )
        unknown = sorted(cond.keys() - self.conditions.keys())
        if unknown:
            why = ", which is for ClassifierFree(model, scale)" if unknown[0].startswith("negative_") else ""
            known = ", ".join(self.conditions) or "nothing"
            raise TypeError(f"{self.name} knows no condition {unknown[0]!r}{why}: it takes {known}")


class _UNet(Adapter):
    """`UNet2DModel`."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.classes = self.config.num_class_embeds

    @property
    def conditions(self) -> Mapping[str, Shape]:
        return _labels(self.net)

    def call(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        # a table of embeddings has none between its rows
        times = t.round().long() if self.config.time_embedding_type == "learned" else t
        return self.net(x, times, **cond, return_dict=False)[0]


class _ConditionedUNet(Adapter):
    """`UNet2DConditionModel`: Stable Diffusion's, and with `text_embeds` and `time_ids` SDXL's (arXiv:2307.01952)."""

    #: What SDXL's network is given besides the text.
    added: Mapping[str, Shape] = {"text_embeds": (None,), "time_ids": (None,)}

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        kinds = {key: self.config[key] for key in ("addition_embed_type", "encoder_hid_dim_type")}
        for key, kind in kinds.items():
            if kind not in (None, "text", "text_time", "text_proj"):
                raise ValueError(f"{self.name} with {key} {kind!r}: an image as a condition is not supported")

    @property
    def conditions(self) -> Mapping[str, Shape]:
        # more than one width, or one before a projection
        width = self.config.encoder_hid_dim or self.config.cross_attention_dim
        wanted: dict[str, Shape] = {"encoder_hidden_states": (None, width if isinstance(width, int) else None)}
        if self.config.addition_embed_type == "text_time":
            wanted |= self.added
        if self.config.time_cond_proj_dim is not None:
            wanted["timestep_cond"] = (self.config.time_cond_proj_dim,)
        return wanted | _labels(self.net)

    def call(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        added = {key: cond.pop(key) for key in self.added if key in cond}
        return self.net(x, t, **cond, added_cond_kwargs=added or None, return_dict=False)[0]


class _DiT(Adapter):
    """`DiTTransformer2DModel`, and the `Transformer2DModel` of older folders (arXiv:2212.09748)."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        if self.config.norm_type != "ada_norm_zero":
            raise ValueError(f"{self.name} with norm_type {self.config.norm_type!r}: DiT's 'ada_norm_zero' is known")
        self.classes = self.null = self.config.num_embeds_ada_norm

    @property
    def conditions(self) -> Mapping[str, Shape]:
        return {"class_labels": ()}

    def call(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        if x.shape[2] != x.shape[3]:
            raise ValueError(f"a state of shape {tuple(x.shape)}: {self.name} makes square ones")
        return self.net(x, timestep=t, **cond, return_dict=False)[0]


class _Joint(Adapter):
    """A transformer of text and image in one row of tokens."""

    @property
    def conditions(self) -> Mapping[str, Shape]:
        return {
            "encoder_hidden_states": (None, self.config.joint_attention_dim),
            "pooled_projections": (self.config.pooled_projection_dim,),
        }


class _SD3(_Joint):
    """`SD3Transformer2DModel` (arXiv:2403.03206)."""

    def call(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.net(x, timestep=t, **cond, return_dict=False)[0]


class _Flux(_Joint):
    """`FluxTransformer2DModel`: patches of 2 by 2 are its tokens; its text has no place, its image rows and columns."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.patch = 2

    @property
    def channels(self) -> int:
        return self.config.in_channels // self.patch**2

    @property
    def conditions(self) -> Mapping[str, Shape]:
        return {**super().conditions, **({"guidance": ()} if self.config.guidance_embeds else {})}

    def call(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        tokens = torch.nn.functional.pixel_unshuffle(x, self.patch)  # (B, 4 C, rows, columns)
        rows, columns = tokens.shape[2:]
        places = torch.cartesian_prod(
            *(torch.arange(n, device=x.device, dtype=torch.float32) for n in (1, rows, columns))
        )
        # it is given sigma, and makes 1000 sigma of it
        output = self.net(
            tokens.flatten(2).transpose(1, 2),
            timestep=t / 1000,
            img_ids=places,
            txt_ids=places.new_zeros(cond["encoder_hidden_states"].shape[1], 3),
            **cond,
            return_dict=False,
        )[0]
        return torch.nn.functional.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), self.patch)


_ADAPTERS: Mapping[str, type[Adapter]] = {
    "UNet2DModel": _UNet,
    "UNet2DConditionModel": _ConditionedUNet,
    "DiTTransformer2DModel": _DiT,
    "Transformer2DModel": _DiT,
    "SD3Transformer2DModel": _SD3,
    "FluxTransformer2DModel": _Flux,
}


def adapter_for(net: nn.Module) -> Adapter:
    """The adapter of a model's class, or of the nearest one above it. Raises TypeError where none is known."""
    for cls in _plain(net).__mro__:
        if cls.__name__ in _ADAPTERS:
            return _ADAPTERS[cls.__name__](net)
    raise TypeError(
        f"{_plain(net).__name__} is not known, as are {', '.join(_ADAPTERS)}: write its call down, "
        "Denoiser(lambda x, t: net(x, t).sample, schedule, prediction)"
    )


def _plain(net: Any) -> type[Any]:
    # torch.compile puts another class around the module
    return type(getattr(net, "_orig_mod", net))


def _labels(net: Any) -> dict[str, Shape]:
    if net.class_embedding is None:
        return {}
    # an embedding by number; other kinds take vectors
    return {"class_labels": () if isinstance(net.class_embedding, nn.Embedding) else None}


def _for_all(value: Any, batch: int) -> Any:
    """One row that is shared, as so many."""
    one_row = isinstance(value, Tensor) and value.shape[:1] == (1,)
    return value.expand(batch, *value.shape[1:]) if one_row else value


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, side) for side, want in zip(shape, wanted, strict=True))


def _shape(inner: Shape) -> str:
    """A shape in words, `(B, *, 768)`."""
    sides = ("...",) if inner is None else tuple("*" if side is None else str(side) for side in inner)
    return f"({', '.join(('B', *sides))})" if sides else "(B,)"
