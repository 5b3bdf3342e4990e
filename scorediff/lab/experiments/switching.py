"""Train once, switch solvers: one checkpoint, the same starts, every solver of the package."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from scorediff._core import registry
from scorediff._core.progress import each
from scorediff.lab.checkpoints import Checkpoint
from scorediff.lab.experiments.table import Experiment, rms, starts
from scorediff.lab.pictures import draw_rows, new_figure, save_figure
from scorediff.problems import ProbabilityFlow, ReverseSDE
from scorediff.sampling import sample
from scorediff.solvers import AdaptiveSolver, ExponentialAdams, Solver, SolverError, Status
from scorediff.verify.runs import stochastic

__all__ = ["switching"]


def switching(
    checkpoint: Checkpoint,
    *,
    n: int = 10,
    budget: int = 24,
    solvers: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Experiment:
    """A row of `n` samples from the same starts for every solver that comes with the package, at about `budget`
    evaluations each, adaptive ones at a tolerance of 0.03; and how far each row is from the true flow of the network.

    Solvers of the reverse SDE alone end elsewhere, in the same distribution. `solvers` names some instead of all. A
    solver that fails, or asks for more than twenty times the budget (implicit ones ask for a Jacobian by differences),
    has its status in the table, and no row in the picture.
    """
    known = registry.names(Solver)  # type: ignore[type-abstract]
    chosen = {name: known[name] for name in known if type(known[name]).__module__.startswith("scorediff.")}
    if solvers is not None:
        chosen = {name: registry.parse(Solver, name) for name in solvers}  # type: ignore[type-abstract]
    given = starts(checkpoint, n, seed)
    flow = ProbabilityFlow(checkpoint.denoiser)
    truth = sample(flow, solver=ExponentialAdams(rtol=1e-4), **given, seed=seed, progress=False).check()
    rows: list[tuple[Any, ...]] = [("true flow", float(truth.evaluations.mean()), 0.0, "success")]
    sheet, labels = [truth.x], ["true flow"]
    for name, solver in each(chosen.items(), progress, unit="solver", total=len(chosen)):
        on_flow = ProbabilityFlow in solver.solves
        problem: Any = flow if on_flow else ReverseSDE(checkpoint.denoiser)
        try:
            with _at_most(20 * budget * n, checkpoint.net):
                used = solver.at(0.03) if isinstance(solver, AdaptiveSolver) else solver
                made = sample(problem, solver=used, **given, seed=seed, progress=False, **_steps(solver, budget))
        except (ValueError, SolverError) as error:
            rows.append((name, float("nan"), float("nan"), str(error)))
            continue
        status = ", ".join(sorted({Status(s).name.lower().replace("_", " ") for s in made.status.tolist()}))
        follows = on_flow and made.ok and not stochastic(solver)
        apart = float(rms(made.x, truth.x).median()) if follows else float("nan")
        rows.append((name, float(made.evaluations.mean()), apart, status))
        if made.ok:
            sheet.append(made.x)
            labels.append(f"{name}  {made.evaluations.mean():.0f}")
    words = (
        f"The same {n} starts by every solver, at about {budget} evaluations: median root mean square distance to the "
        "true flow of the network (solvers that draw noise follow another path)."
    )

    def picture(path: Path) -> None:
        columns = min(-(-len(sheet) // 16), 3)
        rows, side = -(-len(sheet) // columns), max(checkpoint.shape[-1] / 80, 0.2)
        figure = new_figure(columns * (n * side + 1.7), rows * side + 0.1)
        for i, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
            part = slice(i * rows, (i + 1) * rows)
            draw_rows(axes, sheet[part], labels=labels[part], ink=True)
            axes.set_anchor("N")
        save_figure(path, figure)

    return Experiment(words, ("solver", "evaluations", "distance", "status"), tuple(rows), picture)


@contextmanager
def _at_most(calls: int, net: nn.Module) -> Iterator[None]:
    left = iter(range(calls))

    def count(*_: Any) -> None:
        if next(left, None) is None:
            raise SolverError(f"stopped after {calls} calls of the network")

    handle = net.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _steps(solver: Solver, budget: int) -> dict[str, Any]:
    return {} if solver.adaptive else {"steps": max(budget // (solver.nfe or 1), 2)}
