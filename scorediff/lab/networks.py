"""The networks of the shipped checkpoints: a small U-Net for images, and a perceptron for vectors.

A `Network` is a recipe: plain numbers, written into a checkpoint, that `build` makes a module from. For larger work
there is `DiffusersUNet`, or any user-defined module.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorediff.schedules import Schedule, VPDiscrete

__all__ = ["MLP", "DiffusersUNet", "Network", "UNet"]


@dataclass(frozen=True)
class Network(ABC):
    """Makes modules `(x, t, label=None) -> output` with x and the output of shape (B, ...), t of shape (B,).

    `label` of shape (B,), int64, is a class in 0 .. classes - 1, or `classes` for none; where it is not given, no
    sample has one.
    """

    @abstractmethod
    def build(self, shape: Sequence[int], classes: int = 0) -> nn.Module:
        """A module for samples of `shape`, its weights drawn from torch's generator. Raises ValueError for a shape that
        it cannot take. Is called on torch's meta device, too, to know its size.
        """

    def time(self, schedule: Schedule) -> Callable[[Any], Any]:
        """The number that the network wants for the time t of a schedule: `log(sigma / alpha) / 4`, as EDM's does
        (arXiv:2206.00364), the same on every schedule.
        """
        return lambda t: -schedule.log_snr(t) / 4


class _Embedding(nn.Module):
    """Time and class as one vector of `size` numbers."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        # a quarter of a turn for a time of 1, to 16 of them
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * torch.logspace(-2, 4, 32, base=2.0), persistent=False)
        self.first, self.second = nn.Linear(64, size), nn.Linear(size, size)
        self.classes, self.label = classes, nn.Embedding(classes + 1, size) if classes else None

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        angles = t.to(torch.float32)[:, None] * self.frequencies.to(torch.float32)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.first.weight.dtype)
        vector = self.second(F.silu(self.first(waves)))
        if self.label is None:
            if label is not None:
                raise TypeError("this network takes no classes: drop label=")
            return F.silu(vector)
        if label is None:
            label = torch.full((len(t),), self.classes, device=t.device)
        return F.silu(vector + self.label(label))


