"""The folder of a run: what it is, how far it has come, what it has made. Nothing in it is ever half-written."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scorediff._core import registry
from scorediff._core.files import agree, check_folder, folder_in_full, read_json, remove_parts, write_whole, writing
from scorediff._core.sealed import read_tensors, write_tensors

__all__ = ["Run", "read_state"]

#: The entry of the header of a state, and what is in it.
_NUMBERS, _KINDS = "numbers", {"step": int, "seconds": float, "scaler": dict[str, Any] | None}
_COLUMNS = ("step", "loss", "grad_norm", "lr", "held_out", "held_out_error", "seconds")


class Run:
    """`config.json`: recipe and data; `state.safetensors`: where training goes on from; `model.safetensors`: the
    checkpoint; `log.csv`; `samples-STEP.png`; `averages-STEP.safetensors`, see `PowerAverage`.

    Locked until `close`; a process that is killed leaves no lock. Raises ValueError for a folder that
    another process holds, or that holds the state of a run of another configuration, naming what differs.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any]) -> None:
        from filelock import FileLock, Timeout

        self.folder = folder_in_full(folder)
        config_file = self.folder / "config.json"
        others = self.folder.is_dir() and any(not p.name.startswith(".") for p in self.folder.iterdir())
        if others and not config_file.is_file():
            raise ValueError(f"{folder} holds other things than a run: name a new folder")
        check_folder(folder)
        self._lock = FileLock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{folder} is in use by another process: wait for it, or name another folder") from None
        try:
            for stem in ("config", "log", "model", "state", "averages", "samples"):
                remove_parts(self.folder, stem)
            begins = not (self.folder / "state.safetensors").is_file()  # whatever began here before
            if begins:
                for path in self.folder.glob("averages-*.safetensors"):
                    path.unlink()
            agree(config_file, config, "run", anew=begins)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.release()

    def write_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Keep what training goes on from."""
        self.write_tensors("state.safetensors", tensors, {_NUMBERS: json.dumps(numbers)})

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> None:
        """A file of tensors in the folder, with some words."""
        write_tensors(self.folder / name, tensors, said)

    def cut_log(self, step: int) -> None:
        """Forget the lines of the log after a step: they will be written again."""
        path, lines = self.folder / "log.csv", [",".join(_COLUMNS)]
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(_COLUMNS) and row[0].isdigit()]
            lines += [",".join(row) for row in rows if int(row[0]) <= step]
        write_whole(path, lambda part: part.write_text("\n".join(lines) + "\n", encoding="utf-8"))

    def log(self, **numbers: float) -> None:
        """Add a line to the log."""
        cells = (f"{numbers[name]:.{9 if name == 'step' else 6}g}" if name in numbers else "" for name in _COLUMNS)
        path = self.folder / "log.csv"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(",".join(cells) + "\n")


def read_state(folder: Path, device: Any) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the numbers that `Run.write_state` was given last, None where it never was.

    Raises ValueError for a damaged file.
    """
    path = folder / "state.safetensors"
    if not path.is_file():
        return None
    try:
        tensors, said = read_tensors(path, _NUMBERS, device)
        found = read_json(path, said[_NUMBERS])
        return tensors, {name: registry.from_plain(kind, found[name], name) for name, kind in _KINDS.items()}
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to begin the run anew") from error
