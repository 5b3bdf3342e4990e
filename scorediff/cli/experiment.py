"""`scorediff experiment ...`: the classic experiments on a trained network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorediff.cli import flags, options

if TYPE_CHECKING:
    from collections.abc import Callable

    from scorediff.lab.data import Data
    from scorediff.lab.experiments import Experiment

__all__ = ["experiments"]

experiments = typer.Typer(no_args_is_help=True, help="The classic experiments on a trained network: table and picture.")

_Model = Annotated[str, typer.Option(help="digits-unet, fashion-unet, a run's folder or its file.")]
_Data = Annotated[str | None, typer.Option(help="What the network was trained on; by default what its card says.")]
_Out = Annotated[
    Path, typer.Option(parser=flags.place, help="The folder to write the table and the picture to; made where missing.")
]
_Solver = Annotated[str, typer.Option(help="See 'scorediff solvers'.")]
_Solvers = Annotated[str, typer.Option(help="Solvers of the flow, by commas.")]
_Steps = Annotated[str, typer.Option(help="Numbers of steps, by commas.")]


def _checkpoint(model: str) -> Any:
    from scorediff.lab.checkpoints import load

    return load(model)


def _data(given: str | None, checkpoint: Any) -> "Data":
    from scorediff.lab.data import load_data

    return load_data(given or _trained_on(checkpoint, "--data"))


def _trained_on(checkpoint: Any, option: str) -> str:
    """The data of the package that the network was trained on: what else its card names may be anywhere."""
    from scorediff.lab.data import NAMED

    title = checkpoint.card.get("data")
    if title not in NAMED:
        raise ValueError(f"the network was trained on {title!r}, which does not come with the package: give {option}")
    return str(title)


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"{text!r}: whole numbers above 0 are wanted, by commas, as in 5,10,20")
    return found


def _run(name: str, out: Path, threads: int, experiment: "Callable[[], Experiment]") -> None:
    """Run an experiment, print its table, and write table and picture."""
    options.no_file(out)
    with options.threads(threads):
        found = experiment()
    print(found.table())
    for path in found.write(options.folder(out), name):
        print(out / path.name)


@experiments.command()
def quality(
    model: _Model = "digits-unet",
    data: _Data = None,
    classifier: Annotated[
        str | None, typer.Option(help="Whose features are compared: digits, fashion-mnist or a file.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=40, help="Samples of every run.")] = 2000,
    steps: _Steps = "10,20,50,100,1000",
    solvers: _Solvers = "ddim,dpm++2m,dpm++3m,unipc-3,edm-heun,exponential-adams",
    nfe: Annotated[str, typer.Option(help="Their evaluations, by commas.")] = "5,8,12,20,50",
    seed: flags.Seed = 0,
    threads: flags.Threads = 1,
    progress: flags.Progress = True,
    out: _Out = Path("experiments"),
) -> None:
    """DDIM's table: Frechet distance against steps and eta, and what solvers of higher order do with few of them.

    Some 6400 evaluations for each sample: an hour on two cores for 2000 digits. Fewer --n or --steps take less.
    """
    from scorediff.lab import metrics
    from scorediff.lab.experiments import quality as run

    checkpoint = _checkpoint(model)
    chosen = _data(data, checkpoint)
    net = metrics.classifier(classifier or _trained_on(checkpoint, "--classifier"))
    if tuple(net.shape) != tuple(checkpoint.shape):
        raise ValueError(f"the classifier takes {tuple(net.shape)}, and the network makes {tuple(checkpoint.shape)}")
    _run(
        "quality",
        out,
        threads,
        lambda: run(
            checkpoint,
            chosen,
            net.features,
            n=n,
            steps=_numbers(steps),
            solvers=options.split_solvers(solvers),
            budgets=_numbers(nfe),
            seed=seed,
            progress=progress,
        ),
    )


@experiments.command()
def consistency(
    model: _Model = "digits-unet",
    solver: _Solver = "ddim",
    steps: _Steps = "5,10,20,50,100",
    n: Annotated[int, typer.Option("--n", min=1, help="Starts.")] = 10,
    seed: flags.Seed = 0,
    threads: flags.Threads = 1,
    out: _Out = Path("experiments"),
) -> None:
    """The same starts with more and more steps."""
    from scorediff.lab.experiments import consistency as run

    _run(
        "consistency",
        out,
        threads,
        lambda: run(_checkpoint(model), solver=options.parse_solver(solver), steps=_numbers(steps), n=n, seed=seed),
    )


@experiments.command()
def interpolation(
    model: _Model = "digits-unet",
    solver: _Solver = "dpm++2m",
    steps: Annotated[int, typer.Option(min=1)] = 20,
    rows: Annotated[int, typer.Option(min=1, help="Pairs of starts.")] = 5,
    seed: flags.Seed = 0,
    threads: flags.Threads = 1,
    out: _Out = Path("experiments"),
) -> None:
    """Images on the great circle between two starts."""
    from scorediff.lab.experiments import interpolation as run

    _run(
        "interpolation",
        out,
        threads,
        lambda: run(_checkpoint(model), solver=options.parse_solver(solver), steps=steps, rows=rows, seed=seed),
    )


@experiments.command()
def reconstruction(
    model: _Model = "digits-unet",
    data: _Data = None,
    solvers: _Solvers = "ddim,dpm++2m,unipc-3,heun",
    steps: _Steps = "10,20,50,100,200",
    n: Annotated[int, typer.Option("--n", min=1, help="Images.")] = 64,
    seed: flags.Seed = 0,
    threads: flags.Threads = 1,
    out: _Out = Path("experiments"),
) -> None:
    """Images to noise and back: error against steps."""
    from scorediff.lab.experiments import reconstruction as run

    checkpoint = _checkpoint(model)
    _run(
        "reconstruction",
        out,
        threads,
        lambda: run(
            checkpoint,
            _data(data, checkpoint),
            solvers=options.split_solvers(solvers),
            steps=_numbers(steps),
            n=n,
            seed=seed,
        ),
    )


@experiments.command()
def switching(
    model: _Model = "digits-unet",
    solvers: Annotated[str | None, typer.Option(help="Some, by commas (default: all).")] = None,
    budget: Annotated[int, typer.Option(min=2, help="Evaluations of a fixed grid.")] = 24,
    n: Annotated[int, typer.Option("--n", min=1, help="Starts.")] = 10,
    seed: flags.Seed = 0,
    threads: flags.Threads = 1,
    progress: flags.Progress = True,
    out: _Out = Path("experiments"),
) -> None:
    """Train once, switch solvers: one contact sheet of all of them."""
    from scorediff.lab.experiments import switching as run

    names = None if solvers is None else options.split_solvers(solvers)
    _run(
        "switching",
        out,
        threads,
        lambda: run(_checkpoint(model), n=n, budget=budget, solvers=names, seed=seed, progress=progress),
    )


@experiments.command()
def splitting(
    model: _Model = "digits-unet",
    data: _Data = None,
    solver: _Solver = "dpm++2m",
    steps: _Steps = "5,10,20,40,80",
    n: Annotated[int, typer.Option("--n", min=2, help="Samples.")] = 64,
    seed: flags.Seed = 0,
    threads: flags.Threads = 1,
    out: _Out = Path("experiments"),
) -> None:
    """Where the error comes from: steps, start, end, network."""
    from scorediff.lab.experiments import splitting as run

    checkpoint = _checkpoint(model)
    _run(
        "splitting",
        out,
        threads,
        lambda: run(checkpoint, _data(data, checkpoint), solver=solver, steps=_numbers(steps), n=n, seed=seed),
    )
