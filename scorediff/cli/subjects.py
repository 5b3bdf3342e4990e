"""What `scorediff sample` samples: targets, checkpoints, and pipelines of diffusers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorediff._core import registry
from scorediff._core.files import expanded
from scorediff.cli import options
from scorediff.guidance import ClassifierFree
from scorediff.interop.folders import is_pipeline
from scorediff.interop.pipelines import DiffusersPipeline
from scorediff.lab.checkpoints import load, shipped
from scorediff.targets import Target

__all__ = ["Asked", "Subject", "subject_for"]


@dataclass(frozen=True)
class Asked:
    """The words of a command line that say what to sample; None, what was not said.

    `model`: a target, a checkpoint or the folder of a pipeline. `bandwidth`: of the digits. `schedule`: by name.
    `prompt` and `negative`: what a pipeline is to show, and what it is guided away from. `guidance`: its scale. `size`:
    the sides of a pipeline's images, in pixels.
    """

    model: str
    bandwidth: float | None = None
    schedule: str | None = None
    prompt: str | None = None
    negative: str | None = None
    guidance: float | None = None
    size: int | None = None

    def on(self, denoiser: Any) -> Any:
        """A network on the schedule that was asked for, by default its own."""
        return denoiser if self.schedule is None else denoiser.on(options.parse_schedule(self.schedule))

    def refuse(self, *names: str, why: str) -> None:
        """Raise ValueError for the first of these options that was given, and not as the empty text."""
        for name in names:
            value = getattr(self, name)
            if value not in (None, ""):
                raise ValueError(f"--{name} {value!r}: {why}; drop it")

    @property
    def said(self) -> dict[str, Any]:
        """What was asked of a pipeline, to be written down."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "bandwidth", "schedule")}


@dataclass(frozen=True)
class Subject:
    """What is sampled: by `denoiser`, in samples of `shape`.

    `said`: what to write down of it. `target`: the exact distribution, where it is known. Labels go to the denoiser as
    `labelled`: there are `classes` of them, some with `names`, and `null` stands for none. `conditions`: makes the
    other conditions of a number of samples. Where samples are latents, `decode` makes images of them, of shape
    `pixels`, and `encode` goes back. `terminal`: the name of what ends a run, by default. `count`: how many samples are
    made by default; a pipeline's take long.
    """

    denoiser: Any
    shape: tuple[int, ...]
    said: dict[str, Any]
    target: Target | None = None
    labelled: str = "label"
    classes: int = 0
    names: Mapping[str, int] = field(default_factory=dict)
    null: int | None = None
    conditions: Callable[[int], dict[str, Tensor]] = lambda count: {}
    decode: Callable[[Tensor], Tensor] | None = None
    encode: Callable[[Tensor], Tensor] = lambda images: images
    pixels: tuple[int, ...] = ()
    terminal: str = "none"
    count: int = 64

    def label(self, word: str) -> Callable[[Sequence[int]], Tensor] | None:
        """The classes of samples by their ids: 'all' in turn, 'none', a number or a name."""
        if not self.classes:
            if word != "all":
                raise ValueError(f"--label {word}: {self.said['model']} takes no classes")
            return None
        known = {"all": -1} | ({} if self.null is None else {"none": self.null})
        known |= {str(i): i for i in range(self.classes)} | dict(self.names)
        label = options.chosen("--label", word, known)
        if label == -1:
            return lambda ids: torch.tensor([i % self.classes for i in ids])
        return lambda ids: torch.full((len(ids),), label)


def subject_for(asked: Asked) -> Subject:
    """A target by name, a pipeline by its folder, else a checkpoint by name or place. Raises ValueError for what it
    does not take.
    """
    expanded(asked.model)
    return next(make for known, make in _KINDS if known(asked.model))(asked)


def _target(asked: Asked) -> Subject:
    asked.refuse(*asked.said, why=f"{asked.model} is not a pipeline of diffusers")
    target = options.target_named(asked.model, asked.bandwidth)
    said = {"model": asked.model, "bandwidth": getattr(target, "bandwidth", None)}
    denoiser = target.denoiser(options.parse_schedule(asked.schedule or "vp-linear"))
    return Subject(denoiser, target.event_shape, said, target)


