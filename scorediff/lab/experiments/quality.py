"""DDIM's table (arXiv:2010.02502) on a trained network: quality against steps and eta; and other solvers'."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorediff._core.progress import each
from scorediff.lab.checkpoints import Checkpoint
from scorediff.lab.data import Data
from scorediff.lab.experiments.table import Experiment, check_fit, starts
from scorediff.lab.metrics import Extractor, features, frechet_distance
from scorediff.problems import ProbabilityFlow, ReverseSDE
from scorediff.sampling import sample
from scorediff.solvers import AdaptiveSolver, Solver
from scorediff.solvers.solve import resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["quality"]

STEPS, ETAS = (10, 20, 50, 100, 1000), (0.0, 0.2, 0.5, 1.0, "larger")
BUDGETS = (5, 8, 12, 20, 50)
SOLVERS = ("ddim", "dpm++2m", "dpm++3m", "unipc-3", "edm-heun", "exponential-adams")
TOLERANCES = (0.3, 0.1, 0.03, 0.01)


def quality(
    checkpoint: Checkpoint,
    data: Data,
    extractor: Extractor,
    *,
    n: int = 2000,
    steps: Sequence[int] = STEPS,
    etas: Sequence[float | str] = ETAS,
    solvers: Sequence[str] = SOLVERS,
    budgets: Sequence[int] = BUDGETS,
    seed: int = 0,
    batch_size: int = 250,
    progress: bool = True,
) -> Experiment:
    """The Frechet distance of `n` samples to `data`, in the features of `extractor`: of DDIM for each number of steps
    and eta ("larger" is DDPM with the larger variance, sigma-hat), and of other solvers for each budget of evaluations.

    Adaptive solvers run at tolerances from 0.3 to 0.01 instead. A run that fails has no distance. Raises ValueError for
    data that the network does not take, or of fewer than 40 samples.
    """
    check_fit(checkpoint, data)
    if min(n, len(data)) < 40:
        raise ValueError(f"{n} samples and {len(data)} of {data.title}: at least 40 of each are needed")
    runs: list[tuple[str, Any, Any, Solver]] = [
        (name, eta, s, resolve(name))
        for eta in etas
        for name in ("ddpm-large" if eta == "larger" else "ddim",)
        for s in steps
    ]
    for name in solvers:
        solver = resolve(name)
        if isinstance(solver, AdaptiveSolver):
            runs += [(name, 0.0, f"rtol {tolerance}", solver.at(tolerance)) for tolerance in TOLERANCES]
        else:
            runs += [(name, 0.0, s, solver) for s in sorted({max(b // (solver.nfe or 1), 1) for b in budgets})]
    real = features(data, extractor, batch_size=batch_size)
    # what the data are from themselves: the floor that finitely many samples have
    order = np.random.default_rng(seed).permutation(len(real))
    floor = frechet_distance(real[order[: len(order) // 2]], real[order[len(order) // 2 :]])
    given = starts(checkpoint, n, seed)
    strata = given["cond"]["label"].cpu().numpy() if checkpoint.classes else None
    rows: dict[tuple[str, Any, Any], tuple[float, float, float, float]] = {}
    for name, eta, s, solver in each(runs, progress, unit="run", total=len(runs)):
        if (name, eta, s) in rows:
            continue
        denoiser = checkpoint.denoiser
        problem: Any = ProbabilityFlow(denoiser) if eta == 0 else ReverseSDE(denoiser, 1.0 if eta == "larger" else eta)
        how = {} if solver.adaptive else {"steps": s}
        made = sample(problem, solver=solver, **given, **how, seed=seed, batch_size=batch_size, progress=False)
        spent = float(made.evaluations.mean())
        if made.ok:
            found = frechet_distance(real, features(made.x, extractor, batch_size=batch_size), strata=strata)
            rows[name, eta, s] = spent, found.value, found.error, found.bias
        else:
            rows[name, eta, s] = spent, np.nan, np.nan, np.nan
    words = (
        f"Frechet distance of {n} samples to {len(real)} of {data.title}, in the features of a classifier. Half of the "
        f"data is {floor} from the other half."
    )
    columns = ("solver", "eta", "steps", "evaluations", "distance", "error", "bias")
    table = tuple((*key, *numbers) for key, numbers in rows.items())
    return Experiment(words, columns, table, lambda path: _draw(path, table, steps))


def _draw(path: Path, rows: Sequence[tuple[Any, ...]], steps: Sequence[int]) -> None:
    from scorediff.lab.pictures import headed, new_figure, save_figure

    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    by_eta: dict[str, list[Any]] = {}
    by_solver: dict[str, list[Any]] = {}
    for name, eta, s, spent, value, error, _ in rows:
        if name in ("ddim", "ddpm-large") and s in steps:
            by_eta.setdefault("sigma-hat" if eta == "larger" else f"eta = {eta:g}", []).append((spent, value, error))
        if eta == 0:
            by_solver.setdefault(name, []).append((spent, value, error))
    _curves(left, by_eta)
    _curves(right, by_solver)
    headed(left, "DDIM: steps and eta")
    headed(right, "Solvers of the probability flow")
    left.set_ylabel("Frechet distance", fontsize=9)
    # a solver that blows up would press the others together
    values = np.array([row[4] for row in rows])
    left.set_ylim(np.nanmin(values) / 3, min(np.nanmax(values) * 2, np.nanmedian(values) * 30))
    save_figure(path, figure)


def _curves(axes: "Axes", curves: dict[str, list[tuple[float, float, float]]]) -> None:
    from scorediff.lab.pictures import lines, plain

    for (name, points), look in zip(curves.items(), lines(), strict=False):
        spent, value, error = np.array(sorted(points)).T
        axes.errorbar(spent, value, yerr=error, marker="o", markersize=3.5, linewidth=1.2, label=name, **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain(axes, "evaluations of the network per sample", "")
    axes.legend(frameon=False, fontsize=8)
