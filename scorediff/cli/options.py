"""What the words of a command line stand for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from scorediff import registry
from scorediff.data import digits
from scorediff.exact import Empirical, Gaussian, GaussianMixture, Target
from scorediff.grids import Spacing
from scorediff.pictures import check_writable
from scorediff.problems import ProbabilityFlow, Problem, ReverseSDE
from scorediff.schedules import Schedule
from scorediff.solvers import Denoise, HalfStep, Solver, Terminal

__all__ = [
    "MODELS",
    "chosen",
    "dtype_named",
    "output",
    "parse_schedule",
    "parse_solver",
    "parse_spacing",
    "problem_for",
    "split_solvers",
    "target_named",
    "terminal_named",
    "threads",
]

T = TypeVar("T")

MODELS = ("digits", "gaussian", "mixture")
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_TERMINALS: dict[str, Terminal | None] = {"none": None, "denoise": Denoise(), "half-step": HalfStep()}


def chosen(option: str, word: str, known: dict[str, T]) -> T:
    """What `word` stands for; ValueError with the nearest known word otherwise."""
    if word not in known:
        hint = registry.nearest(word, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown {option.lstrip('-')} {word!r}{hint}")
    return known[word]


def dtype_named(word: str) -> torch.dtype:
    return chosen("--dtype", word, _DTYPES)


def terminal_named(word: str) -> Terminal | None:
    return chosen("--terminal", word, _TERMINALS)


def target_named(model: str, bandwidth: float | None) -> Target:
    """The law of the data; `bandwidth` is for the digits alone, 0.1 unless told."""
    chosen("--model", model, dict.fromkeys(MODELS))
    if model == "digits":
        return Empirical(digits(), 0.1 if bandwidth is None else bandwidth)
    if bandwidth is not None:
        raise ValueError(f"--bandwidth {bandwidth:g} smooths a data set: drop it, or use --model digits")
    return Gaussian() if model == "gaussian" else GaussianMixture()


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


def problem_for(denoiser: Any, solver: Solver, eta: float | None) -> Problem:
    """The flow where `eta` is 0, or not given and the solver can; else the reverse SDE, with eta 1 by default."""
    on_flow, on_sde = ProbabilityFlow in solver.solves, ReverseSDE in solver.solves
    if eta == 0 and not on_flow:
        raise ValueError(f"{solver.name} solves the reverse SDE, which wants --eta above 0")
    if eta and not on_sde:
        raise ValueError(
            f"{solver.name} solves the probability flow, which has --eta 0; 'scorediff solvers' lists those for the SDE"
        )
    if eta == 0 or (eta is None and on_flow):
        return ProbabilityFlow(denoiser)
    return ReverseSDE(denoiser, 1.0 if eta is None else eta)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on `count` threads: on more than one, tensors this small take longer, far longer on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def output(path: Path, suffixes: tuple[str, ...], option: str = "--out") -> Path:
    """`path` in full, if a file of one of these kinds can be written there; ValueError otherwise."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path}: its name must end in {' or '.join(suffixes)}")
    try:
        return check_writable(path)
    except OSError as error:
        raise ValueError(f"{option}: {error}") from error
