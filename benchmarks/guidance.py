"""What is gained by declaring where a guided equation jumps, and what guidance costs in rows.

`python benchmarks/guidance.py`: classifier-free guidance of scale 3 within 0.3 < sigma <= 3 on a mixture of two classes
in two dimensions, on VP linear, float64. The truth is RK45 at 1e-10, segment by segment between the ends of the
interval. Each adaptive solver runs with the ends declared and with them hidden; each multistep method on its own grid,
on one that has the ends among its nodes besides, and segment by segment, with a starting procedure at each end. Under a
minute on one core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import scorediff as sd
from scorediff._core.tables import aligned

SCHEDULE = sd.VPLinear()
CLASSES = (sd.targets.Gaussian((-1.0, 0.5), 0.16), sd.targets.Gaussian((1.0, -0.5), 0.36))
WHOLE = sd.targets.GaussianMixture((0.5, 0.5), ((-1.0, 0.5), (1.0, -0.5)), (0.16, 0.36))
LABEL = torch.arange(64) % 2


@dataclass(frozen=True)
class Labelled:
    """The exact denoiser of each class, and of both for label 2."""

    schedule: sd.schedules.Schedule = SCHEDULE

    def __call__(self, t: Any, x: Tensor, *, label: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [target.denoiser(self.schedule)(t, x) for target in (*CLASSES, WHOLE)]
        data, noise = (torch.stack([r[k] for r in outputs])[label, torch.arange(len(x))] for k in (0, 1))
        return data, noise


@dataclass(frozen=True)
class Hidden:
    """The same denoiser, its jumps not declared."""

    denoiser: Any

    @property
    def schedule(self) -> sd.schedules.Schedule:
        return self.denoiser.schedule

    def __call__(self, t: Any, x: Tensor, **cond: Any) -> Any:
        return self.denoiser(t, x, **cond)


def rows() -> Iterator[list[str]]:
    """A row of the table for each run."""
    guided = sd.guidance.GuidanceInterval.in_sigma(sd.ClassifierFree(Labelled(), 3.0, {"label": 2}), 0.3, 3.0)
    x, cond = sd.prior(SCHEDULE, (64, 2), dtype=torch.float64), {"label": LABEL}
    ends = [SCHEDULE.t_start, *sorted(guided.discontinuities, reverse=True), SCHEDULE.t_end]
    segments = [sd.Grid([first - 1e-13, last + 1e-13]) for first, last in pairwise(ends)]
    flow, truth = sd.ProbabilityFlow(guided), x
    for segment in segments:
        truth = (
            sd.sample(flow, solver=sd.RK45(1e-10, 1e-10), x=truth, grid=segment, cond=cond, progress=False).check().x
        )
    adaptive = [f"exponential-adams:rtol={r:g}" for r in (1e-2, 1e-3, 1e-4)]
    adaptive += [f"rk45:rtol={r:g},atol={r:g}" for r in (1e-3, 1e-5)]
    for name in adaptive:
        for words, denoiser in (("declared", guided), ("hidden", Hidden(guided))):
            run = sd.sample(sd.ProbabilityFlow(denoiser), solver=name, x=x, cond=cond, progress=False)
            yield row(name, words, truth, [run])
    for name in ("dpm++2m", "unipc-3"):
        for steps in (20, 40):
            own = sd.spacings.UniformLogSNR()(SCHEDULE, steps).times
            for words, nodes in (
                ("among the nodes", np.unique([*own, *guided.discontinuities])[::-1]),
                ("between nodes", own),
            ):
                run = sd.sample(flow, solver=name, x=x, grid=nodes, cond=cond, progress=False)
                yield row(f"{name}, {steps} steps", words, truth, [run])
            runs: list[sd.Solution] = []
            for segment in segments:
                part = abs(SCHEDULE.log_snr(segment.end) - SCHEDULE.log_snr(segment.start))
                fraction = part / abs(SCHEDULE.log_snr(SCHEDULE.t_end) - SCHEDULE.log_snr(SCHEDULE.t_start))
                nodes = sd.spacings.UniformLogSNR()(
                    SCHEDULE, max(round(steps * fraction), 1), t_start=segment.start, t_end=segment.end
                )
                start = runs[-1].x if runs else x
                runs.append(sd.sample(flow, solver=name, x=start, grid=nodes, cond=cond, progress=False))
            yield row(f"{name}, {steps} steps", "segment by segment", truth, runs)


def row(name: str, words: str, truth: Tensor, runs: list[sd.Solution]) -> list[str]:
    errors = (runs[-1].check().x - truth).square().mean(1).sqrt()
    numbers = (sum(run.evaluations.mean() for run in runs), sum(run.rows for run in runs) / len(truth))
    return [name, words, *(f"{v:.1f}" for v in numbers), f"{errors.mean():.1e}", f"{errors.max():.1e}"]


def main() -> None:
    torch.set_num_threads(1)
    header = ["solver", "jumps", "evaluations", "rows a sample", "mean error", "largest error"]
    print(aligned(header, list(rows()), flush_left=(0, 1)))


if __name__ == "__main__":
    main()
