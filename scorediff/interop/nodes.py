"""The steps of a run as pipelines of diffusers ask for them, as a grid."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from scorediff.interop.trained import Trained, shift_of, trained_as
from scorediff.schedules import RectifiedFlow
from scorediff.spacings import Grid, Spacing

__all__ = ["Numbers", "grid_for", "is_flow", "levels", "shifted", "times_at"]

Numbers = Sequence[float] | np.ndarray | Tensor

#: How far a published table of noise levels may lie outside, in the log-SNR: they are rounded to three digits.
_ROUNDED = 5e-3


def is_flow(trained: Trained) -> bool:
    return isinstance(trained.schedule, RectifiedFlow)


def shifted(trained: Trained, config: Mapping[str, Any], mu: float | None) -> Trained:
    """What the network of this `config` was trained as, where `mu` gives the shift that it leaves to the size of the
    image.

    Raises ValueError where mu is missing, and for a network that is not a flow.
    """
    if not config.get("use_dynamic_shifting"):
        if mu is not None and not is_flow(trained):
            raise ValueError(f"mu = {mu} shifts the steps of a flow, which this network is not: leave it")
        return trained
    if mu is None:
        raise ValueError("the config leaves the shift to the size of the image: give mu=, as the pipeline does")
    return trained_as(config, shift=shift_of(config, mu))


def grid_for(
    trained: Trained,
    spacing: Spacing,
    steps: int | None,
    *,
    timesteps: Numbers | None,
    sigmas: Numbers | None,
    spaced: bool,
    terminal: bool,
) -> Grid:
    """So many steps by `spacing`, or the nodes given by the network's numbers or by levels of noise.

    `spaced` says that the spacing was asked for, `terminal` that a last level 0 is reached by one step more.
    Raises TypeError or ValueError for no or two answers, or for nodes that make no grid.
    """
    if timesteps is not None and sigmas is not None:
        raise ValueError("timesteps= and sigmas= both say where the nodes lie: give one of them")
    given = sigmas if timesteps is None else timesteps
    nodes = None if given is None else _host(given)
    if nodes is not None and steps not in (None, nodes.size):
        raise ValueError(f"{steps} steps and {nodes.size} nodes: give one of them")
    if nodes is not None and sigmas is not None and is_flow(trained) and _by_default(nodes):
        steps, nodes = nodes.size, None
    if nodes is None:
        if steps is None:
            raise ValueError("give num_inference_steps=, or the nodes as timesteps= or sigmas=")
        return spacing(trained.schedule, steps)
    if spaced:
        raise ValueError(f"{spacing!r} and {nodes.size} nodes both say where the steps lie: leave one of them")
    if sigmas is None:
        return Grid(times_at(trained, nodes))
    return Grid(_at_levels(trained, nodes[:-1] if terminal and nodes[-1] == 0 else nodes))


def levels(trained: Trained, times: np.ndarray) -> np.ndarray:
    """The noise at some times as diffusers counts it: sigma of a flow, sigma/alpha of others."""
    return np.asarray(trained.schedule.sigma(times) if is_flow(trained) else np.exp(-trained.schedule.log_snr(times)))


def times_at(trained: Trained, numbers: Any) -> Any:
    """The times for which the network is given `numbers`, a float64 array of any shape: the inverse of `trained.time`.

    Raises ValueError for a number it is never given.
    """
    lo, hi = (np.full(np.shape(numbers), end) for end in trained.schedule.domain)
    with np.errstate(divide="ignore"):
        ends = trained.time(lo), trained.time(hi)
    slack = 1e-6 * (1 + np.abs(ends[1]))
    outside = (numbers < ends[0] - slack) | (numbers > ends[1] + slack) | np.isnan(numbers)
    if np.any(outside):
        bad = float(np.asarray(numbers)[outside].flat[0])
        raise ValueError(f"timestep {bad} is outside [{np.min(ends[0]):.6g}, {np.max(ends[1]):.6g}]")
    for _ in range(64):
        middle = (lo + hi) / 2
        below = trained.time(middle) < numbers
        lo, hi = np.where(below, middle, lo), np.where(below, hi, middle)
    return hi[()]


def _at_levels(trained: Trained, sigmas: np.ndarray) -> np.ndarray:
    if is_flow(trained):
        # u = shift t / (1 + (shift - 1) t): sigmas are given before the shift, as times
        return sigmas
    schedule = trained.schedule
    with np.errstate(divide="ignore", invalid="ignore"):
        log_snr = -np.log(sigmas)
    ends = sorted(float(schedule.log_snr(t)) for t in schedule.domain)
    near = np.clip(log_snr, ends[0], ends[1])
    return np.asarray(schedule.time_at(np.where(np.abs(near - log_snr) <= _ROUNDED, near, log_snr)))


def _by_default(sigmas: np.ndarray) -> bool:
    """Whether it is 1, 1 - 1/n .. 1/n, which pipelines give by default."""
    return bool(np.allclose(sigmas, 1 - np.arange(sigmas.size) / sigmas.size, rtol=0, atol=1e-6))


def _host(numbers: Numbers) -> np.ndarray:
    values = np.asarray(numbers.cpu() if isinstance(numbers, Tensor) else numbers, dtype=np.float64)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"two nodes at least are wanted, in one row, got shape {values.shape}")
    return values
