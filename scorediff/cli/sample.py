"""`scorediff sample`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorediff.cli import flags, options

if TYPE_CHECKING:
    from scorediff.exact import Target
    from scorediff.solvers import Solution, Solver

__all__ = ["sample"]

_STEPS = 20

_Bandwidth = Annotated[
    float | None, typer.Option(help="Smoothing of the digits (default 0.1).", rich_help_panel=flags.PROBLEM)
]
_Eta = Annotated[
    float | None,
    typer.Option(
        help="Noise of the reverse SDE; 0 is the probability flow. By default 0 where the solver can, else 1.",
        rich_help_panel=flags.PROBLEM,
    ),
]
_Solver = Annotated[
    str, typer.Option(help="Name, or 'name:option=value,...'; see 'scorediff solvers'.", rich_help_panel=flags.SOLVER)
]
_Steps = Annotated[
    int | None, typer.Option(help=f"Steps of a fixed-grid solver (default {_STEPS}).", rich_help_panel=flags.SOLVER)
]
_Terminal = Annotated[
    str, typer.Option(help="From t_end to sigma = 0: none, denoise or half-step.", rich_help_panel=flags.SOLVER)
]
_MaxEvaluations = Annotated[
    int | None, typer.Option(help="Budget per sample of an adaptive solver.", rich_help_panel=flags.SOLVER)
]
_Count = Annotated[int, typer.Option("--n", min=1, help="How many samples.", rich_help_panel=flags.RUN)]
_BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Samples at a time (default: all).", rich_help_panel=flags.RUN)
]
_Out = Annotated[
    Path,
    typer.Option(
        help="A picture (.png), or samples, status, evaluations and settings (.npz).", rich_help_panel=flags.OUTPUT
    ),
]


def sample(
    model: flags.Model = "digits",
    bandwidth: _Bandwidth = None,
    schedule: flags.Schedule = "vp-linear",
    eta: _Eta = None,
    t_start: flags.TStart = None,
    t_end: flags.TEnd = None,
    solver: _Solver = "dpm++2m",
    steps: _Steps = None,
    spacing: flags.Spacing = None,
    terminal: _Terminal = "none",
    max_evaluations: _MaxEvaluations = None,
    n: _Count = 64,
    seed: flags.Seed = 0,
    dtype: flags.Dtype = "float32",
    batch_size: _BatchSize = None,
    threads: flags.Threads = 1,
    progress: flags.Progress = True,
    out: _Out = Path("samples.png"),
) -> None:
    """Sample a law whose denoiser is known exactly, and write a picture or the numbers.

    Solvers of the ODE run on the probability flow, solvers of the SDE on the reverse SDE. The same seed gives the same
    samples, whatever the batch size.

    Examples:

        scorediff sample --solver dpm++2m --steps 12
        scorediff sample --solver ddim --eta 0.5 --steps 50 --n 100
        scorediff sample --solver rk45:rtol=1e-4 --schedule edm --out edm.npz
        scorediff sample --model mixture --solver ddpm --n 2000 --out m.png
    """
    import scorediff as sd

    path = options.output(out, (".png", ".npz"))
    chosen = options.parse_solver(solver)
    target = options.target_named(model, bandwidth)
    problem = options.problem_for(target.denoiser(options.parse_schedule(schedule)), chosen, eta)
    with options.threads(threads):
        solution = sd.sample(
            problem,
            chosen,
            (n, *target.event_shape),
            steps=_steps(chosen, steps),
            spacing=options.parse_spacing(spacing),
            t_start=t_start,
            t_end=t_end,
            max_evaluations=max_evaluations,
            seed=seed,
            terminal=options.terminal_named(terminal),
            dtype=options.dtype_named(dtype),
            batch_size=batch_size,
            progress=progress,
        ).check()
    words = f"{chosen.name}, {solution.evaluations.mean():.4g} evaluations"
    _write(path, target, solution, words, {"model": model, "bandwidth": getattr(target, "bandwidth", None)})
    print(f"{out}: {n} samples by {words} each")


def _steps(solver: "Solver", steps: int | None) -> int | None:
    if not solver.adaptive:
        return _STEPS if steps is None else steps
    if steps is not None:
        raise ValueError(
            f"{solver.name} chooses its own steps: drop --steps {steps}, set its tolerance as in "
            f"--solver '{solver.name}:rtol=1e-4'"
        )
    return None


def _write(path: Path, target: "Target", solution: "Solution", words: str, model: dict[str, Any]) -> None:
    import numpy as np

    from scorediff.pictures import contact_sheet, scatter, write_whole

    if path.suffix.lower() == ".npz":
        settings = np.array(json.dumps({**model, **solution.settings}))
        status, evaluations = solution.status, solution.evaluations
        write_whole(
            path,
            lambda part: np.savez(
                part, samples=solution.x.numpy(), status=status, evaluations=evaluations, settings=settings
            ),
        )
    elif len(target.event_shape) == 3:
        contact_sheet(path, solution.x, ink=True)
    else:
        scatter(path, solution.x, truth=target.sample(2000, seed=1), title=words)
