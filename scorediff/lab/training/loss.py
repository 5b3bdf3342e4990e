"""What a network is trained on: how far its output is from `a_t x0 + b_t eps`."""

import dataclasses

import torch
from torch import Tensor

from scorediff._core.states import per_sample
from scorediff.denoiser import Denoiser
from scorediff.lab.data import Data
from scorediff.lab.training.batches import Batch, Batches
from scorediff.lab.training.recipe import Recipe

__all__ = ["held_out_loss", "losses"]


def losses(denoiser: Denoiser, recipe: Recipe, batch: Batch) -> Tensor:
    """The loss of each sample, of shape (B,)."""
    schedule, t, x0, noise = recipe.schedule, batch.t, batch.x0, batch.noise
    # x_t = alpha_t x0 + sigma_t eps
    x = x0 * per_sample(schedule.alpha(t), x0) + noise * per_sample(schedule.sigma(t), x0)
    output = denoiser(t, x, **({} if batch.label is None else {"label": batch.label})).output
    a, b = (c + 0 * t for c in recipe.prediction.row(schedule, t))
    target = x0 * per_sample(a, x0) + noise * per_sample(b, x0)
    weight = recipe.weighting(schedule, recipe.prediction, t)
    square = (output - target).square().flatten(1).mean(1)
    return square * torch.from_numpy(weight).to(square)


@torch.no_grad()
def held_out_loss(denoiser: Denoiser, recipe: Recipe, data: Data) -> tuple[float, float]:
    """The mean loss over the samples held out, each once, at times and noises that are always the same, labels given;
    and its standard error.
    """
    size = min(recipe.batch, len(data))
    fixed = Batches(data, dataclasses.replace(recipe, batch=size, drop_labels=0.0, flip=False, seed=recipe.seed + 1))
    device = denoiser.device or torch.device("cpu")
    found = [losses(denoiser, recipe, on(fixed.at(i), device)) for i in range(-(-len(data) // size))]
    each = torch.cat(found).double().cpu()[: len(data)]  # the rest is of another round
    return float(each.mean()), float(each.std() / len(each) ** 0.5) if len(each) > 1 else float("nan")


def on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    label = None if batch.label is None else batch.label.to(device)
    return Batch(batch.x0.to(device), batch.noise.to(device), batch.t, label)
