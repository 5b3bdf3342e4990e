"""Samples by the thousand, in files: cut off and called again, it goes on; shared by processes, it is the same."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorediff._core.files import (
    agree,
    at_work_on,
    check_agreement,
    check_folder,
    others_at_work,
    plain,
    read_json,
    remove_parts,
)
from scorediff._core.progress import bar
from scorediff._core.sealed import check_arrays, read_arrays, write_arrays
from scorediff.problems import Problem
from scorediff.sampling import sample
from scorediff.solvers import Solver

__all__ = ["Shards", "batch_rounding", "sample_shards"]

_MANIFEST, _KIND = "manifest", "set of samples"


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
        """The samples of each file that is there, in order. Raises ValueError, naming it, for a damaged one."""
        for k in range(len(self)):
            if self.path(k).is_file():
                yield self.read(k)["samples"]

    def whole(self, k: int) -> bool:
        """Whether file `k` is there and undamaged."""
        path = self.path(k)
        try:
            ids = read_arrays(path, "ids")["ids"] if check_arrays(path) else None
        except ValueError:
            return False
        return ids is not None and np.array_equal(ids, self.ids(k))

    def read(self, k: int) -> dict[str, np.ndarray]:
        """The arrays of file `k` but its manifest. Raises ValueError, naming it, where it is missing or damaged."""
        path = self.path(k)
        if not check_arrays(path):
            raise ValueError(f"{path} is missing or damaged: call sample_shards again, which makes it anew")
        found = read_arrays(path)
        found.pop(_MANIFEST)
        return found


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

    A file holds `samples`, `ids`, `status`, `evaluations`, `labels` where they are given by id, the `manifest` that
    says how they were made, as JSON, and a checksum. It depends on neither the batch size nor the number of processes,
    but for the network's own rounding, and for solvers that depend on the batch, whose manifest has its size. The
    manifest of the folder says the same: `settings`, what `problem` is made of, beside all that is known here. Other
    options are those of `sample`. Processes that are given the same files share them.

    Raises ValueError where the folder holds samples that were made otherwise, naming a file, before anything is
    written; SolverError where a sample fails: what was written stays.
    """
    for name, value, least in (("n", n, 1), ("size", size, 1), ("parts", parts, 1)):
        if value < least:
            raise ValueError(f"{name} = {value}: at least {least}")
    shards = Shards(check_folder(folder), n, size)
    known = {"n": n, "size": size, "seed": seed, "shape": list(shape)}
    manifest = plain({**known, **_made_by(problem, solver, size, options), **(settings or {})})
    _begin(shards.folder, manifest)
    mine = [k for k in range(rank, len(shards), parts) if not shards.whole(k)]
    with bar(progress, sum(len(shards.ids(k)) for k in mine), unit="sample", stays=True) as done:
        for k in _in_turn(shards, mine):
            path, ids = shards.path(k), shards.ids(k)
            _refuse_stranger(path, manifest)
            if not shards.whole(k):
                with at_work_on(path):
                    given = {} if labels is None else {"label": labels(ids)}
                    how = {**options, "ids": ids, "seed": seed, "cond": given, "progress": False}
                    found = sample(problem, (len(ids), *shape), solver, **how).check()
                    arrays = {
                        "samples": found.x.cpu().numpy(),
                        "ids": np.array(ids, dtype=np.int64),
                        "status": found.status,
                        "evaluations": found.evaluations,
                        _MANIFEST: np.array(json.dumps(manifest).encode()),
                    } | {f"{name}s": np.asarray(value.cpu()) for name, value in given.items()}
                    _refuse_stranger(path, manifest)
                    write_arrays(path, arrays)
            done.advance(len(ids))
    return shards


def _made_by(problem: Problem, solver: Solver, size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What samples depend on, as plain data."""
    from scorediff import __version__
    from scorediff._core import registry

    return {
        "problem": type(problem).__name__,
        "eta": registry.to_dict(problem.eta),
        "schedule": registry.to_dict(problem.schedule),
        "denoiser": problem.denoiser.to_dict(),
        "solver": registry.to_dict(solver),
        "options": {key: registry.to_dict(value) for key, value in options.items() if key != "batch_size"},
        "version": __version__,
        **({"batch": min(options.get("batch_size") or size, size)} if solver.depends_on_batch else {}),
    }


def _begin(folder: Path, manifest: dict[str, Any]) -> None:
    """See that all files in the folder are of this make, and remove what killed processes left."""
    there = sorted(folder.glob("samples-*.npz"))
    for path in there:
        _refuse_stranger(path, manifest)
    for stem in ("manifest", "samples-"):
        remove_parts(folder, stem)
    agree(folder / "manifest.json", manifest, _KIND, anew=not there and not others_at_work(folder, "samples-"))


def _in_turn(shards: Shards, mine: Sequence[int]) -> Iterator[int]:
    """Those files last that another process is at: most are whole by then."""
    later = []
    for k in mine:
        if others_at_work(shards.folder, shards.path(k).stem):
            later.append(k)
        else:
            yield k
    yield from later


def _refuse_stranger(path: Path, manifest: dict[str, Any]) -> None:
    """Raise ValueError for a file of samples of another make; a damaged one is nobody's, and is made again."""
    if not path.is_file():
        return
    try:
        said = read_arrays(path, _MANIFEST)[_MANIFEST].item()
    except ValueError:
        said = None
    if said == json.dumps(manifest).encode():
        return
    is_sealed = check_arrays(path)
    if is_sealed and said is not None:
        check_agreement(path, read_json(path, said), manifest, _KIND)
    elif said is None and is_sealed is not False and _is_archive(path):
        raise ValueError(f"{path} does not say what made it: move it away, or name a new folder")


def _is_archive(path: Path) -> bool:
    try:
        return bool(read_arrays(path))
    except ValueError:
        return False


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
    kept = torch.from_numpy(shards.read(0)["samples"][:count])
    ids = range(len(kept))
    given = {} if labels is None else {"label": labels(ids)}
    alone = {**options, "batch_size": 1}
    found = sample(problem, kept.shape, solver, ids=ids, seed=seed, cond=given, progress=False, **alone).x.cpu()
    return float((found - kept).abs().max())
