"""Networks of EDM as denoisers, and grids of the noise levels that they know."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorediff.denoiser import Denoiser
from scorediff.predictions import DataPrediction
from scorediff.schedules import EDM, Schedule
from scorediff.spacings import Karras, Spacing

__all__ = ["Rounded", "from_edm"]


def from_edm(net: Callable[..., Tensor], *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Denoiser:
    """A network of EDM, `(x, sigma, class_labels=None) -> x0`, on its schedule: its time is sigma (arXiv:2206.00364).

    `x` and x0 of shape (B, C, H, W), `sigma` of shape (B,), `class_labels` of shape (B, classes), one-hot. As in EDM's
    own sampler, sigma runs between the ends given, cut to `net.sigma_min` and `net.sigma_max` and rounded by
    `net.round_sigma`; a network without these (EDM2's, arXiv:2312.02696) takes any sigma. EDM's grid of N nodes is
    `steps=N - 1` with `spacing=Rounded.of(net)`, its last step `terminal=Denoise()`. Where the network rounds, EDM
    rounds its ends last, so that its nodes may lie a level beside these: to have them, give them as `grid=`.

    Raises TypeError for a network that is not callable, ValueError where nothing is left between the ends.

    >>> import torch
    >>> model = from_edm(lambda x, sigma, class_labels=None: x / sigma[:, None, None, None])
    >>> model.schedule
    EDM(sigma_min=0.002, sigma_max=80.0)
    >>> x = torch.ones(3, 1, 1, 1)
    >>> data, noise = model(2.0, x)    # x0 = x / 2, and x = x0 + 2 eps
    >>> float(data[0]), float(noise[0])
    (0.5, 0.25)
    """
    ends = max(sigma_min, float(getattr(net, "sigma_min", 0))), min(sigma_max, float(getattr(net, "sigma_max", np.inf)))
    lo, hi = _rounded(net, np.array(ends)).tolist()
    if not 0 < lo < hi < np.inf:
        raise ValueError(
            f"sigma from {sigma_min:g} to {sigma_max:g}, for this network from {lo:g} to {hi:g}: 0 < sigma_min < "
            "sigma_max < inf is wanted; give sigma_min= and sigma_max="
        )
    return Denoiser(net, EDM(lo, hi), DataPrediction())


@dataclass(frozen=True)
class Rounded(Spacing):
    """Another `spacing`, EDM's by default, with every inner time put on the nearest of `levels`, rising times; without
    any, which is the default, as it is.

    Times that meet on one level are pushed apart, towards the noise first: each level is used at most once. Raises
    ValueError for levels that do not rise, and for more steps than there are levels between the ends.

    >>> Rounded((1.0, 2.0, 5.0, 20.0), UniformTime())(EDM(0.01, 80.0), 3).times
    array([8.e+01, 2.e+01, 5.e+00, 1.e-02])
    """

    levels: tuple[float, ...] = ()
    spacing: Spacing = field(default_factory=Karras)

    def __post_init__(self) -> None:
        if not isinstance(self.spacing, Spacing):
            raise TypeError(f"spacing = {self.spacing!r}: give a Spacing, such as Karras()")
        if (
            not isinstance(self.levels, tuple)
            or not np.all(np.isfinite(self.levels))
            or np.any(np.diff(self.levels) <= 0)
        ):
            raise ValueError(f"levels = {self.levels!r}: give rising numbers, in a tuple")

    @classmethod
    def of(cls, net: Any, spacing: Spacing | None = None) -> "Rounded":
        """On the levels of a network of EDM, its table `u`; none for one whose `round_sigma` leaves sigma as it is.

        Raises ValueError for a network that rounds and has no table.
        """
        levels: tuple[float, ...] = ()
        if hasattr(net, "u"):
            table = net.u.detach().cpu().double().numpy()
            levels = tuple(np.unique(table[table > 0]).tolist())
        else:
            probe = np.geomspace(0.01, 50.0, 9)
            if np.any(_rounded(net, probe) != probe):
                raise ValueError(f"{type(net).__name__} rounds sigma and has no table u: give Rounded(levels)")
        return cls(levels, Karras() if spacing is None else spacing)

    def times(self, schedule: Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        times = self.spacing.times(schedule, t_start, t_end, steps)
        if not self.levels or steps == 1:
            return times
        levels = np.array([level for level in self.levels if t_end < level < t_start])
        inner = times[-2:0:-1]
        if len(levels) < len(inner):
            raise ValueError(f"{len(levels)} levels lie between the ends: at most {len(levels) + 1} steps fit")
        rows, k = np.abs(inner[:, None] - levels).argmin(axis=1), np.arange(len(inner))
        # rows - k may not fall where rows are to rise strictly; and room is left for those above
        rows = np.minimum(np.maximum.accumulate(rows - k), len(levels) - len(inner)) + k
        return np.array([t_start, *levels[rows][::-1], t_end])


def _rounded(net: Any, sigma: np.ndarray) -> np.ndarray:
    """The nearest sigmas that the network knows, in float64."""
    if not hasattr(net, "round_sigma"):
        return sigma
    return np.asarray(net.round_sigma(torch.from_numpy(sigma)).double().cpu())
