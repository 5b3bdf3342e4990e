"""Data by name or place."""

from pathlib import Path

import numpy as np

from scorediff._core import registry
from scorediff._core.files import expanded
from scorediff.lab.data.arrays import Data
from scorediff.lab.data.digits import digits, digits_labels
from scorediff.lab.data.files import from_file, from_folder
from scorediff.lab.data.idx import fashion_mnist, holds_idx

__all__ = ["NAMED", "load_data"]


def load_data(name: str | Path, *, size: int | None = None, gray: bool = False, progress: bool = True) -> Data:
    """`digits`, `fashion-mnist`, a folder of images or of the four idx files, or an .npz or .npy file.

    `size` and `gray` are for folders of images, see `from_folder`; `./digits` is a folder of that name. Raises
    FileNotFoundError or ValueError otherwise.
    """
    path = expanded(name)
    images = name not in NAMED and path.is_dir() and not holds_idx(path)
    if not images and (size is not None or gray):
        raise ValueError(f"size and gray are for folders of images; {name} is not one (./{name} is always a folder)")
    if name in NAMED:
        return NAMED[str(name)]()
    if images:
        return from_folder(path, size=size, gray=gray, progress=progress)
    if path.is_dir():
        return fashion_mnist(path)
    if path.suffix.lower() in (".npz", ".npy"):
        return from_file(path)
    hint = registry.nearest(str(name), NAMED) or f"; known: {', '.join(NAMED)}, a folder, a file .npz or .npy"
    raise FileNotFoundError(f"unknown data {str(name)!r}{hint}")


def _digits() -> Data:
    names = tuple(str(i) for i in range(10))
    return Data(digits().numpy(), np.asarray(digits_labels()), names, "digits")


#: What is known by name, and how it is read.
NAMED = {"digits": _digits, "fashion-mnist": fashion_mnist}
