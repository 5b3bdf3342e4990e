"""Files that are written whole or not at all, and folders that several processes write to."""

import hashlib
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = [
    "agree",
    "at_work_on",
    "check_agreement",
    "check_folder",
    "check_writable",
    "expanded",
    "folder_in_full",
    "in_full",
    "others_at_work",
    "plain",
    "read_json",
    "remove_parts",
    "shipped_tensors",
    "write_whole",
    "writing",
]

#: This machine and this process, in the names of files that are being written.
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_PROCESS = secrets.token_hex(4)
_PART = re.compile(r"\.(?P<stem>.+)-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<process>[0-9a-f]{8})-[0-9a-f]{8}(\.[^.]*)?")
_DAY = 86_400.0
_DEEPEST = 64  # objects of JSON in one another; what is written here has some five


def expanded(path: str | Path) -> Path:
    """`path` with the home that `~` stands for, once it is known that it can be asked about.

    Raises ValueError, naming the way out, for an empty name, an unknown user's home, a name that is too long, and one
    in a folder that may not be looked into.
    """
    if path == "":
        raise ValueError("an empty name is not a path: name a file or a folder")
    try:
        whole = Path(path).expanduser()
        whole.exists()
    except (RuntimeError, OSError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be used ({words}): name another path") from error
    return whole


def in_full(path: str | Path) -> Path:
    """`path` from the root on, without symbolic links.

    Raises ValueError for a loop of symbolic links, FileNotFoundError where the working folder has been removed, and
    what `expanded` raises, each naming the way out.
    """
    whole = expanded(path)
    try:
        return whole.resolve()
    except RuntimeError as error:
        raise ValueError(f"{path} leads nowhere ({error}): name another path") from error
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} lies in the working folder, which has been removed: change to one that exists, or give a path "
            "from the root on"
        ) from None


def check_writable(path: str | Path) -> Path:
    """`path` in full, once it is known that a file can be written there.

    Raises FileNotFoundError, NotADirectoryError, IsADirectoryError or PermissionError, each naming the way out, and
    what `in_full` raises.
    """
    whole = in_full(path)
    folder = whole.parent
    if not folder.exists():
        raise FileNotFoundError(f"cannot write {path}: the folder {folder} does not exist; make it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {folder} is a {_kind(folder)}, not a folder; name another")
    if whole.exists() and not whole.is_file():
        raise IsADirectoryError(f"cannot write {path}: it is a {_kind(whole)}; name a file")
    part = _beside(whole)
    try:
        part.touch()
    except OSError as error:
        raise PermissionError(_cannot("write", path, error, "choose another folder")) from error
    part.unlink()
    return whole


def folder_in_full(path: str | Path) -> Path:
    """`path` in full, once it is known to be a folder or nothing. Raises ValueError for a file or a device, and for
    what lies in one, and what `in_full` raises.
    """
    whole = in_full(path)
    there = next(place for place in (whole, *whole.parents) if place.exists())
    if not there.is_dir():
        where = f"{path}" if there == whole else f"cannot make this folder {path}: {there}"
        raise ValueError(f"{where} is a {_kind(there)}: name a folder")
    return whole


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file" if path.is_file() else "device"


def check_folder(path: str | Path) -> Path:
    """The folder `path` in full, made where it is missing. Raises OSError, naming the way out, where it cannot be made,
    and what `folder_in_full` raises.
    """
    whole = folder_in_full(path)
    try:
        whole.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(_cannot("make this folder", path, error, "choose another place")) from error
    return whole


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """What fails while `path` is written is named by it, with the way out: a full disk, above all."""
    try:
        yield
    except OSError as error:
        way_out = "nothing is lost: make room or choose another place, and call it again"
        raise OSError(_cannot("write", path, error, way_out)) from error


def _cannot(do: str, path: str | Path, error: OSError, way_out: str) -> str:
    return f"cannot {do} {path}: {error.strerror or error}; {way_out}"


def write_whole(path: str | Path, writer: Callable[[Path], Any]) -> Path:
    """The file that `writer` makes, at `path`, whole or not at all; returns the path in full.

    `writer` is given another path, in the same folder and with the same suffix; what it wrote there is moved once it
    returns, and removed if it raises. Raises OSError naming `path` where it cannot be written.
    """
    whole = check_writable(path)
    part = _beside(whole)
    try:
        with writing(path):
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
    """A new name in the same folder, hidden, that says which process made it."""
    maker = f"{_HOST}-{os.getpid()}-{_PROCESS}"
    return path.with_name(f".{path.stem}-{maker}-{secrets.token_hex(4)}{path.suffix}")


