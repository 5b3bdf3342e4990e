"""Fashion-MNIST, and what else comes as idx files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from scorediff._core.files import expanded
from scorediff.lab.data.arrays import Data

__all__ = ["fashion_mnist", "holds_idx"]

#: Where Debian's package dataset-fashion-mnist puts them.
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
_AXES = 4  # of images, at most
_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def fashion_mnist(folder: str | Path | None = None, part: str = "train") -> Data:
    """60 000 pictures of garments for training or 10 000 for testing (`part`), 28x28 pixels, ten classes
    (arXiv:1708.07747).

    `folder` holds the four idx files, packed (.gz) or not; without it, that of Debian's package dataset-fashion-mnist.
    Raises FileNotFoundError where one is missing, ValueError where one is damaged.
    """
    if part not in _FILES:
        raise ValueError(f"part = {part!r}: 'train' or 'test'")
    where = _DEBIAN if folder is None else expanded(folder)
    images, labels = (_read(_find(where, name)) for name in _FILES[part])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"{where}: images of shape {images.shape} and labels of shape {labels.shape} do not fit")
    is_fashion = folder is None or "fashion" in where.name.lower()
    return Data(
        images[:, None],
        labels.astype(np.int64),
        _NAMES if is_fashion else (),
        where.name + (" test" if part == "test" else ""),
    )


def holds_idx(folder: Path) -> bool:
    """Whether the images for training are there."""
    return any((folder / (_FILES["train"][0] + end)).is_file() for end in ("", ".gz"))


def _find(folder: Path, name: str) -> Path:
    for end in ("", ".gz"):
        if (folder / (name + end)).is_file():
            return folder / (name + end)
    raise FileNotFoundError(
        f"there is no {name}[.gz] in {folder}: install Debian's package dataset-fashion-mnist, or name a folder with "
        "the four idx files"
    )


def _read(path: Path) -> np.ndarray:
    """An idx file: two zeros, the kind of number (8: bytes), how many axes, their lengths, the numbers."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise ValueError(f"{path} is damaged: {error or 'it unpacks to more than the memory holds'}") from error
    axes = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * axes:
        raise ValueError(f"{path} is not an idx file of bytes")
    if axes > _AXES:
        raise ValueError(f"{path} claims {axes} axes: images have 3, labels 1")
    shape = tuple(np.frombuffer(raw, dtype=">u4", count=axes, offset=4).tolist())
    numbers = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axes)
    if numbers.size != math.prod(shape):
        raise ValueError(f"{path} is cut short: {numbers.size} numbers for the shape {shape}")
    return numbers.reshape(shape)
