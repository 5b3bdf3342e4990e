"""Where the error of a sampler comes from: its steps, where it starts, where it stops, and the network itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff.lab.checkpoints import Checkpoint
from scorediff.lab.data import Data
from scorediff.lab.experiments.table import Experiment, check_fit, rms
from scorediff.problems import ProbabilityFlow
from scorediff.sampling import add_noise, prior
from scorediff.solvers import Denoise, ExponentialAdams, solve
from scorediff.solvers.solve import resolve
from scorediff.targets import Empirical

__all__ = ["splitting"]

_TIGHT = ExponentialAdams(rtol=1e-5)


@torch.no_grad()
def splitting(
    checkpoint: Checkpoint,
    data: Data,
    *,
    solver: str = "dpm++2m",
    steps: Sequence[int] = (5, 10, 20, 40, 80),
    n: int = 64,
    seed: int = 0,
) -> Experiment:
    """Root mean square errors over the pixels of `n` samples, without labels, of

    - the steps: `solver` against a converged solution of the same network, from the same starts;
    - the start: noise alone instead of noised data at t_start, both followed to the end by the network;
    - the end: the state at t_end over alpha, and its last denoising, against a run on to a tenth of sigma;
    - the network: its denoised data against those of the exact denoiser of `data`, at noised data, for several log-SNR,
      beside what the exact denoiser itself leaves; and where the flows of both end.
    """
    check_fit(checkpoint, data)
    denoiser, schedule = checkpoint.denoiser, checkpoint.schedule
    flow = ProbabilityFlow(denoiser)
    rows = np.sort(np.random.default_rng(seed).choice(len(data), n, replace=n > len(data)))
    images = data.batch(rows).to(denoiser.device or "cpu")
    x = prior(schedule, images.shape, seed=seed, device=images.device, dtype=images.dtype)
    truth = _followed(flow, x)
    found: list[tuple[Any, ...]] = []
    for s in steps:
        made = solve(flow, x, resolve(solver), steps=s, progress=False).check()
        found.append(("steps", f"{solver}, {s} steps", *_two(made.x, truth)))
    begun = add_noise(schedule, images, schedule.t_start, seed=seed)
    found.append(("start", f"t = {schedule.t_start:g}, alpha = {schedule.alpha(schedule.t_start):.2g}",
                  *_two(_followed(flow, begun), truth)))  # fmt: skip
    found += _ends(flow, x)
    exact = Empirical(data.batch(slice(None)), 0.0).denoiser(schedule)
    for log_snr in (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0):
        if not schedule.log_snr(schedule.t_start) <= log_snr <= schedule.log_snr(schedule.t_end):
            continue
        t = float(schedule.time_at(log_snr))
        noised = add_noise(schedule, images, t, seed=seed)
        by_net, by_data = denoiser(t, noised)[0], exact(t, noised)[0]
        found.append(("network", f"log-SNR {log_snr:g}", *_two(by_net, by_data)))
        found.append(("data", f"log-SNR {log_snr:g}", *_two(by_data, images)))
    found.append(("network", "where the flow ends", *_two(_followed(ProbabilityFlow(exact), x), truth)))
    words = f"Root mean square errors per pixel, from -1 to 1, of {n} samples: median and mean square over samples."
    return Experiment(words, ("part", "at", "median", "rms"), tuple(found), lambda path: _draw(path, found))


def _followed(flow: ProbabilityFlow, x: Tensor) -> Tensor:
    return solve(flow, x, _TIGHT, progress=False).check().x


def _ends(flow: ProbabilityFlow, x: Tensor) -> list[tuple[Any, ...]]:
    """What is left of the way from t_end to sigma = 0, as far as the schedule goes on there."""
    schedule = flow.schedule
    t_end = schedule.t_end
    lo = schedule.domain[0]
    wanted = float(schedule.log_snr(t_end)) + np.log(10)
    if wanted > float(schedule.log_snr(lo)):
        return [("end", f"t = {t_end:g}: the schedule ends there", float("nan"), float("nan"))]
    farther = float(schedule.time_at(wanted))
    state = _followed(flow, x)
    truth = solve(flow, state, _TIGHT, t_start=t_end, t_end=farther, progress=False).check().x
    truth = truth / float(schedule.alpha(farther))
    at = f"t = {t_end:g}, sigma = {schedule.sigma(t_end):.2g}"
    return [
        ("end", f"{at}, as it is", *_two(state / float(schedule.alpha(t_end)), truth)),
        ("end", f"{at}, denoised", *_two(Denoise()(flow, t_end, state), truth)),
    ]


def _two(a: Tensor, b: Tensor) -> tuple[float, float]:
    each = rms(a, b)
    return float(each.median()), float(each.square().mean().sqrt())


def _draw(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    from scorediff.lab.pictures import PALETTE, headed, new_figure, plain, save_figure

    figure = new_figure(7.2, 0.28 * len(rows) + 1.0)
    axes = figure.add_subplot()
    colors = dict(zip(dict.fromkeys(row[0] for row in rows), PALETTE, strict=False))
    for i, (part, _at, median, _) in enumerate(rows):
        if np.isfinite(median):
            axes.barh(i, median, color=colors[part], height=0.7)
    axes.set_yticks(range(len(rows)), [f"{part}: {at}" for part, at, *_ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    # below, the bars would show rounding
    axes.set_xlim(left=1e-4 * max(row[2] for row in rows if np.isfinite(row[2])))
    axes.margins(y=0.01)
    plain(axes, "root mean square error per pixel (median over samples)", "")
    headed(axes, "Where the error comes from")
    save_figure(path, figure)