class _Block(nn.Module):
    """Two convolutions beside a skip, with scale and shift from the embedding (arXiv:2105.05233)."""

    def __init__(self, into: int, out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = (nn.GroupNorm(max(c // 16, 1), c) for c in (into, out))
        self.conv_1, self.conv_2 = (nn.Conv2d(c, out, 3, padding=1) for c in (into, out))
        self.embed, self.dropout = nn.Linear(embedding, 2 * out), nn.Dropout(dropout)
        self.skip = nn.Conv2d(into, out, 1) if into != out else nn.Identity()
        _zero(self.conv_2)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.embed(vector)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm_2(h), scale + 1))
        return self.skip(x) + self.conv_2(self.dropout(h))


class _Attention(nn.Module):
    """Self-attention over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # heads of 64 channels, or of the next number that divides them
        self.heads = next(heads for heads in range(max(channels // 64, 1), 0, -1) if channels % heads == 0)
        self.norm = nn.GroupNorm(max(channels // 16, 1), channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        _zero(self.out)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        found = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(found.transpose(-1, -2).reshape(x.shape))


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    # a residual branch begins as nothing, and the network as 0
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class _UNetModule(nn.Module):
    def __init__(self, recipe: "UNet", channels: int, classes: int) -> None:
        super().__init__()
        widths, size, self.patch = [recipe.width * m for m in recipe.multiples], 4 * recipe.width, recipe.patch
        self.embedding = _Embedding(size, classes)
        self.enter = nn.Conv2d(channels * recipe.patch**2, widths[0], 3, padding=1)

        def block(into: int, out: int, level: int) -> nn.ModuleList:
            layers: list[nn.Module] = [_Block(into, out, size, recipe.dropout)]
            if level >= recipe.attention_from:
                layers.append(_Attention(out))
            return nn.ModuleList(layers)

        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        kept, now = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(recipe.blocks):
                self.down.append(block(now, width, level))
                kept.append(now := width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                kept.append(now)
        self.middle = nn.ModuleList([*block(now, now, len(widths) - 1), _Block(now, now, size, recipe.dropout)])
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(recipe.blocks + 1):
                self.up.append(block(now + kept.pop(), width, level))
                now = width
            if level:
                self.grow.append(nn.Conv2d(now, now, 3, padding=1))
        self.norm = nn.GroupNorm(max(now // 16, 1), now)
        self.leave = nn.Conv2d(now, channels * recipe.patch**2, 3, padding=1)
        _zero(self.leave)
        self.blocks = recipe.blocks

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        vector = self.embedding(t, label)
        h = self.enter(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        kept = [h]
        for i, layers in enumerate(self.down):
            for layer in layers:  # type: ignore[attr-defined]
                h = layer(h, vector)
            kept.append(h)
            if (i + 1) % self.blocks == 0 and (i + 1) // self.blocks <= len(self.shrink):
                h = self.shrink[(i + 1) // self.blocks - 1](h)
                kept.append(h)
        for layer in self.middle:
            h = layer(h, vector)
        for i, layers in enumerate(self.up):
            h = torch.cat([h, kept.pop()], dim=1)
            for layer in layers:  # type: ignore[attr-defined]
                h = layer(h, vector)
            if (i + 1) % (self.blocks + 1) == 0 and (i + 1) // (self.blocks + 1) <= len(self.grow):
                h = self.grow[(i + 1) // (self.blocks + 1) - 1](F.interpolate(h, scale_factor=2.0))
        h = self.leave(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h


@dataclass(frozen=True)
class UNet(Network):
    """A U-Net of residual blocks, with attention on its coarse levels; the defaults are for images of 8 by 8 pixels.

    `width`: channels, a multiple of 16. `multiples`: of them, one for each level, each of half the resolution of the
    one before. `blocks`: on each level. `patch`: pixels a side of the squares that images go in as; 1, every pixel.
    `attention_from`: the first level with attention; the second, where images are small enough for it. `dropout`: the
    fraction of channels left out in training; none, since small networks do not overfit.

    Raises ValueError for numbers that cannot be.
    """

    width: int = 32
    multiples: tuple[int, ...] = (1, 2)
    blocks: int = 2
    patch: int = 1
    attention_from: int = 1
    dropout: float = 0.0
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"unet": {}}

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1 is needed")
        if not self.multiples or min(self.multiples) < 1:
            raise ValueError(f"multiples = {self.multiples}: a positive whole number for each level")
        if self.width % 16:
            raise ValueError(f"width = {self.width}: channels come in groups of 16")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}: a fraction from 0 to below 1")

    def build(self, shape: Sequence[int], classes: int = 0) -> nn.Module:
        if len(shape) != 3:
            raise ValueError(f"samples of shape {tuple(shape)}: a UNet wants images (C, H, W); MLP takes vectors")
        fold = self.patch * 2 ** (len(self.multiples) - 1)
        if shape[1] % fold or shape[2] % fold:
            raise ValueError(
                f"images of {shape[1]}x{shape[2]} pixels: with patch = {self.patch} and {len(self.multiples)} levels "
                f"both sides must be multiples of {fold}"
            )
        return _UNetModule(self, shape[0], classes)


class _MLPModule(nn.Module):
    def __init__(self, recipe: "MLP", size: int, classes: int) -> None:
        super().__init__()
        self.embedding, self.enter = _Embedding(recipe.width, classes), nn.Linear(size, recipe.width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(recipe.width), nn.Linear(recipe.width, recipe.width), nn.SiLU())
            for _ in range(recipe.depth)
        )
        self.leave = nn.Linear(recipe.width, size)
        _zero(self.leave)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        vector, h = self.embedding(t, label), self.enter(x.flatten(1))
        for layer in self.layers:
            h = h + layer(h + vector)
        return self.leave(h).reshape(x.shape)


@dataclass(frozen=True)
class MLP(Network):
    """A residual perceptron, for vectors and other small samples.

    `width`: numbers in a layer. `depth`: layers. The defaults learn points in the plane. Raises ValueError for numbers
    below 1.
    """

    width: int = 128
    depth: int = 4

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1 is needed")

    def build(self, shape: Sequence[int], classes: int = 0) -> nn.Module:
        return _MLPModule(self, math.prod(shape), classes)


class _DiffusersModule(nn.Module):
    """diffusers' UNet2DModel behind our calling convention."""

    def __init__(self, options: dict[str, Any], classes: int) -> None:
        super().__init__()
        try:
            with torch.device("cpu"):  # not what it keeps of the import, where the network is made on another device
                from diffusers import UNet2DModel
        except ImportError as error:
            raise ModuleNotFoundError("DiffusersUNet wants diffusers: pip install 'scorediff[train]'") from error
        self.classes = classes
        self.net = UNet2DModel(**options, num_class_embeds=classes + 1 if classes else None)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if self.classes and label is None:
            label = torch.full((len(t),), self.classes, device=t.device)
        return self.net(x, t, class_labels=label, return_dict=False)[0]


@dataclass(frozen=True)
class DiffusersUNet(Network):
    """diffusers' `UNet2DModel`, made with `options`, its keyword arguments (none: its defaults); wants the extra
    `train`.

    Its time is the row of the table of a `VPDiscrete`, else 1000 t.
    """

    options: dict[str, Any] = field(default_factory=dict)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"diffusers-unet": {}}

    def build(self, shape: Sequence[int], classes: int = 0) -> nn.Module:
        if len(shape) != 3:
            raise ValueError(f"samples of shape {tuple(shape)}: UNet2DModel wants images (C, H, W)")
        given = {"sample_size": tuple(shape[1:]), "in_channels": shape[0], "out_channels": shape[0], **self.options}
        return _DiffusersModule(given, classes)

    def time(self, schedule: Schedule) -> Callable[[Any], Any]:
        return schedule.index if isinstance(schedule, VPDiscrete) else lambda t: 1000 * t
