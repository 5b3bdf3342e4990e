"""Folders of images, and arrays in files."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from scorediff._core.files import expanded, in_full
from scorediff._core.progress import each
from scorediff._core.sealed import read_array, read_arrays
from scorediff.lab.data.arrays import Data

__all__ = ["from_file", "from_folder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def from_folder(folder: str | Path, *, size: int | None = None, gray: bool = False, progress: bool = True) -> Data:
    """Every image under `folder`, as bytes of shape (3, H, W), or (1, H, W) where `gray`. Where all lie in subfolders,
    those are their classes, by name.

    With `size` each is scaled to that many pixels on its shorter side and cut to the square in its middle. All are read
    at once, so that a damaged one is known before anything is trained.

    Raises FileNotFoundError for no folder, ValueError for no images, for images that cannot be read, and without `size`
    for images of several sizes; each names some of them.
    """
    root = in_full(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"{folder}: no images in it; known are {', '.join(_SUFFIXES)}")
    arrays, broken = _read_all(root, paths, size, gray, progress)
    if broken:
        raise ValueError(f"{folder}: {len(broken)} of {len(paths)} images cannot be read: {_some(broken)}")
    sizes: dict[tuple[int, ...], Path] = {}
    for path, array in zip(paths, arrays, strict=True):
        sizes.setdefault(array.shape[1:], path)
    if len(sizes) > 1:
        listed = _some(f"{path.relative_to(root)} has {w}x{h} pixels" for (h, w), path in sizes.items())
        raise ValueError(f"{folder}: images of {len(sizes)} sizes ({listed}); give size= to scale and cut them")
    places = [path.relative_to(root).parts for path in paths]
    names = sorted({parts[0] for parts in places}) if all(len(parts) > 1 for parts in places) else []
    labels = np.array([names.index(parts[0]) for parts in places]) if len(names) > 1 else None
    return Data(np.stack(arrays), labels, tuple(names) if labels is not None else (), root.name)


def from_file(path: str | Path) -> Data:
    """An array of an .npy file, looked at where it lies, or of an .npz file with `images` (or `samples`, or `x`, or
    nothing else) and maybe `labels`; nothing pickled. Images may have their channels last.

    Raises FileNotFoundError, or ValueError for a file that cannot be read or holds something else.
    """
    whole = expanded(path)
    if not whole.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    arrays = {"images": read_array(whole)} if whole.suffix.lower() == ".npy" else read_arrays(whole)
    labels = arrays.pop("labels", None)
    named: list[str] = [name for name in ("images", "samples", "x") if name in arrays] or list(arrays)
    if len(named) != 1:
        raise ValueError(f"{path} holds {sorted(arrays)}: name the array of samples 'images'")
    values = arrays[named[0]]
    if values.ndim == 3 and values.dtype == np.uint8:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[-1] in (1, 3) and values.shape[1] not in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    return Data(values, labels, (), whole.name)


def _read_all(
    root: Path, paths: list[Path], size: int | None, gray: bool, progress: bool
) -> tuple[list[np.ndarray], list[str]]:
    def read(path: Path) -> np.ndarray | str:
        try:
            return _pixels(path, size, gray)
        except Exception as error:  # Pillow raises whatever it meets in a damaged file
            return f"{path.relative_to(root)} ({error})"

    with ThreadPoolExecutor() as pool:
        found = list(each(pool.map(read, paths), progress, unit="image", total=len(paths)))
    return [a for a in found if not isinstance(a, str)], [a for a in found if isinstance(a, str)]


def _pixels(path: Path, size: int | None, gray: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):  # Pillow would cut off what is above 255
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, whose white is not known: save it with 8 or 16 bits a channel")
    image = image.convert("L" if gray else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if gray else array.transpose(2, 0, 1)


def _some(words: Iterable[str], most: int = 3) -> str:
    listed = list(words)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