def _checkpoint(asked: Asked) -> Subject:
    asked.refuse("bandwidth", why="it smooths the data set of --model digits")
    pipeline = f"{asked.model} is not a pipeline of diffusers, a folder with model_index.json"
    asked.refuse("prompt", "negative", "size", why=pipeline)
    try:
        checkpoint = load(asked.model)
    except FileNotFoundError:
        known = (*options.models(), *shipped())
        places = "a run's folder, a file .safetensors, the folder of a pipeline of diffusers"
        hint = registry.nearest(asked.model, known) or f"; known: {', '.join(known)}, {places}"
        raise ValueError(f"unknown model {asked.model!r}{hint}") from None
    made = {key: value for key, value in checkpoint.to_dict().items() if key in ("network", "prediction")}
    step, weights = checkpoint.card.get("step"), checkpoint.fingerprint()
    denoiser: Any = checkpoint.denoiser
    if asked.guidance is not None:
        if not checkpoint.classes:
            asked.refuse("guidance", why=f"{asked.model} takes no classes to be guided to")
        denoiser = ClassifierFree(denoiser, asked.guidance, checkpoint.null)
        made["guidance"] = asked.guidance
    return Subject(
        asked.on(denoiser),
        checkpoint.shape,
        {"model": Path(asked.model).name, **made, "step": step, "weights": weights},
        classes=checkpoint.classes,
        names={name: i for i, name in enumerate(checkpoint.names)},
        null=checkpoint.classes,
    )


def _pipeline(asked: Asked) -> Subject:
    asked.refuse("bandwidth", why="it smooths the data set of --model digits")
    pipeline = DiffusersPipeline.load(asked.model)
    if asked.size is not None:
        pipeline = pipeline.sized(asked.size, asked.size)
    how = {frozenset[str](): _unconditional, frozenset({"class_labels"}): _labelled}
    scale = pipeline.guidance_scale if asked.guidance is None else asked.guidance
    denoiser, conditioning = how.get(frozenset(pipeline.adapter.conditions), _written)(pipeline, asked, scale)
    taken = {"pipeline": pipeline.name, **asked.said, "guidance": scale, "size": list(pipeline.pixels)}
    images = {"decode": pipeline.decode, "encode": pipeline.encode, "pixels": pipeline.image_shape}
    last: dict[str, Any] = {**conditioning, **images, "terminal": "denoise", "count": 1}
    return Subject(asked.on(denoiser), pipeline.shape, {"model": Path(asked.model).name, **taken}, **last)


def _unconditional(pipeline: DiffusersPipeline, asked: Asked, scale: float) -> tuple[Any, dict[str, Any]]:
    asked.refuse("prompt", "negative", "guidance", why=f"{pipeline.name} takes no conditions, hence is not guided")
    return pipeline.denoiser, {}


def _labelled(pipeline: DiffusersPipeline, asked: Asked, scale: float) -> tuple[Any, dict[str, Any]]:
    asked.refuse("prompt", "negative", why=f"{pipeline.name} is conditioned on a class, by --label")
    adapter = pipeline.adapter
    conditioning = {
        "labelled": "class_labels",
        "classes": adapter.classes or 0,
        "names": pipeline.labels,
        "null": adapter.null,
    }
    if adapter.null is None:
        asked.refuse("guidance", why=f"{pipeline.name} has no label for no class")
        return pipeline.denoiser, conditioning
    return ClassifierFree(pipeline.denoiser, scale, {"class_labels": adapter.null}), conditioning


def _written(pipeline: DiffusersPipeline, asked: Asked, scale: float) -> tuple[Any, dict[str, Any]]:
    if asked.prompt is None:
        raise ValueError(f"{pipeline.name} wants --prompt TEXT")
    encoded = partial(pipeline.conditions, asked.prompt)
    if "guidance" in pipeline.adapter.conditions:
        asked.refuse("negative", why=f"the network of {pipeline.name} is conditioned on its guidance, and needs none")
        return pipeline.denoiser, {"conditions": lambda n: encoded(count=n) | {"guidance": torch.full((n,), scale)}}
    if scale == 1:
        asked.refuse("negative", why="--guidance 1 means none")
        return pipeline.denoiser, {"conditions": lambda n: encoded(count=n)}
    negative = asked.negative or ""
    return ClassifierFree(pipeline.denoiser, scale), {"conditions": lambda n: encoded(negative=negative, count=n)}


_KINDS: tuple[tuple[Callable[[str], bool], Callable[[Asked], Subject]], ...] = (
    (lambda model: model in options.models(), _target),
    (is_pipeline, _pipeline),
    (lambda model: True, _checkpoint),
)
