"""Prompts or class labels as conditions of the network of a pipeline of diffusers, made by the pipeline itself."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorediff._core import registry
from scorediff.interop.diffusers import Adapter

__all__ = ["Prompts", "conditions_of", "guidance_scale_of"]

#: One prompt or class, or several.
Prompts = str | int | Sequence[str] | Sequence[int]
Made = dict[str, Tensor | None]


@dataclass(frozen=True)
class _Asked:
    """`each` prompt or label, with `count` rows for it, for images of `pixels` (height, width); where it is `guided`,
    what stands `against` each, None for the pipeline's own nothing.
    """

    each: list[Any]
    against: list[Any] | None
    guided: bool
    count: int
    pixels: tuple[int, int]

    @property
    def rows(self) -> int:
        return len(self.each) * self.count


def conditions_of(
    pipe: Any,
    adapter: Adapter,
    prompts: Prompts | None,
    *,
    negative: Prompts | None,
    count: int,
    pixels: tuple[int, int],
) -> dict[str, Tensor]:
    """The conditions of the network of `pipe`, which `adapter` calls: see `DiffusersPipeline.conditions`."""
    name = type(pipe).__name__
    if count < 1:
        raise ValueError(f"count = {count}: at least 1 is needed")
    if not adapter.conditions:
        for given in (prompts, negative):
            if given is not None:
                raise TypeError(f"{name} takes neither prompts nor labels: drop {given!r}")
        return {}
    kind, make = ("label", _labelled) if set(adapter.conditions) == {"class_labels"} else ("prompt", _written)
    if prompts is None:
        raise TypeError(f"{name} wants a {kind}, and none is given")
    each = _each(prompts, 1)
    against = [] if negative is None else _each(negative, len(each))
    if negative is not None and len(against) != len(each):
        raise ValueError(f"{len(against)} negatives for {len(each)} {kind}s: give one for all, or one for each")
    asked = _Asked(each, against if any(v != "" for v in against) else None, negative is not None, count, pixels)
    with torch.no_grad():
        return {key: value for key, value in make(pipe, adapter, asked).items() if value is not None}


def guidance_scale_of(pipe: Any) -> float:
    """The scale of guidance that a pipeline takes by default; 1, which is none, where it knows none."""
    known = inspect.signature(type(pipe).__call__).parameters.get("guidance_scale")
    default = None if known is None else known.default
    return float(default) if isinstance(default, (int, float)) else 1.0


def _each(prompts: Prompts, count: int) -> list[Any]:
    return [prompts] * count if isinstance(prompts, (str, int)) else list(prompts)


def _labelled(pipe: Any, adapter: Adapter, asked: _Asked) -> Made:
    def rows(labels: list[Any]) -> Tensor:
        numbers = [_number(pipe, adapter, label) for label in labels]
        return torch.tensor(numbers, device=pipe.device).repeat_interleave(asked.count)

    against = asked.against or [""] * len(asked.each)
    return {"class_labels": rows(asked.each), "negative_class_labels": rows(against) if asked.guided else None}


def _number(pipe: Any, adapter: Adapter, label: Any) -> int:
    """A class by number or name; the empty name is none of them."""
    names: Mapping[Any, int] = getattr(pipe, "labels", None) or {}
    if label == "" and adapter.null is not None:
        return adapter.null
    if isinstance(label, int) and 0 <= label < (adapter.classes or 0):
        return label
    if label not in names:
        hint = registry.nearest(str(label), names) or f"; known: 0 to {(adapter.classes or 0) - 1}"
        raise ValueError(f"{type(pipe).__name__} knows no class {label!r}{hint}")
    return names[label]


def _written(pipe: Any, adapter: Adapter, asked: _Asked) -> Made:
    known = [_WRITERS[cls.__name__] for cls in type(pipe).__mro__ if cls.__name__ in _WRITERS]
    if not known:
        raise TypeError(
            f"how {type(pipe).__name__} encodes text is not known, as it is of {', '.join(_WRITERS)}: make the "
            f"conditions of its network yourself, {', '.join(adapter.conditions)}"
        )
    for word in (*asked.each, *(asked.against or ())):
        if not isinstance(word, str):
            raise TypeError(f"a prompt must be text, got {word!r}")
    made = known[0](pipe, asked)
    if "guidance" in adapter.conditions:
        made["guidance"] = torch.full((asked.rows,), guidance_scale_of(pipe), device=pipe.device)
    return made


def _stable_diffusion(pipe: Any, asked: _Asked) -> Made:
    text, against = pipe.encode_prompt(
        asked.each, pipe.device, asked.count, asked.guided, negative_prompt=asked.against
    )
    return {"encoder_hidden_states": text, "negative_encoder_hidden_states": against}


def _stable_diffusion_xl(pipe: Any, asked: _Asked) -> Made:
    made = _pooled(pipe, asked, "text_embeds")
    # the size of the image before and after cropping, and where it was cut out
    height, width = asked.pixels
    places = torch.tensor([[height, width, 0, 0, height, width]], device=pipe.device)
    return made | {"time_ids": places.repeat(asked.rows, 1).to(made["text_embeds"])}


def _stable_diffusion_3(pipe: Any, asked: _Asked) -> Made:
    return _pooled(pipe, asked, "pooled_projections", prompt_2=None, prompt_3=None)


def _flux(pipe: Any, asked: _Asked) -> Made:
    def encoded(words: list[str]) -> tuple[Tensor, Tensor]:
        return pipe.encode_prompt(words, None, device=pipe.device, num_images_per_prompt=asked.count)[:2]

    names = ("encoder_hidden_states", "pooled_projections")
    made: Made = dict(zip(names, encoded(asked.each), strict=True))
    if asked.guided:
        against = encoded(asked.against or [""] * len(asked.each))
        made |= {f"negative_{name}": value for name, value in zip(names, against, strict=True)}
    return made


def _pooled(pipe: Any, asked: _Asked, name: str, **others: None) -> Made:
    """Text as tokens, and as one vector that the network knows by `name`."""
    text, against, pooled, pooled_against = pipe.encode_prompt(
        asked.each,
        **others,
        device=pipe.device,
        num_images_per_prompt=asked.count,
        do_classifier_free_guidance=asked.guided,
        negative_prompt=asked.against,
    )
    return {
        "encoder_hidden_states": text,
        "negative_encoder_hidden_states": against,
        name: pooled,
        f"negative_{name}": pooled_against,
    }


_WRITERS: Mapping[str, Callable[[Any, _Asked], Made]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
}
