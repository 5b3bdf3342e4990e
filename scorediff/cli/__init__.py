"""The command line: `sample`, `train`, `average`, `inspect`, `experiment`, `compare`, `order`, `solvers`, `demo`."""

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from scorediff.cli.compare import compare
from scorediff.cli.demo import demo
from scorediff.cli.experiment import experiments
from scorediff.cli.inspect import inspect
from scorediff.cli.listing import solvers
from scorediff.cli.order import order
from scorediff.cli.sample import sample
from scorediff.cli.train import average, train
from scorediff.lab.training import TrainingError
from scorediff.solvers import SolverError

__all__ = ["app", "main"]


class _Group(TyperGroup):
    """Commands whose errors are one line on stderr: exit code 2 for what was asked, 1 for what failed on the way."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **options: Any) -> Any:  # type: ignore[override]
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **options)
        try:
            code = super().main(args, standalone_mode=False, **options)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output has gone; nothing is left to say, not even at shutdown
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except TyperException as error:
            _fail(error.format_message(), error.exit_code)
        except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
            _fail(error, 2)
        except (SolverError, TrainingError, OSError) as error:
            _fail(error, 1)
        except typer.Abort:
            _fail("aborted", 130)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: object, code: int) -> NoReturn:
    words = " ".join(str(message).split())
    if words:  # nothing to say where no command was given: that printed the help
        print(f"scorediff: {words}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from scorediff import __version__

        print(f"scorediff {__version__}")
        raise typer.Exit()


app = typer.Typer(
    name="scorediff",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _scorediff(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Diffusion samplers as what they are: ODE and SDE solvers with a declared, measured order.

    Runs on targets whose denoiser is known exactly, on the networks that come with the package, and on those that
    `scorediff train` makes; nothing is downloaded. Names of solvers, schedules and spacings take options:
    'rk45:rtol=1e-4', 'vp-linear:beta_max=10', 'karras:rho=5'.

    Exit codes: 0 success, 1 a solver or a write failed on the way, an order is not what was declared, or a network
    looks wrong, 2 something that was asked for cannot be done.
    """


for _command in (demo, sample, train, average, inspect, compare, order, solvers):
    app.command()(_command)
app.add_typer(experiments, name="experiment")


def main() -> None:
    """The console script."""
    app(prog_name="scorediff")
