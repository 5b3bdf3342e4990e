"""What a step of training sees, as a pure function of seed and step: whoever asks, whenever, in however many parts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scorediff.lab.data import Data
from scorediff.lab.training.recipe import Recipe
from scorediff.noise import start_noise

__all__ = ["Batch", "Batches"]

_ORDER = 2**63  # the first key of a separate stream, for the order of an epoch


@dataclass(frozen=True)
class Batch:
    """What one step of training sees.

    `x0`: data, and `noise`: standard normals, float32 of shape (B, ...). `t`: times, float64 of shape (B,). `label`:
    classes, int64 of shape (B,), the number of classes for a label that is withheld; None without labels.
    """

    x0: Tensor
    noise: Tensor
    t: np.ndarray
    label: Tensor | None


class Batches:
    """Part `rank` of `parts` of the batches of a run over `data`, or some `rows` of it.

    Every epoch has another order; the times of a batch are spaced evenly over their distribution, which makes the loss
    less noisy (arXiv:2107.00630).
    """

    def __init__(
        self, data: Data, recipe: Recipe, rank: int = 0, parts: int = 1, rows: np.ndarray | None = None
    ) -> None:
        if recipe.batch % parts:
            raise ValueError(f"a batch of {recipe.batch} cannot be split among {parts} processes: take a multiple")
        self._data, self._recipe = data, recipe
        self._of = np.arange(len(data)) if rows is None else rows
        size = recipe.batch // parts
        self._mine = slice(rank * size, (rank + 1) * size)
        self._orders: dict[int, np.ndarray] = {}

    def at(self, step: int) -> Batch:
        """The batch of step 0, 1, ..."""
        recipe, data = self._recipe, self._data
        draw = np.random.Generator(np.random.Philox(key=np.array([recipe.seed, step], dtype=np.uint64)))
        places = np.arange(step * recipe.batch, (step + 1) * recipe.batch)
        u = (draw.permutation(recipe.batch) + draw.random(recipe.batch)) / recipe.batch
        mirrored, withheld = draw.random(recipe.batch) < 0.5, draw.random(recipe.batch) < recipe.drop_labels
        rows = self._rows(places)[self._mine]
        x0 = data.batch(rows)
        if recipe.flip:
            x0 = torch.where(torch.from_numpy(mirrored[self._mine]).reshape(-1, *(1,) * (x0.ndim - 1)), x0.flip(-1), x0)
        label = None
        if data.labels is not None:
            label = torch.from_numpy(np.where(withheld[self._mine], data.classes, data.labels[rows]))
        noise = start_noise(recipe.seed, x0, places[self._mine].tolist())
        return Batch(x0, noise, recipe.times.quantile(recipe.schedule, u[self._mine]), label)

    def _rows(self, places: np.ndarray) -> np.ndarray:
        epochs, within = np.divmod(places, len(self._of))
        rows = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            rows[epochs == epoch] = self._order(epoch)[within[epochs == epoch]]
        return rows

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            key = np.array([self._recipe.seed, _ORDER + epoch], dtype=np.uint64)
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.Generator(np.random.Philox(key=key)).permutation(self._of)
        return self._orders[epoch]
