"""Samples by the thousand, in files: cut off and called again, it goes on; shared by processes, it is the same."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from scorediff._core.files import agree, remove_parts, write_whole
from scorediff._core.progress import bar
from scorediff.problems import Problem
from scorediff.sampling import sample
from scorediff.solvers import Solver

__all__ = ["Shards", "batch_rounding", "sample_shards"]


@dataclass(frozen=True)
class Shards:
    """Samples in files: `samples-000000.npz`, ...

    `folder`: where they are. `n`: how many samples. `size`: how many in each file but the last.
    """

    folder: Path
    n: int
    size: int

    def __len__(self) -> int:
        return -(-self.n // self.size)

    def ids(self, k: int) -> range:
        """The samples of file `k`."""
        return range(k * self.size, min((k + 1) * self.size, self.n))

    def path(self, k: int) -> Path:
        """File `k`."""
        return self.folder / f"samples-{k:06d}.npz"

    def missing(self) -> list[int]:
        """The files that are not there yet, or are damaged."""
        return [k for k in range(len(self)) if not self.whole(k)]

    def __iter__(self) -> Iterator[np.ndarray]:
        """The samples of each file that is there, in order."""
        for k in range(len(self)):
            if self.whole(k):
                with np.load(self.path(k), allow_pickle=False) as archive:
                    yield archive["samples"]

    def whole(self, k: int) -> bool:
        """Whether file `k` is there and undamaged."""
        try:
            with self.path(k).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return np.array_equal(archive["ids"], self.ids(k)) and "samples.npy" in archive.zip.namelist()
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return False


def sample_shards(
    problem: Problem,
    solver: Solver,
    shape: Sequence[int],
    folder: str | Path,
    *,
    n: int,
    size: int = 1024,
    seed: int = 0,
    labels: Callable[[Sequence[int]], Any] | None = None,
    rank: int = 0,
    parts: int = 1,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Shards:
    """Samples 0 .. n - 1 of one event `shape`, into files of `size` samples, those that are missing; every `parts`-th
    file from `rank` on, for processes that split the work.

    A file holds `samples`, `ids`, `status`, `evaluations`, and `labels` where they are given by id. It depends on
    neither the batch size nor the number of processes, but for the network's own rounding. `manifest.json` says
    how they were made: `settings`, what `problem` is made of, beside all that is known here. Other options are those of
    `sample`.

    Raises ValueError where the folder holds samples that were made otherwise, SolverError where a sample fails: what
    was written stays.
    """
    from scorediff import __version__
    from scorediff._core import registry

    for name, value, least in (("n", n, 1), ("size", size, 1), ("parts", parts, 1)):
        if value < least:
            raise ValueError(f"{name} = {value}: at least {least}")
    shards = Shards(Path(folder).expanduser().resolve(), n, size)
    shards.folder.mkdir(parents=True, exist_ok=True)
    said = {key: registry.to_dict(value) for key, value in options.items() if key != "batch_size"}
    manifest = {
        "n": n,
        "size": size,
        "seed": seed,
        "shape": list(shape),
        "problem": type(problem).__name__,
        "eta": registry.to_dict(problem.eta),
        "schedule": registry.to_dict(problem.schedule),
        "denoiser": problem.denoiser.to_dict(),
        "solver": registry.to_dict(solver),
        "options": said,
        "version": __version__,
        **(settings or {}),
    }
    begins = not any(shards.folder.glob("samples-*.npz"))
    agree(shards.folder / "manifest.json", manifest, "set of samples", anew=begins)
    mine = [k for k in shards.missing() if k % parts == rank]
    with bar(progress, sum(len(shards.ids(k)) for k in mine), unit="sample", stays=True) as done:
        for k in mine:
            ids = shards.ids(k)
            given = {} if labels is None else {"label": labels(ids)}
            found = sample(
                problem, (len(ids), *shape), solver, ids=ids, seed=seed, cond=given, progress=False, **options
            ).check()
            arrays = {
                "samples": found.x.cpu().numpy(),
                "ids": np.array(ids, dtype=np.int64),
                "status": found.status,
                "evaluations": found.evaluations,
            } | {f"{name}s": np.asarray(value.cpu()) for name, value in given.items()}
            remove_parts(shards.folder, shards.path(k).stem)
            write_whole(shards.path(k), lambda part, arrays=arrays: np.savez(part, **arrays))  # type: ignore[misc]
            done.advance(len(ids))
    return shards


def batch_rounding(
    problem: Problem,
    solver: Solver,
    shards: Shards,
    *,
    seed: int = 0,
    labels: Callable[[Sequence[int]], Any] | None = None,
    count: int = 2,
    **options: Any,
) -> float:
    """By how much the first `count` samples differ, at most, from the same ones sampled alone: what a network rounds
    otherwise in another batch.
    """
    import torch

    if not shards.whole(0):
        return float("nan")
    kept = torch.from_numpy(next(iter(shards))[:count])
    ids = range(len(kept))
    given = {} if labels is None else {"label": labels(ids)}
    alone = {**options, "batch_size": 1}
    found = sample(problem, kept.shape, solver, ids=ids, seed=seed, cond=given, progress=False, **alone).x.cpu()
    return float((found - kept).abs().max())
