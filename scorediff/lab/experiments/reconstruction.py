"""Images to noise and back: what is lost on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorediff.lab.checkpoints import Checkpoint
from scorediff.lab.data import Data
from scorediff.lab.experiments.table import Experiment, check_fit, rms
from scorediff.problems import ProbabilityFlow
from scorediff.sampling import encode, sample
from scorediff.solvers.solve import resolve

__all__ = ["reconstruction"]


def reconstruction(
    checkpoint: Checkpoint,
    data: Data,
    *,
    solvers: Sequence[str] = ("ddim", "dpm++2m", "unipc-3", "heun"),
    steps: Sequence[int] = (10, 20, 50, 100, 200),
    n: int = 64,
    seed: int = 0,
) -> Experiment:
    """`n` images of `data` encoded and sampled again with the same steps: mean squared error per pixel on the scale
    [0, 1] (arXiv:2010.02502, table 2), and by how much it fell since the steps before.
    """
    check_fit(checkpoint, data, n)
    rows = np.random.default_rng(seed).choice(len(data), n, replace=False)
    denoiser = checkpoint.denoiser
    images = data.batch(np.sort(rows)).to(denoiser.device or "cpu")
    # a state at t_end is alpha x0, whose noise is left out
    x = images * float(denoiser.schedule.alpha(denoiser.schedule.t_end))
    cond: dict[str, Any] = {}
    if checkpoint.classes and data.labels is not None:
        cond = {"label": torch.from_numpy(np.asarray(data.labels)[np.sort(rows)]).to(images.device)}
    flow, found = ProbabilityFlow(denoiser), []
    for name in solvers:
        solver, before = resolve(name), float("nan")
        for s in steps:
            latent = encode(flow, x, solver, steps=s, cond=cond, progress=False).check()
            back = sample(flow, solver=solver, x=latent.x, steps=s, cond=cond, progress=False).check()
            error = float((rms(back.x, x) / 2).square().mean())
            spent = float(latent.evaluations.mean() + back.evaluations.mean())
            found.append((name, s, spent, error, before / error))
            before = error
    words = f"{n} images of {data.title}, to noise and back: mean squared error per pixel, and by how much it fell."

    def picture(path: Path) -> None:
        from scorediff.lab.pictures import headed, lines, new_figure, plain, save_figure

        figure = new_figure(5.6, 4.2)
        axes = figure.add_subplot()
        for name, look in zip(dict.fromkeys(row[0] for row in found), lines(), strict=False):
            numbers, errors = zip(*((row[1], row[3]) for row in found if row[0] == name), strict=True)
            axes.loglog(numbers, errors, marker="o", markersize=3.5, label=name, **look)
        plain(axes, "steps each way", "mean squared error per pixel")
        headed(axes, "Encode, then sample")
        axes.legend(frameon=False, fontsize=8)
        save_figure(path, figure)

    return Experiment(words, ("solver", "steps", "evaluations", "error", "fell by"), tuple(found), picture)
