"""Arrays in files that carry a checksum of all their bytes, checked when they are read."""

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorediff._core.files import write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["check_arrays", "read_array", "read_arrays", "read_tensors", "write_arrays", "write_tensors"]

_HEX = 64  # digits of a sha256
_BLOCK = 1 << 22  # bytes in memory at a time
_OPEN = b"0" * _HEX
#: Two entries of a header, so that a damaged name of one does not make a file pass for one without a checksum.
_ENTRIES = {"checksum": "sha256", "sha256": _OPEN.decode()}
_KIND, _DIGEST = b'"checksum":"sha256"', re.compile(rb'"sha256":"([0-9a-f]{64})"')
_MOST_PACKED = 1032  # bytes that a byte of deflate stands for, at most
_DAMAGED = "is damaged: its bytes are not those that its checksum was made of; take another copy"


def _digest(path: Path, at: int) -> bytes:
    """The sha256, in hexadecimal, of all of a file but the 64 bytes from `at` on, where it is to stand."""
    mark = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(min(_BLOCK, at - file.tell())):
            mark.update(block)
        file.seek(at + _HEX)
        while block := file.read(_BLOCK):
            mark.update(block)
    return mark.hexdigest().encode()


def _seal(path: Path, at: int) -> None:
    found = _digest(path, at)
    with path.open("rb+") as file:
        file.seek(at)
        file.write(found)


def write_tensors(
    path: str | Path, tensors: "Mapping[str, Tensor]", said: Mapping[str, str], dtype: "torch.dtype | None" = None
) -> Path:
    """Write a safetensors file with some words and a checksum in its header, whole or not at all; `dtype` of what
    floats, by default its own. Raises OSError where the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # a copy of each: tied weights are written twice
    copies = {
        name: w.detach().to("cpu", dtype if w.is_floating_point() else None, copy=True).contiguous()
        for name, w in tensors.items()
    }

    def write(part: Path) -> None:
        try:
            save_file(copies, part, metadata={**said, **_ENTRIES})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        place = _DIGEST.search(_header(part))
        assert place is not None
        _seal(part, 8 + place.start(1))

    return write_whole(path, write)


def _header(path: Path) -> bytes:
    """The header of a safetensors file: so many bytes as its first eight say, and are there."""
    with path.open("rb") as file:
        said = int.from_bytes(file.read(8), "little")
        return file.read(min(said, path.stat().st_size))


def _check_tensors(path: Path) -> bool:
    """Whether a safetensors file has a checksum. Raises ValueError where it has, and is damaged."""
    header = _header(path)
    place, marked = _DIGEST.search(header), _KIND in header
    if place is None and not marked:
        return False
    if place is None or not marked or _digest(path, 8 + place.start(1)) != place[1]:
        raise ValueError(f"{path} {_DAMAGED}")
    return True


def read_tensors(
    path: Path, entry: str, device: "torch.device | str" = "cpu"
) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors and the words of a safetensors file; `entry`: the word by which a file of ours is known.

    Raises ValueError for one that is damaged. A file of ours without a checksum is read with a warning.
    """
    from safetensors import safe_open

    try:
        is_sealed = _check_tensors(path)
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors, said = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except Exception as error:  # safetensors and torch raise whatever they meet in a header that is not one
        words = str(error) if str(error).startswith(str(path)) else f"{path} cannot be read as safetensors: {error}"
        raise ValueError(words) from error
    if entry in said and not is_sealed:
        warnings.warn(
            f"{path} carries no checksum, so that damage to it goes unnoticed: an earlier version wrote it; write it "
            "anew, as in save(path, load(path)) for a checkpoint",
            stacklevel=3,
        )
    return tensors, {name: value for name, value in said.items() if name not in _ENTRIES}


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> Path:
    """Write an npz file that ends in a checksum, as the comment of the archive, whole or not at all."""

    def write(part: Path) -> None:
        np.savez(part, **arrays)
        with zipfile.ZipFile(part, "a") as archive:
            archive.comment = _OPEN
        _seal(part, part.stat().st_size - _HEX)

    return write_whole(path, write)


def check_arrays(path: Path) -> bool | None:
    """Whether the bytes of an npz file are those of its checksum; None where it has none, or there is no file."""
    if not path.is_file() or (size := path.stat().st_size) < _HEX:
        return None
    with path.open("rb") as file:
        file.seek(size - _HEX)
        said = file.read()
    return _digest(path, size - _HEX) == said if re.fullmatch(rb"[0-9a-f]{64}", said) else None


def read_array(path: Path) -> np.ndarray:
    """The array of an npy file, looked at where it lies; nothing pickled. Raises ValueError as `read_arrays`."""
    with _reading(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name, or some of them; nothing pickled.

    Raises ValueError, naming the file, for one that cannot be read, lacks one of them, or claims more than it can hold.
    """
    with _reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for member in archive.zip.infolist():
            if member.file_size > _MOST_PACKED * path.stat().st_size:
                raise ValueError(f"{member.filename} claims {member.file_size} bytes, more than such a file holds")
        found = {name: archive[name] for name in names or archive.files}
        other = [name for name, value in found.items() if not isinstance(value, np.ndarray)]
        if other:
            raise ValueError(f"{other[0]} is not an array")
        return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # numpy and zipfile raise whatever they meet in a damaged file
        # numpy advises to unpickle what it does not know, which is not done here
        words = "it is not a file of numpy's" if "pickle" in str(error) else str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as arrays: {words}") from error
