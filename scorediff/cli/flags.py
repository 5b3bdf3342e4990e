"""The options that commands share, each with its help."""

from pathlib import Path
from typing import Annotated

import typer

from scorediff._core.files import expanded

__all__ = ["Dtype", "Model", "Progress", "Schedule", "Seed", "Spacing", "TEnd", "TStart", "Threads", "place"]

PROBLEM, SOLVER, RUN, OUTPUT = "What to solve", "How to solve it", "How to run", "What to write"


def place(word: str | Path) -> Path:
    """The path that a word stands for: an empty one would be the working folder."""
    try:
        expanded(word)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return Path(word)


Model = Annotated[
    str, typer.Option(help="The target, by name: digits, gaussian, mixture, ...", rich_help_panel=PROBLEM)
]
Schedule = Annotated[str, typer.Option(help="Noise schedule; see 'scorediff solvers'.", rich_help_panel=PROBLEM)]
TStart = Annotated[
    float | None, typer.Option(help="Where to start (default: the schedule's).", rich_help_panel=PROBLEM)
]
TEnd = Annotated[float | None, typer.Option(help="Where to end (default: the schedule's).", rich_help_panel=PROBLEM)]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="Spacing of fixed grids (default: the solver's); see 'scorediff solvers'.", rich_help_panel=SOLVER
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of start and noise.", rich_help_panel=RUN)]
Dtype = Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=RUN)]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.", rich_help_panel=RUN)]
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="A bar, on a terminal.", rich_help_panel=RUN)]
