"""A data set in memory: samples, and a class for each of them or none."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Data", "from_pixels", "to_pixels"]

_CLASSES = 100_000


def from_pixels(values: Tensor) -> Tensor:
    """Bytes 0 .. 255 as float32 from -1 to 1; other numbers as they are, float32."""
    return values.float() / 127.5 - 1 if values.dtype is torch.uint8 else values.float()


def to_pixels(values: Tensor) -> Tensor:
    """Numbers from -1 to 1 as bytes 0 .. 255; what lies outside is clipped."""
    return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in memory.

    `values`, of shape (N, ...): bytes, pixels from 0 to 255 that stand for -1 to 1, or floats as they are. `labels`, of
    shape (N,): classes, whole numbers from 0 on; None without them. `names`: of the classes, empty where they have
    none. `title`: what the data set is called in messages and on the card of a checkpoint.

    Raises TypeError for arrays of another kind, ValueError for none at all, for floats that are not finite, and for
    labels that are not one for each sample.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    names: tuple[str, ...] = ()
    title: str = "data"

    def __post_init__(self) -> None:
        values = self.values.numpy() if isinstance(self.values, Tensor) else np.asanyarray(self.values)
        if values.dtype != np.uint8 and values.dtype.kind != "f":
            raise TypeError(f"{self.title}: samples of {values.dtype}; give bytes 0 .. 255 for pixels, or floats")
        if values.ndim < 2 or not values.size:
            raise ValueError(f"{self.title}: samples of shape {values.shape}; at least one of shape (N, ...) is needed")
        if values.dtype.kind == "f":
            bad = _first_bad(values)
            if bad is not None:
                raise ValueError(f"{self.title}: sample {bad} holds NaN or infinity; drop it or mend it")
        object.__setattr__(self, "values", values)
        if self.labels is not None:
            labels = np.asarray(self.labels)
            if labels.shape != values.shape[:1] or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"{self.title}: labels of {labels.dtype} and shape {labels.shape} for {len(values)} samples; one "
                    "whole number each is wanted"
                )
            if labels.min() < 0:
                raise ValueError(f"{self.title}: label {labels.min()}; classes count from 0")
            if labels.max() >= _CLASSES:
                raise ValueError(
                    f"{self.title}: label {labels.max()}, and classes count from 0 to {_CLASSES - 1} at most; number "
                    "them anew: labels = np.unique(labels, return_inverse=True)[1]"
                )
            object.__setattr__(self, "labels", labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.values.shape[1:])

    @property
    def classes(self) -> int:
        """How many, 0 without labels."""
        return 0 if self.labels is None else max(int(self.labels.max()) + 1, len(self.names))

    def batch(self, rows: Sequence[int] | np.ndarray | slice) -> Tensor:
        """Some samples, float32 of shape (len(rows), ...)."""
        chosen = self.values[rows]
        kept = np.uint8 if chosen.dtype == np.uint8 else np.float32
        return from_pixels(torch.from_numpy(np.array(chosen, dtype=kept, order="C")))

    def split(self, held_out: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The rows of all but `held_out` samples drawn by `seed`, and of those. Raises ValueError where none would be
        left.
        """
        if not 0 < held_out < len(self):
            raise ValueError(
                f"{self.title}: cannot hold out {held_out} of {len(self)} samples; held_out is from 1 to "
                f"{len(self) - 1}"
            )
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(self))
        return np.sort(order[held_out:]), np.sort(order[:held_out])

    def take(self, rows: np.ndarray) -> "Data":
        """Some samples, with all the classes."""
        labels = None if self.labels is None else self.labels[rows]
        return Data(self.values[rows], labels, self.names or tuple(str(i) for i in range(self.classes)), self.title)

    def summary(self) -> dict[str, Any]:
        """What distinguishes this data set from another: its size, shape and classes, and a hash of its numbers."""
        mark = hashlib.sha256(np.ascontiguousarray(self.values).data)
        if self.labels is not None:
            mark.update(np.ascontiguousarray(self.labels).data)
        return {
            "title": self.title,
            "count": len(self),
            "shape": list(self.shape),
            "classes": self.classes,
            "names": list(self.names),
            "sha256": mark.hexdigest(),
        }


def _first_bad(values: np.ndarray) -> int | None:
    for first in range(0, len(values), 4096):  # a file may be larger than the memory
        finite = np.isfinite(values[first : first + 4096]).reshape(len(values[first : first + 4096]), -1).all(1)
        if not finite.all():
            return first + int(np.argmin(finite))
    return None
