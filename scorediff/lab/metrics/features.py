"""What images are compared by: any function of a batch, Inception's last layer, or that of a small classifier."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorediff._core import registry
from scorediff._core.files import expanded, read_json, shipped_tensors
from scorediff._core.sealed import read_tensors, write_tensors
from scorediff.lab.data import Data
from scorediff.lab.data.arrays import from_pixels, to_pixels
from scorediff.lab.fitting import fitting

__all__ = ["Classifier", "Extractor", "classifier", "features", "fit_classifier", "inception", "save_classifier"]

_KEY = "classifier"  # the entry of the header that makes a file one of ours

#: Images of shape (B, C, H, W), from -1 to 1, to features of shape (B, ...).
Extractor = Callable[[Tensor], Tensor]


@torch.no_grad()
def features(
    images: Tensor | np.ndarray | Data | Iterable[np.ndarray],
    extractor: Extractor,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """What `extractor` makes of images, float64 of shape (N, D): of an array of them, a data set, or files of samples.
    Bytes are pixels, 0 to 255.

    Raises ValueError where it makes something else than one row for each image.
    """
    found = []
    for batch in _batches(images, batch_size):
        made = extractor(batch.to(device))
        if not isinstance(made, Tensor) or len(made) != len(batch):
            what = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"the extractor made {what} of {len(batch)} images: one row for each is wanted")
        found.append(made.flatten(1).double().cpu().numpy())
    if not found:
        raise ValueError("give at least one image to take features of")
    return np.concatenate(found)


def _batches(images: Any, size: int) -> Iterator[Tensor]:
    if isinstance(images, Data):
        yield from (images.batch(slice(first, first + size)) for first in range(0, len(images), size))
        return
    for part in [images] if isinstance(images, (Tensor, np.ndarray)) else images:
        for batch in torch.as_tensor(part).split(size):
            yield from_pixels(batch)


class Classifier(nn.Module):
    """A small convolutional network; its 64 `features` are what comes before the classes, each of mean 0 and variance 1
    over the data.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        self.conv_1, self.conv_2 = nn.Conv2d(shape[0], 24, 3, padding=1), nn.Conv2d(24, 48, 3, padding=1)
        self.dense = nn.Linear(48 * (shape[1] // 4) * (shape[2] // 4), 64)
        self.last = nn.Linear(64, classes)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("std", torch.ones(64))

    def features(self, x: Tensor) -> Tensor:
        """Of shape (B, 64)."""
        return (self._dense(x) - self.mean) / self.std

    def _dense(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.silu(self.conv_1(x)), 2)
        h = F.max_pool2d(F.silu(self.conv_2(h)), 2)
        return F.silu(self.dense(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._dense(x))


def fit_classifier(data: Data, *, held_out: int = 256, epochs: int = 10, seed: int = 0) -> tuple[Classifier, float]:
    """A classifier of labelled images, and the fraction of `held_out` ones that it recognizes."""
    if data.labels is None or len(data.shape) != 3:
        raise ValueError(f"{data.title}: a classifier wants labelled images")
    train, test = (data.take(rows) for rows in data.split(held_out, seed))
    torch.manual_seed(seed)
    net, draw = Classifier(data.shape, data.classes), np.random.default_rng(seed)
    batch, steps = 128, epochs * -(-len(train) // 128)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    fall = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    rows = np.concatenate([draw.permutation(len(train)) for _ in range(epochs + 1)])
    labels = torch.from_numpy(np.asarray(train.labels))
    for i in range(steps):
        chosen = rows[i * batch : (i + 1) * batch]
        F.cross_entropy(net(train.batch(chosen)), labels[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
        fall.step()
    with torch.no_grad():
        found = torch.cat([net._dense(train.batch(slice(i, i + 1000))) for i in range(0, len(train), 1000)])
        net.mean.copy_(found.mean(0))
        net.std.copy_(found.std(0).clamp_min(1e-3))
        right = net(test.batch(slice(None))).argmax(1) == torch.from_numpy(np.asarray(test.labels))
    return net.eval().requires_grad_(False), float(right.float().mean())


def save_classifier(path: str | Path, net: Classifier, **said: Any) -> Path:
    """Write a classifier in half precision, with some words on how it was made."""
    card = {"shape": net.shape, "classes": net.classes, **said}
    return write_tensors(path, net.state_dict(), {_KEY: json.dumps(card)}, torch.float16)


def classifier(name: str | Path) -> Classifier:
    """The classifier that comes with the package for `digits` or `fashion-mnist`, or one from a file.

    Raises FileNotFoundError where there is none, ValueError for a damaged file.
    """
    known = shipped_tensors("classifiers")
    path = known.get(str(name)) or expanded(name)
    if not path.is_file():
        hint = registry.nearest(str(name), known) or f"; known: {', '.join(sorted(known))}, or a file .safetensors"
        raise FileNotFoundError(f"unknown classifier {str(name)!r}{hint}")
    try:
        weights, said = read_tensors(path, _KEY)
        card = read_json(path, said[_KEY])
        shape = registry.from_plain(tuple[int, int, int], card["shape"], "shape")
        classes = registry.from_plain(int, card["classes"], "classes")
        net = fitting(path, weights, lambda: Classifier(shape, classes))
        net.load_state_dict({key: w.float() for key, w in weights.items()})
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a classifier: {error}") from error
    return net.eval().requires_grad_(False)


def inception(weights: str | Path | None = None) -> Extractor:
    """The 2048 numbers of Inception's last pooling layer, with the weights of FID, through torchmetrics.

    `weights` is the file of them, `pt_inception-2015-12-05-6726825d.pth`; without it torch-fidelity looks where it
    keeps them. Raises ModuleNotFoundError without torchmetrics and torch-fidelity, FileNotFoundError where there is no
    such file.
    """
    if weights is not None and not expanded(weights).is_file():
        raise FileNotFoundError(f"cannot find the weights {weights}: give the file of Inception's")
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        path = None if weights is None else str(expanded(weights))
        net = NoTrainInceptionV3("inception-v3-compat", ["2048"], path)
    except ImportError as error:
        raise ModuleNotFoundError(f"inception wants torchmetrics, torch-fidelity and torchvision: {error}") from error

    def extract(images: Tensor) -> Tensor:
        whole = images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)
        return net.to(images.device)(to_pixels(whole))

    return extract
