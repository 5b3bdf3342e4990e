"""Trained networks in files: weights as safetensors, with all that makes a denoiser of them, as JSON, in the header."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorediff._core import registry
from scorediff._core.files import expanded, read_json, shipped_tensors
from scorediff._core.sealed import read_tensors, write_tensors
from scorediff.denoiser import Denoiser
from scorediff.lab.fitting import fitting
from scorediff.lab.networks import Network
from scorediff.predictions import Prediction
from scorediff.schedules import Schedule

__all__ = ["Checkpoint", "load", "save", "shipped"]

_FORMAT = 1
_KEY = "scorediff"
_LARGEST = 2**40  # numbers in a sample
#: The kinds of the entries of the header.
_ENTRIES: dict[str, Any] = {
    "network": dict[str, Any] | None,
    "schedule": dict[str, Any],
    "prediction": dict[str, Any],
    "shape": tuple[int, ...],
    "classes": int,
    "names": tuple[str, ...],
    "card": dict[str, Any],
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network: `net` on `schedule`, whose output is `prediction`, for samples of `shape`.

    `network`: the recipe that `net` was built from, None for a user-defined module. `classes`: how many labels it
    takes, 0 for none. `names`: of the classes, empty where they have none. `card`: how it came about, plain data.
    """

    net: nn.Module
    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, ...]
    network: Network | None = None
    classes: int = 0
    names: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def denoiser(self) -> Denoiser:
        """The network as a denoiser; it takes `label=`, of shape (B,), where there are classes."""
        time = None if self.network is None else self.network.time(self.schedule)
        return Denoiser(self.net, self.schedule, self.prediction, time=time)

    @property
    def null(self) -> dict[str, Any]:
        """The condition that stands for no class: `ClassifierFree(c.denoiser, scale, null=c.null)`."""
        return {"label": self.classes} if self.classes else {}

    def fingerprint(self) -> str:
        """A hash of the weights: two networks that differ in one bit have another."""
        mark = hashlib.sha256()
        for name, w in self.net.state_dict().items():
            mark.update(name.encode() + w.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return mark.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """All but the weights, as plain data."""
        return {
            "format": _FORMAT,
            "network": registry.to_dict(self.network),
            "schedule": registry.to_dict(self.schedule),
            "prediction": registry.to_dict(self.prediction),
            "shape": list(self.shape),
            "classes": self.classes,
            "names": list(self.names),
            "card": dict(self.card),
        }


def save(path: str | Path, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None) -> Path:
    """Write a checkpoint, whole or not at all; `dtype` of its floating weights, by default their own."""
    return write_tensors(path, checkpoint.net.state_dict(), {_KEY: json.dumps(checkpoint.to_dict())}, dtype)


def shipped() -> tuple[str, ...]:
    """The names of the checkpoints that come with the package."""
    return tuple(sorted(shipped_tensors()))


def load(
    name: str | Path,
    *,
    net: nn.Module | None = None,
    schedule: Schedule | None = None,
    device: torch.device | str = "cpu",
    dtype: Any = torch.float32,
) -> Checkpoint:
    """A checkpoint of the package by its name, or from a file, its weights in `dtype` on `device`, ready to evaluate.

    `net` is the module for a checkpoint that was trained around a user's, `schedule` the schedule for one that was
    trained on user-defined functions. Raises FileNotFoundError where there is no such file, ValueError for one that is
    damaged, is not a checkpoint, or does not fit the module.

    >>> load("digits-unet").shape
    (1, 8, 8)
    """
    path = _place(name)
    weights, said = _read(path)
    shape, classes = said["shape"], said["classes"]
    network = None if said["network"] is None else _made(path, Network, said["network"])
    prediction, schedule = _made(path, Prediction, said["prediction"]), schedule or _schedule(path, said["schedule"])
    if net is None:
        if network is None:
            raise ValueError(f"{path} was trained around a user-defined module: in Python, give it as net=")
        net = fitting(path, weights, lambda: network.build(shape, classes))
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {type(net).__name__}: {' '.join(str(error).split())}") from error
    net = net.to(device, dtype).eval().requires_grad_(False)
    return Checkpoint(net, schedule, prediction, shape, network, classes, said["names"], said["card"])


def _place(name: str | Path) -> Path:
    path = expanded(name)
    if path.is_dir():
        path = path / "model.safetensors"
    if path.is_file():
        return path
    known = shipped_tensors()
    if str(name) in known:
        return known[str(name)]
    hint = registry.nearest(str(name), known) or f"; known: {', '.join(sorted(known))}, or a file .safetensors"
    raise FileNotFoundError(f"unknown checkpoint {str(name)!r}{hint}")


def _schedule(path: Path, said: dict[str, Any]) -> Schedule:
    try:
        return registry.from_dict(Schedule, said)  # type: ignore[type-abstract]
    except ValueError as error:
        raise ValueError(
            f"the schedule of {path} cannot be made from its header ({error}): where it was user-defined, in Python, "
            "give it as schedule="
        ) from error


def _made(path: Path, base: Any, said: dict[str, Any]) -> Any:
    try:
        return registry.from_dict(base, said)
    except ValueError as error:
        raise ValueError(f"{path} has a damaged header: {error}") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights, and the entries of the header, each of its kind."""
    weights, words = read_tensors(path, _KEY)
    if _KEY not in words:
        raise ValueError(f"{path} holds weights alone: Denoiser(net, schedule, prediction) says what they mean")
    found = read_json(path, words[_KEY])
    known = found.get("format")
    if type(known) is not int or known != _FORMAT:
        raise ValueError(f"{path} is of format {registry.shown(known)}, and this version takes {_FORMAT}")
    missing = _ENTRIES.keys() - found.keys()
    if missing:
        raise ValueError(f"{path} has a damaged header: it lacks {', '.join(sorted(missing))}")
    unknown = found.keys() - _ENTRIES.keys() - {"format"}
    if unknown:
        raise ValueError(f"{path} has a damaged header: unknown entries {registry.shown(sorted(unknown))}")
    try:
        said = {name: registry.from_plain(kind, found[name], name) for name, kind in _ENTRIES.items()}
    except ValueError as error:
        raise ValueError(f"{path} has a damaged header: {error}") from error
    shape, classes, names = said["shape"], said["classes"], said["names"]
    if not shape or min(shape) < 1 or math.prod(shape) > _LARGEST:
        raise ValueError(f"{path} has a damaged header: samples of shape {registry.shown(list(shape))}")
    if classes < 0 or len(names) > classes:
        raise ValueError(f"{path} has a damaged header: {registry.shown(classes)} classes, {len(names)} names of them")
    return weights, said
