"""How well images fit words."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorediff.lab.data.arrays import to_pixels
from scorediff.lab.metrics.estimate import Estimate

__all__ = ["clip_score"]


def clip_score(
    images: Tensor,
    words: Sequence[str],
    *,
    model: str | Path = "openai/clip-vit-base-patch16",
    device: torch.device | str = "cpu",
) -> Estimate:
    """100 times the mean cosine of images of shape (N, 3, H, W), from -1 to 1, and a text for each, in CLIP's space
    (arXiv:2104.08718), through torchmetrics.

    `model` is a folder with CLIP's weights, or a name that transformers knows. Raises ModuleNotFoundError without
    torchmetrics and transformers, OSError where the weights are not there, ValueError unless there is one text for each
    image.
    """
    count = 1 if isinstance(words, str) else len(words)
    if isinstance(words, str) or count != len(images) or not count:
        raise ValueError(f"{count} texts for {len(images)} images: give a list with one for each")
    try:
        from torchmetrics.multimodal import CLIPScore
        from transformers import CLIPModel, CLIPProcessor
    except ImportError as error:
        raise ModuleNotFoundError(f"clip_score wants torchmetrics and transformers: {error}") from error
    # torchmetrics by itself takes a few names only
    net, words_and_pixels = CLIPModel.from_pretrained(str(model)), CLIPProcessor.from_pretrained(str(model))
    for name in ("get_image_features", "get_text_features"):
        setattr(net, name, _pooled(getattr(net, name)))
    metric = CLIPScore(lambda: (net, words_and_pixels)).to(device)
    each = []
    for image, text in zip(to_pixels(images), words, strict=True):
        metric.reset()
        metric.update(image.to(device), text)
        each.append(float(metric.score))  # compute() would make a negative one 0
    scores = torch.tensor(each, dtype=torch.float64)
    standard_error = float(scores.std() / len(each) ** 0.5) if len(each) > 1 else float("nan")
    return Estimate(float(scores.mean()), standard_error)


def _pooled(features: Callable[..., Any]) -> Callable[..., Tensor]:
    """What transformers 5 returns in an object, as the tensor that torchmetrics expects of it."""

    def call(*given: Any) -> Tensor:
        found = features(*given)
        return found if isinstance(found, Tensor) else found.pooler_output

    return call
