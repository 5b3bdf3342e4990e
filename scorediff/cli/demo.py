"""`scorediff demo`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorediff.cli import flags, options

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from scorediff.solvers import Solver
    from scorediff.study import WorkPrecision

__all__ = ["demo"]

# Pretty digits want little smoothing; but there samples flip between images, and average errors tell of that alone.
_SHEET_BANDWIDTH, _STUDY_BANDWIDTH = 0.1, 0.4
_SHEET_BUDGET, _SHEET_TOLERANCE, _STARTS = 12, 1e-2, 16
_BUDGETS, _SDE_BUDGETS, _TOLERANCES = (10, 20, 40, 80, 160), (10, 20, 40, 80), (1e-2, 1e-3, 1e-4, 1e-5)

_FLOW = ("euler", "ddim", "dpm-2m", "dpm++2m", "heun", "edm-heun", "rk4", "rk45", "torchdiffeq-dopri5", "scipy-dop853")
_SDE = ("ddpm", "sde-dpm++2m", "euler-maruyama", "stochastic-heun", "torchsde-srk")

_FILES = {
    "demo.png": "digits by solver, beside work against precision",
    "digits.png": "all solvers from the same starts, a row each",
    "work_precision.png": "ODE solvers: distance to the true trajectory against evaluations",
    "work_precision.csv": "the same as numbers",
    "distribution.png": "SDE solvers: distance in distribution against evaluations",
    "distribution.csv": "the same as numbers",
}


def demo(
    out: Annotated[
        Path,
        typer.Option(parser=flags.place, help="The folder to write to; made where missing."),
    ] = Path("demo"),
    n: Annotated[int, typer.Option("--n", min=16, help="Samples behind every error of a trajectory.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and noise.")] = 0,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Bars, on a terminal only.")] = True,
) -> None:
    """Sample real handwritten digits with more than a dozen solvers, and measure how far each is from the truth.

    The denoiser is exact: that of the 1797 digits that come with the package. Takes about half a minute.
    Prints the tables; writes a contact sheet, the tables as CSV, their plots, and demo.png, the first screen of it all.
    """
    import torch

    started, files = time.perf_counter(), _files(out)
    with options.threads(1):
        rows = _sheet(seed, progress)
        flow = _study(_FLOW, _BUDGETS, (n, torch.float64), seed, progress)
        sde = _study(_SDE, _SDE_BUDGETS, (8 * n, torch.float32), seed, progress)
    print(f"{flow.table()}\n\n{sde.table()}\n")
    _write(files, rows, flow, sde)
    for name, what in _FILES.items():
        print(f"{out / name}: {what}")
    print(f"{len(rows) - 1} solvers, {time.perf_counter() - started:.0f} s")


def _write(files: dict[str, Path], rows: "Sequence[_Row]", flow: "WorkPrecision", sde: "WorkPrecision") -> None:
    where = f"1797 digits, bandwidth {_STUDY_BANDWIDTH:g}, steps uniform in log-SNR"
    flow.to_csv(files["work_precision.csv"])
    sde.to_csv(files["distribution.csv"])
    flow.plot(files["work_precision.png"], title=where)
    sde.plot(files["distribution.png"], title=where)
    _draw_sheet(files["digits.png"], rows)
    _draw_both(files["demo.png"], rows, flow)


def _files(out: Path) -> dict[str, Path]:
    options.folder(out)
    return {name: options.output(out / name, (Path(name).suffix,)) for name in _FILES}


@dataclass(frozen=True)
class _Row:
    """A row of the contact sheet: images (N, 1, 8, 8), and which lie at another digit's image than the truth does."""

    name: str
    evaluations: float
    images: "Tensor"
    framed: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name}  {self.evaluations:3.0f}"

    def first(self, count: int) -> "_Row":
        return _Row(self.name, self.evaluations, self.images[:count], tuple(i for i in self.framed if i < count))


