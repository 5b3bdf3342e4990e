"""`scorediff compare`."""

from pathlib import Path
from typing import Annotated

import typer

from scorediff.cli import flags, options

__all__ = ["compare"]

_Solvers = Annotated[str, typer.Option(help="Names, by commas, each as in --solver of 'sample'.")]
_Budgets = Annotated[str, typer.Option(help="Budgets of evaluations, by commas.")]
_Bandwidth = Annotated[
    float | None,
    typer.Option(
        help="Smoothing of the digits (default 0.4; with less, samples flip between images and hide the orders).",
        rich_help_panel=flags.PROBLEM,
    ),
]
_Eta = Annotated[
    float | None,
    typer.Option(help="Noise of the reverse SDE, for solvers of it (default 1).", rich_help_panel=flags.PROBLEM),
]
_Count = Annotated[int, typer.Option("--n", min=2, help="How many samples.", rich_help_panel=flags.RUN)]
_Out = Annotated[
    Path, typer.Option(parser=flags.place, help="The plot: .png, .pdf or .svg; the table goes beside it as .csv.")
]


def compare(
    solvers: _Solvers = "ddim,dpm++2m,heun,rk4,rk45",
    nfe: _Budgets = "10,20,40,80",
    model: flags.Model = "digits",
    bandwidth: _Bandwidth = None,
    schedule: flags.Schedule = "vp-linear",
    eta: _Eta = None,
    t_start: flags.TStart = None,
    t_end: flags.TEnd = None,
    spacing: flags.Spacing = None,
    n: _Count = 64,
    seed: flags.Seed = 0,
    dtype: flags.Dtype = "float64",
    threads: flags.Threads = 1,
    progress: flags.Progress = True,
    out: _Out = Path("work_precision.png"),
) -> None:
    """Measure how far solvers are from the truth per evaluation: a table, a CSV file and a plot.

    ODE solvers start from the same noise and are compared with the true trajectory. SDE solvers have none: they are
    compared in distribution with exact samples (take a large --n). Adaptive solvers ignore --nfe: they run at
    tolerances 1e-1 to 1e-6, or at their own where you set it.

    Examples:

        scorediff compare --solvers ddim,dpm++2m,rk45 --nfe 5,10,20,40
        scorediff compare --solvers ddpm,sde-dpm++2m --model mixture --n 2000
        scorediff compare --solvers euler,euler:coordinates=log-snr --spacing karras
    """
    import scorediff as sd
    from scorediff.solvers.solve import problem_for
    from scorediff.study import work_precision

    path = options.output(out, (".png", ".pdf", ".svg"))
    table = options.output(out.with_suffix(".csv"), (".csv",))
    smooth = 0.4 if model == "digits" and bandwidth is None else bandwidth
    denoiser = options.target_named(model, smooth).denoiser(options.parse_schedule(schedule))
    names = options.split_solvers(solvers)
    for name in names if eta == 0 else ():
        problem_for(denoiser, options.parse_solver(name), 0.0)
    shape = (n, *denoiser.target.event_shape)
    with options.threads(threads):
        study = work_precision(
            sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser),
            names,
            _budgets(nfe),
            x=sd.prior(denoiser.schedule, shape, t_start=t_start, seed=seed, dtype=options.dtype_named(dtype)),
            spacing=options.parse_spacing(spacing),
            t_start=t_start,
            t_end=t_end,
            seed=seed,
            progress=progress,
        )
    print(study.table())
    smoothed = "" if smooth is None else f" at bandwidth {smooth:g}"
    study.plot(path, title=f"{model}{smoothed} on {schedule}")
    study.to_csv(table)
    print(f"\n{out}\n{out.with_suffix('.csv')}")


def _budgets(text: str) -> list[int]:
    try:
        budgets = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        budgets = []
    if not budgets or min(budgets) < 1:
        raise ValueError(f"--nfe {text!r}: whole numbers above 0 are wanted, by commas, as in 5,10,20,40")
    return budgets
