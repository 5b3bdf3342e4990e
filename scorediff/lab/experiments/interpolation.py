"""One start, several numbers of steps; and images between images, by way of the latent."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scorediff.lab.checkpoints import Checkpoint
from scorediff.lab.experiments.table import Experiment, rms, starts
from scorediff.lab.pictures import contact_sheet
from scorediff.problems import ProbabilityFlow
from scorediff.sampling import sample
from scorediff.solvers import ExponentialAdams, Solver
from scorediff.solvers.solve import resolve

__all__ = ["consistency", "interpolation", "slerp"]


def consistency(
    checkpoint: Checkpoint,
    *,
    solver: Solver | str = "ddim",
    steps: Sequence[int] = (5, 10, 20, 50, 100),
    n: int = 10,
    seed: int = 0,
) -> Experiment:
    """The same `n` starts with each number of steps: what one becomes hardly depends on it (arXiv:2010.02502, 5.2)."""
    solver = resolve(solver)
    given, flow = starts(checkpoint, n, seed), ProbabilityFlow(checkpoint.denoiser)
    truth = sample(flow, solver=ExponentialAdams(rtol=1e-4), **given, progress=False).check().x
    made = [sample(flow, solver=solver, **given, steps=s, progress=False).check() for s in steps]
    rows = [
        (solver.name, s, float(m.evaluations.mean()), float(rms(m.x, truth).median()), float(rms(m.x, truth).max()))
        for s, m in zip(steps, made, strict=True)
    ]
    words = f"The same {n} starts: root mean square distance to the true flow of the network, median and largest."
    labels = [f"{solver.name} {s}" for s in steps] + ["true flow"]

    def picture(path: Path) -> None:
        contact_sheet(path, [*(m.x for m in made), truth], labels=labels, ink=True, scale=_scale(checkpoint))

    return Experiment(words, ("solver", "steps", "evaluations", "median", "largest"), tuple(rows), picture)


def interpolation(
    checkpoint: Checkpoint,
    *,
    solver: Solver | str = "dpm++2m",
    steps: int = 20,
    rows: int = 5,
    places: int = 11,
    label: int | None = None,
    seed: int = 0,
) -> Experiment:
    """Images on the great circle between two starts, a row for each of `rows` pairs (arXiv:2010.02502, 5.3); of the
    class `label`, or, where it is not given, of any: the label is withheld, and classes change along the way.
    """
    solver = resolve(solver)
    ends = starts(checkpoint, 2 * rows, seed)["x"]
    fractions = torch.linspace(0, 1, places)
    x = torch.cat([slerp(ends[2 * r], ends[2 * r + 1], fractions) for r in range(rows)])
    cond = {} if label is None else {"label": torch.full((len(x),), label, device=x.device)}
    found = (
        sample(ProbabilityFlow(checkpoint.denoiser), solver=solver, x=x, cond=cond, steps=steps, progress=False)
        .check()
        .x
    )
    images = list(found.split(places))
    table = [
        (r, j, float(fractions[j]), float(rms(row[j : j + 1], row[j - 1 : j])[0]))
        for r, row in enumerate(images)
        for j in range(1, places)
    ]
    words = "Between two starts on the great circle: root mean square distance of each image to the one before."
    return Experiment(
        words,
        ("row", "place", "fraction", "distance"),
        tuple(table),
        lambda path: contact_sheet(path, images, ink=True, scale=_scale(checkpoint)),
    )


def slerp(a: Tensor, b: Tensor, fractions: Tensor) -> Tensor:
    """Points at `fractions` of the great circle from `a` to `b`, each of the shape of a sample; (len(fractions), ...).

    In high dimension standard normals are all nearly as long: the straight line between two would leave them.
    """
    angle = torch.acos((a * b).sum().div(a.norm() * b.norm()).clamp(-1, 1))
    s = fractions.to(a).reshape(-1, *(1,) * a.ndim)
    if float(angle.sin()) < 1e-6:
        return a + s * (b - a)
    # (sin((1 - s) angle) a + sin(s angle) b) / sin(angle)
    return (torch.sin((1 - s) * angle) * a + torch.sin(s * angle) * b) / angle.sin()


def _scale(checkpoint: Checkpoint) -> int:
    return max(56 // checkpoint.shape[-1], 1)
