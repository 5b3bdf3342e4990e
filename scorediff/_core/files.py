"""Files that are written whole or not at all."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["agree", "check_writable", "read_tensors", "remove_parts", "shipped_tensors", "write_tensors", "write_whole"]


def check_writable(path: str | Path) -> Path:
    """`path` in full, once it is known that a file can be written there.

    Raises FileNotFoundError, NotADirectoryError, IsADirectoryError or PermissionError, each naming the way out.
    """
    whole = Path(path).expanduser().resolve()
    folder = whole.parent
    if not folder.exists():
        raise FileNotFoundError(f"cannot write {path}: the folder {folder} does not exist; make it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {folder} is a file, not a folder")
    if whole.exists() and not whole.is_file():
        kind = "folder" if whole.is_dir() else "device"
        raise IsADirectoryError(f"cannot write {path}: it is a {kind}; name a file")
    part = _beside(whole)
    try:
        part.touch()
    except OSError as error:
        raise PermissionError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    part.unlink()
    return whole


def write_whole(path: str | Path, writer: Callable[[Path], Any]) -> Path:
    """The file that `writer` makes, at `path`, whole or not at all; returns the path in full.

    `writer` is given another path, in the same folder and with the same suffix; what it wrote there is moved once it
    returns, and removed if it raises.
    """
    whole = check_writable(path)
    part = _beside(whole)
    try:
        part.touch()
        mode = part.stat().st_mode  # some writers make files that nobody else may read
        writer(part)
        part.chmod(mode)
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a crash of the machine may leave an empty file under the name
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)
    return whole


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")


def remove_parts(folder: Path, stem: str) -> None:
    """Remove what writers that were killed have left of files `stem*` in a folder that nobody else writes to."""
    for part in folder.glob(f".{stem}*-{'[0-9a-f]' * 8}.*"):
        part.unlink(missing_ok=True)


def write_tensors(
    path: str | Path, tensors: "Mapping[str, Tensor]", said: Mapping[str, str], dtype: "torch.dtype | None" = None
) -> Path:
    """Write a safetensors file with some words in its header, whole or not at all; `dtype` of what floats, by default
    its own. Raises OSError where the disk is full.
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
            save_file(copies, part, metadata=dict(said))
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}; nothing is lost: make room and call it again") from error

    return write_whole(path, write)


def read_tensors(path: Path, device: "torch.device | str" = "cpu") -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors and the words of a safetensors file. Raises ValueError for one that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def shipped_tensors(folder: str = "") -> dict[str, Path]:
    """The safetensors files that come with the package in a folder of its assets, by name."""
    suffix = ".safetensors"
    places = (files("scorediff") / "assets" / folder).iterdir()
    return {p.name.removesuffix(suffix): Path(str(p)) for p in places if p.name.endswith(suffix)}


def agree(path: Path, settings: Mapping[str, Any], kind: str, *, anew: bool = False) -> None:
    """Write what a folder holds to the JSON file `path`, or, unless it begins `anew`, see that it says the same.

    Raises ValueError naming what differs: a `kind` of another make lies there.
    """
    now = json.loads(json.dumps(settings))
    if anew or not path.is_file():
        write_whole(path, lambda part: part.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8"))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove its folder, or name a new one") from error
    differ = [words for key in now | before for words in _differences(key, before.get(key), now.get(key))]
    if differ:
        listed = ", ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else "")
        raise ValueError(f"{path.parent} holds another {kind} ({listed}): ask for the same, or name a new folder")


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict) and before.get("type") == now.get("type"):
        return [words for key in before | now for words in _differences(f"{name}.{key}", before.get(key), now.get(key))]
    return [f"{name} was {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = value["type"] if isinstance(value, dict) and "type" in value else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
