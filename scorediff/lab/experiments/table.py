"""What an experiment returns, and what all of them begin with."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorediff._core.files import write_whole
from scorediff._core.tables import aligned
from scorediff.lab.checkpoints import Checkpoint
from scorediff.lab.data import Data
from scorediff.sampling import prior

__all__ = ["Experiment", "check_fit", "rms", "starts"]


@dataclass(frozen=True)
class Experiment:
    """What an experiment found.

    `words`: what the numbers mean. `columns`: of the table, by name. `rows`: its numbers and words. `picture`: writes
    the picture to a path; it is drawn when it is written.
    """

    words: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    picture: Callable[[Path], Any]

    def table(self) -> str:
        """The table as text."""
        return f"{self.words}\n\n" + aligned(self.columns, [[_cell(v) for v in row] for row in self.rows])

    def write(self, folder: str | Path, name: str) -> list[Path]:
        """Write `name.csv` and `name.png` into a folder, each whole or not at all."""

        def lines(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(self.columns)
                writer.writerows([_plain(v) for v in row] for row in self.rows)

        where = Path(folder)
        table, picture = where / f"{name}.csv", where / f"{name}.png"
        write_whole(table, lines)
        self.picture(picture)
        return [table, picture]


def starts(checkpoint: Checkpoint, n: int, seed: int) -> dict[str, Any]:
    """Starts of `n` samples, and their classes in turn: `x` and `cond` for `sample` and `solve`."""
    denoiser = checkpoint.denoiser
    x = prior(denoiser.schedule, (n, *checkpoint.shape), seed=seed, device=denoiser.device, dtype=denoiser.dtype)
    if not checkpoint.classes:
        return {"x": x, "cond": {}}
    return {"x": x, "cond": {"label": (torch.arange(n) % checkpoint.classes).to(x.device)}}


def check_fit(checkpoint: Checkpoint, data: Data, n: int | None = None) -> None:
    """Raises ValueError where a network takes no such samples or labels, or there are fewer than `n`."""
    if data.shape != tuple(checkpoint.shape):
        raise ValueError(f"{data.title} has samples of shape {data.shape}, and the network takes {checkpoint.shape}")
    if checkpoint.classes and data.classes > checkpoint.classes:
        raise ValueError(f"{data.title} has {data.classes} classes, and the network takes {checkpoint.classes}")
    if n is not None and n > len(data):
        raise ValueError(f"n = {n}: {data.title} has {len(data)} samples")


def rms(a: Tensor, b: Tensor) -> Tensor:
    """The root mean square over entries of the difference of each sample, shape (B,)."""
    return (a - b).double().flatten(1).square().mean(1).sqrt()


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return f"{value:.8g}" if isinstance(value, float) else value
