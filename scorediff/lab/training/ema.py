"""Averages of weights over training, and averages of another width made of them afterwards (arXiv:2312.02696)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scorediff._core.files import expanded
from scorediff._core.sealed import read_tensors
from scorediff.lab.checkpoints import Checkpoint, load

#: The widths of the averages that others are made of.
KEPT = (0.05, 0.1)

__all__ = ["KEPT", "PowerAverage", "mixture", "power", "reconstruct"]


def power(std: float) -> float:
    """The gamma for which `t^gamma`, on [0, 1], has the standard deviation `std`.

    Raises ValueError for a width outside (0, 0.288): that of weights that are all alike is 1 / sqrt(12).
    """
    if not 0 < std < 12**-0.5:
        raise ValueError(f"an average of width {std}: a fraction of the run, above 0 and below {12**-0.5:.3f}")
    # std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)); polynomial in gamma, one root above 0
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(np.max(roots.real[np.abs(roots.imag) < 1e-9]))


class PowerAverage:
    """The average of weights w_1, w_2, ... in which w_t weighs as `t^gamma`, of the width `std` relative to the run.

    It forgets where training began, however long it goes on.
    """

    def __init__(self, weights: Mapping[str, Tensor], std: float) -> None:
        self.std, self.gamma = std, power(std)
        self.weights = {name: w.detach().clone() for name, w in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after step 1, 2, ..."""
        # beta_t = (1 - 1/t)^(gamma + 1)
        beta = (1 - 1 / step) ** (self.gamma + 1)
        floating = [name for name, mean in self.weights.items() if mean.is_floating_point()]
        means = [self.weights[name] for name in floating]
        torch._foreach_lerp_(
            means, [weights[name].detach().to(m.dtype) for name, m in zip(floating, means, strict=True)], 1 - beta
        )
        for name in self.weights.keys() - set(floating):
            self.weights[name].copy_(weights[name])


def mixture(kept: Sequence[tuple[float, float]], std: float, at: float) -> np.ndarray:
    """The weight of each of some averages, `(width, step)`, in the best copy of the average of width `std` at step
    `at`.

    Least squares over the weights that the averages give to every moment of the run, in closed form, scaled to sum to
    1. Raises ValueError where the best copy is off by more than a twentieth (root mean square over the run, relative).
    """
    gammas = np.array([power(s) for s, _ in kept] + [power(std)])
    ends = np.array([t for _, t in kept] + [at]) / at
    # <p, q> = INT_0^min (c + 1) (d + 1) tau^(c + d) / (t^(c + 1) u^(d + 1)) for powers c, d up to the ends t, u
    c, d, t, u = gammas[:, None], gammas[None, :], ends[:, None], ends[None, :]
    low = np.minimum(t, u)
    products = (c + 1) * (d + 1) / (c + d + 1) * (low / t) ** (c + 1) * (low / u) ** (d + 1) / low
    found = np.linalg.lstsq(products[:-1, :-1], products[:-1, -1], rcond=1e-12)[0]
    # |q - SUM_i x_i p_i|^2 = <q, q> - 2 x <p, q> + x <p, p> x
    whole = np.append(found / found.sum(), -1.0)
    off = np.sqrt(max(whole @ products @ whole, 0.0) / products[-1, -1])
    if not off < 0.05:
        raise ValueError(
            f"std = {std:g}: the best average made of those that were kept is off by {off:.0%}; take one from "
            f"{min(KEPT)} to {max(KEPT)}, or let the run keep more of them"
        )
    return whole[:-1]


def reconstruct(run: str | Path, std: float, step: int | None = None, *, net: nn.Module | None = None) -> Checkpoint:
    """The checkpoint of a training run with its weights averaged over another width, at `step`, one of those (by
    default the last) whose averages the run kept. `net` as for `load`.

    Raises FileNotFoundError where it kept none, ValueError for a width or a step that cannot be, or a damaged file.
    """
    folder = expanded(run)
    there = {path.stem.partition("-")[2]: path for path in sorted(folder.glob("averages-*.safetensors"))}
    files = {int(step): path for step, path in there.items() if step.isdecimal()}
    if not files:
        raise FileNotFoundError(f"{run} keeps no averages: train with averages above 0")
    at = max(files) if step is None else step
    if at not in files:
        raise ValueError(
            f"step = {step}: {run} keeps none of it; the nearest is {min(files, key=lambda t: abs(t - at))}"
        )
    files = {t: path for t, path in files.items() if t <= at}
    checkpoint = load(folder, net=net)
    weights = iter(mixture([(w, t) for t in files for w in KEPT], std, at))
    total: dict[str, Tensor] = {}
    for path in files.values():
        tensors, _ = read_tensors(path, "step")
        for width in KEPT:
            weight = float(next(weights))
            for name, w in checkpoint.net.state_dict().items():
                if w.is_floating_point():
                    mean = tensors.get(f"{width}/{name}")
                    if mean is None or mean.shape != w.shape:
                        raise ValueError(f"{path} does not hold the averages of width {width} of this run's network")
                    total[name] = total.get(name, 0) + mean.double() * weight
    checkpoint.net.load_state_dict(total, strict=False)
    card = {key: value for key, value in checkpoint.card.items() if not key.startswith("held_out")}
    return dataclasses.replace(checkpoint, card={**card, "average": std, "step": at})