@contextmanager
def at_work_on(path: Path) -> Iterator[None]:
    """Tells other processes, by a hidden file, that this one is making `path`."""
    mark = _beside(path.with_suffix(".busy"))
    with writing(path):
        mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def others_at_work(folder: Path, stem: str) -> bool:
    """Whether another living process is making a file `stem*` in a folder."""
    mine = (_HOST, str(os.getpid()), _PROCESS)
    return any(
        _lives(path, part) and part.group("host", "pid", "process") != mine for path, part in _parts(folder, stem)
    )


def remove_parts(folder: Path, stem: str) -> None:
    """Remove what writers that were killed have left of files `stem*`; those of living processes stay."""
    for path, part in _parts(folder, stem):
        if not _lives(path, part):
            path.unlink(missing_ok=True)


def _parts(folder: Path, stem: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in list(folder.iterdir()):
        part = _PART.fullmatch(path.name)
        if part is not None and part["stem"].startswith(stem):
            yield path, part


def _lives(path: Path, part: re.Match[str]) -> bool:
    """Whether the process that makes this part goes on; on another machine, whether it did within a day."""
    pid = int(part["pid"])
    if part["host"] != _HOST or os.name != "posix":
        try:
            return time.time() - path.stat().st_mtime < _DAY
        except FileNotFoundError:  # it has just been moved or removed
            return False
    if pid == os.getpid():
        return part["process"] == _PROCESS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        return pid < 2**31
    return True


def shipped_tensors(folder: str = "") -> dict[str, Path]:
    """The safetensors files that come with the package in a folder of its assets, by name."""
    suffix = ".safetensors"
    places = (files("scorediff") / "assets" / folder).iterdir()
    return {p.name.removesuffix(suffix): Path(str(p)) for p in places if p.name.endswith(suffix)}


def read_json(path: Path, text: str | bytes | None = None) -> dict[str, Any]:
    """The object in a JSON file, or in `text` from it. Raises ValueError, naming the file, for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8") if text is None else text)
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if _is_nested(found, _DEEPEST):
        raise ValueError(f"{path} is damaged: it is nested more than {_DEEPEST} deep")
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds {_short(found)}, and an object {{...}} is wanted")
    return found


def _is_nested(value: Any, deep: int) -> bool:
    """Whether lists and objects lie more than so many `deep` in one another."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return deep == 0 or any(_is_nested(each, deep - 1) for each in inner)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON file gives back of some settings."""
    return dict(json.loads(json.dumps(settings)))


def agree(path: Path, settings: Mapping[str, Any], kind: str, *, anew: bool = False) -> None:
    """Write what a folder holds to the JSON file `path`, or, unless it begins `anew`, see that it says the same.

    Raises ValueError naming what differs: a `kind` of another make lies there; or a file of that name that says
    something else altogether.
    """
    if path.exists():
        try:
            before = read_json(path)
        except ValueError as error:
            raise ValueError(f"{error}; remove its folder, or name a new one") from error
        if 2 * len(before.keys() & settings.keys()) < len(settings):
            raise ValueError(f"{path} is not of a {kind}, and would be overwritten: name a new folder")
        if not anew:
            check_agreement(path.parent, before, settings, kind)
            return
    text = json.dumps(plain(settings), indent=1) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def check_agreement(place: Path, before: Mapping[str, Any], settings: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError, naming what differs, where `place` holds a `kind` that was made `before` otherwise."""
    now = plain(settings)
    differ = [words for key in now | dict(before) for words in _differences(key, before.get(key), now.get(key))]
    if differ:
        listed = ", ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else "")
        raise ValueError(f"{place} holds another {kind} ({listed}): ask for the same, or name a new folder")


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict) and before.get("type") == now.get("type"):
        return [words for key in before | now for words in _differences(f"{name}.{key}", before.get(key), now.get(key))]
    return [f"{name} was {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = str(value["type"]) if isinstance(value, dict) and "type" in value else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
