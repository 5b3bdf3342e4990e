"""What the words of a command line stand for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from scorediff._core import registry
from scorediff._core.files import check_folder, check_writable, folder_in_full
from scorediff.lab.data import digits
from scorediff.schedules import Schedule
from scorediff.solvers import Solver, Terminal
from scorediff.spacings import Spacing
from scorediff.targets import Empirical, Target

__all__ = [
    "chosen",
    "dtype_named",
    "folder",
    "models",
    "no_file",
    "output",
    "parse_schedule",
    "parse_solver",
    "parse_spacing",
    "process",
    "split_solvers",
    "target_named",
    "terminal_named",
    "threads",
]

T = TypeVar("T")

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def chosen(option: str, word: str, known: dict[str, T]) -> T:
    """What `word` stands for; ValueError with the nearest known word otherwise."""
    if word not in known:
        some = list(known)[:24]
        more = f" and {len(known) - len(some)} more" if len(known) > len(some) else ""
        hint = registry.nearest(word, known) or f"; known: {', '.join(some)}{more}"
        raise ValueError(f"unknown {option.lstrip('-')} {word!r}{hint}")
    return known[word]


def dtype_named(word: str) -> torch.dtype:
    return chosen("--dtype", word, _DTYPES)


def terminal_named(word: str) -> Terminal | None:
    maps: dict[str, Terminal | None] = {"none": None, **registry.names(Terminal)}
    return chosen("--terminal", word, maps)


def models() -> tuple[str, ...]:
    """The targets that have a name."""
    return ("digits", *sorted(registry.names(Target)))  # type: ignore[type-abstract]


def target_named(model: str, bandwidth: float | None) -> Target:
    """The target of that name; `bandwidth` is for the digits alone, 0.1 by default."""
    chosen("--model", model, dict.fromkeys(models()))
    if model == "digits":
        return Empirical(digits(), 0.1 if bandwidth is None else bandwidth)
    if bandwidth is not None:
        raise ValueError(f"--bandwidth {bandwidth:g} smooths a data set: drop it, or use --model digits")
    return registry.names(Target)[model]  # type: ignore[type-abstract]


def parse_solver(text: str) -> Solver:
    return registry.parse(Solver, text)  # type: ignore[type-abstract]


def parse_schedule(text: str) -> Schedule:
    return registry.parse(Schedule, text)  # type: ignore[type-abstract]


def parse_spacing(text: str | None) -> Spacing | None:
    return None if text is None else registry.parse(Spacing, text)  # type: ignore[type-abstract]


def split_solvers(text: str) -> list[str]:
    """`a,b:option=1,other=2,c` as `[a, b:option=1,other=2, c]`."""
    names: list[str] = []
    for piece in filter(None, (part.strip() for part in text.split(","))):
        before, equals, _ = piece.partition("=")
        if equals and ":" not in before and names:
            names[-1] += f",{piece}"
        else:
            names.append(piece)
    if not names:
        raise ValueError("--solvers is empty: name one at least, see 'scorediff solvers'")
    return names


def process() -> tuple[int, int]:
    """Which process this is, and of how many, as `torchrun` says."""
    words = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not all(word.isdigit() for word in words) or int(words[0]) >= int(words[1]):
        raise ValueError(
            f"RANK={words[0]} and WORLD_SIZE={words[1]} in the environment: start with torchrun, or unset both"
        )
    return int(words[0]), int(words[1])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on `count` threads: on more than one, tensors this small take longer, far longer on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def folder(path: Path, option: str = "--out") -> Path:
    """`path` in full, once it is a folder that can be written to; ValueError otherwise."""
    try:
        return check_writable(check_folder(path) / "manifest.json").parent
    except (OSError, ValueError) as error:
        raise ValueError(f"{option}: {error}") from error


def no_file(path: Path, option: str = "--out") -> None:
    """ValueError where a folder is wanted and something else lies: to be known before long work."""
    try:
        folder_in_full(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{option}: {error}") from error


def output(path: Path, suffixes: tuple[str, ...], option: str = "--out") -> Path:
    """`path` in full, if a file of one of these kinds can be written there; ValueError otherwise."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path}: the name of a file must end in {' or '.join(suffixes)}")
    try:
        return check_writable(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{option}: {error}") from error
