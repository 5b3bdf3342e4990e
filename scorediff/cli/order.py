"""`scorediff order`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scorediff.cli import flags, options

__all__ = ["measured", "order"]

_Solvers = Annotated[
    list[str] | None, typer.Argument(help="Names, each with its options, as in 'rk4:coordinates=angle'.")
]
_All = Annotated[bool, typer.Option("--all", help="Every solver and every variant.")]
_Csv = Annotated[
    Path | None, typer.Option("--csv", parser=flags.place, help="A line per problem.", rich_help_panel=flags.OUTPUT)
]
_Markdown = Annotated[
    Path | None,
    typer.Option(
        parser=flags.place,
        help="The table, between the lines '<!-- orders -->' and '<!-- /orders -->' of a file that is there.",
        rich_help_panel=flags.OUTPUT,
    ),
]
_Points = Annotated[bool, typer.Option("--points", help="Every run too.", rich_help_panel=flags.OUTPUT)]
_Jobs = Annotated[int, typer.Option(min=1, help="How many processes.", rich_help_panel=flags.RUN)]


def order(
    solvers: _Solvers = None,
    every: _All = False,
    csv: _Csv = None,
    markdown: _Markdown = None,
    points: _Points = False,
    jobs: _Jobs = 1,
    progress: flags.Progress = True,
) -> int:
    """Measure the orders that solvers declare: exit code 1 where one is not what it declares.

    On the flow, the error at the end of trajectories; on the reverse SDE, that of the distribution (weak order) and
    that along one Brownian path (strong order), all without Monte Carlo but the last. On a Gaussian and on a mixture.
    An order holds if it is nowhere more than 0.15 below the declared one, nor more than 0.35 above everywhere; from
    order 5 on, if its interval reaches the declared one.

    Examples:

        scorediff order dpm++2m heun rk4:coordinates=log-snr
        scorediff order --all --jobs 2 --csv orders.csv --markdown orders.md
    """
    from scorediff._core import registry
    from scorediff._core.progress import each
    from scorediff.solvers import Solver
    from scorediff.verify.audit import Audit, between_marks

    if every == bool(solvers):
        raise ValueError("name the solvers to measure, as in 'scorediff order ddim heun', or give --all, not both")
    if csv is not None:
        options.output(csv, (".csv",), "--csv")
    if markdown is not None:
        options.output(markdown, (".md",), "--markdown")
        between_marks(markdown)
    names = list(dict.fromkeys(solvers or [])) or sorted(registry.names(Solver))  # type: ignore[type-abstract]
    for name in names:
        options.parse_solver(name)
    rows = [row for part in each(measured(names, jobs), progress, unit="solver", total=len(names)) for row in part]
    found = Audit(tuple(rows))
    for row in rows if points else ():
        if row.report is not None:
            print(f"{row.report.table()}\n")
    print(found.table())
    if csv is not None:
        found.to_csv(csv)
    if markdown is not None:
        found.to_markdown(markdown)
    return 0 if found.ok else 1


def measured(names: list[str], jobs: int) -> Any:
    """The rows of every solver, in the order of `names`, by so many processes."""
    if jobs == 1 or len(names) == 1:
        yield from map(_one, names)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_one, names)


def _one(name: str) -> Any:
    import warnings

    from scorediff.verify.audit import audit

    with options.threads(1), warnings.catch_warnings():
        # torchdiffeq's implicit Adams says so on grids that are too coarse for it, and the ladder begins there
        warnings.filterwarnings("ignore", "Functional iteration did not converge")
        return audit(name)