def _sheet(seed: int, progress: bool) -> list[_Row]:
    """The true trajectories' ends, then every solver's samples from the same starts."""
    import torch

    import scorediff as sd
    from scorediff._core.progress import each
    from scorediff.lab.data import digits
    from scorediff.solvers.solve import problem_for
    from scorediff.study.measure import nearest_datum

    target = sd.targets.Empirical(digits(), _SHEET_BANDWIDTH)
    denoiser = target.denoiser(sd.VPLinear())
    x = sd.prior(denoiser.schedule, (_STARTS, *target.event_shape), seed=seed)
    truth = sd.sample(sd.ProbabilityFlow(denoiser), solver=sd.RK45(), x=x, progress=False).check()
    images = nearest_datum(target, truth.x)
    rows = [_Row("true trajectory", truth.evaluations.mean(), truth.x)]
    for name in each((*_FLOW, *_SDE), progress, unit="solver", total=len((*_FLOW, *_SDE))):
        solver, options_ = _within_budget(options.parse_solver(name))
        problem = problem_for(denoiser, solver, None)
        made = sd.solve(problem, x, solver, seed=seed, progress=False, **options_).check()
        astray = nearest_datum(target, made.x) != images if name in _FLOW else torch.zeros(len(x))
        rows.append(_Row(name, made.evaluations.mean(), made.x, tuple(astray.nonzero().flatten().tolist())))
    return rows


def _within_budget(solver: Any) -> "tuple[Solver, dict[str, Any]]":
    import scorediff as sd

    if isinstance(solver, sd.AdaptiveSolver):
        return solver.at(_SHEET_TOLERANCE), {}
    return solver, {"steps": max(_SHEET_BUDGET // (solver.nfe or 1), 1), "spacing": sd.spacings.UniformLogSNR()}


def _study(
    names: Sequence[str], nfes: Sequence[int], samples: tuple[int, Any], seed: int, progress: bool
) -> "WorkPrecision":
    import scorediff as sd
    from scorediff.lab.data import digits
    from scorediff.study import work_precision

    target = sd.targets.Empirical(digits(), _STUDY_BANDWIDTH)
    flow = sd.ProbabilityFlow(target.denoiser(sd.VPLinear()))
    n, dtype = samples
    x = sd.prior(flow.schedule, (n, *target.event_shape), seed=seed, dtype=dtype)
    spacing = sd.spacings.UniformLogSNR()
    return work_precision(flow, names, nfes, x=x, spacing=spacing, rtols=_TOLERANCES, seed=seed, progress=progress)


def _draw_sheet(path: Path, rows: Sequence[_Row]) -> None:
    from scorediff.lab.pictures import new_figure, save_figure

    figure = new_figure(7.4, 0.35 * len(rows) + 0.6)
    _draw_digits(figure.add_subplot(), rows)
    save_figure(path, figure)


def _draw_both(path: Path, rows: Sequence[_Row], flow: "WorkPrecision") -> None:
    from scorediff.lab.pictures import new_figure, save_figure
    from scorediff.study.drawing import draw_trajectories

    figure = new_figure(12.0, 5.2)
    digits, curves = figure.subplots(1, 2, width_ratios=(1, 1.3))
    few = [row.first(10) for row in rows if row.name not in ("edm-heun", "stochastic-heun")]
    _draw_digits(digits, few)
    title = f"Error against work: bandwidth {_STUDY_BANDWIDTH:g}, steps uniform in log-SNR"
    draw_trajectories(curves, flow.trajectories, samples=flow.samples, title=title)
    save_figure(path, figure)


def _draw_digits(axes: "Axes", rows: Sequence[_Row]) -> None:
    from scorediff.lab.pictures import draw_rows, headed

    images, labels, framed = [r.images for r in rows], [r.label for r in rows], [r.framed for r in rows]
    draw_rows(axes, images, labels=labels, ink=True, framed=framed)
    height, on_flow = images[0].shape[-2] + 1, sum(row.name not in _SDE for row in rows)
    axes.axhline(on_flow * height, color="0.6", linewidth=0.8)
    for first, last, words in ((0, on_flow, "probability flow"), (on_flow, len(rows), "reverse SDE")):
        at = ((first + last) / 2) * height
        axes.text(axes.get_xlim()[1] + 1, at, words, rotation=270, va="center", fontsize=8, color="0.4")
    headed(
        axes,
        f"The same starts, bandwidth {_SHEET_BANDWIDTH:g}; number: evaluations",
        "framed: flipped to another image; such errors show no order",
    )
