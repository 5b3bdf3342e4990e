"""The picture of a study: error against evaluations, doubly logarithmic, every curve named at its end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorediff.lab.pictures import PALETTE, headed, new_figure, plain, save_figure
from scorediff.study.rows import DistributionRow, TrajectoryRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_distributions", "draw_trajectories", "plot"]

_MARKERS = {1: "o", 2: "s", 3: "^", 4: "D", 5: "p"}


@dataclass
class _Curve:
    """The runs of one solver, or of several that agree in every run."""

    names: list[str]
    order: int | None
    adaptive: bool
    evaluations: np.ndarray
    error: np.ndarray

    def agrees(self, other: "_Curve") -> bool:
        return (
            self.evaluations.shape == other.evaluations.shape
            and np.allclose(self.evaluations, other.evaluations)
            and np.allclose(self.error, other.error, rtol=1e-6, atol=0)
        )


def plot(
    path: str | Path,
    trajectories: Sequence[TrajectoryRow],
    distributions: Sequence[DistributionRow],
    *,
    samples: int,
    floor: float | None = None,
    title: str = "",
) -> None:
    """Write the picture, a panel for trajectories and one for distributions, as far as there are any.

    `samples`: how many each run has. `floor`: the distance between two exact sets of so many. Raises ValueError where
    no run has a finite error.
    """
    panels: list[Callable[[Any], None]] = []
    if trajectories:
        panels.append(lambda axes: draw_trajectories(axes, trajectories, samples=samples, title=title))
    if distributions:
        panels.append(lambda axes: draw_distributions(axes, distributions, samples=samples, floor=floor, title=title))
    if not panels:
        raise ValueError("the study has no runs to draw: every budget is below one step")
    figure = new_figure(6.3 * len(panels), 4.6)
    for axes, draw in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        draw(axes)
    save_figure(path, figure)


def draw_trajectories(axes: "Axes", rows: Sequence[TrajectoryRow], *, samples: int, title: str = "") -> None:
    """Draw the median distance to the true trajectory of every solver, with guides for the orders 1, 2 and 4."""
    curves = _curves([(row.solver, row.order, row.adaptive, row.evaluations, row.median) for row in rows])
    _log_axes(axes, curves)
    plain(axes, "evaluations of the denoiser per sample", "distance to the true trajectory (median)")
    _draw(axes, curves)
    _guides(axes)
    notes = ["dashed: adaptive"] * any(curve.adaptive for curve in curves)
    astray = max((row.other or 0 for row in rows if 2 * (row.other or 0) < samples), default=0)
    if astray:
        notes.append(f"up to {astray} of {samples} samples flip to another image than the truth; the median hides them")
    headed(axes, title, "; ".join(notes))


def draw_distributions(
    axes: "Axes", rows: Sequence[DistributionRow], *, samples: int, floor: float | None = None, title: str = ""
) -> None:
    """Draw the distance in distribution of every solver, above the `floor` that as many exact samples have."""
    curves = _curves([(row.solver, row.weak_order, False, row.evaluations, row.distance) for row in rows])
    floor = floor or 0.0
    _log_axes(axes, curves, least=floor / 1.5 or None, most=3 * floor)
    plain(axes, "evaluations of the denoiser per sample", "distance in distribution (sliced Wasserstein-2)")
    _draw(axes, curves)
    if floor:
        axes.axhspan(axes.get_ylim()[0], floor, color="0.93", linewidth=0, zorder=0)
    headed(axes, title, f"grey: two exact sets of {samples} samples are {floor:.2g} apart" if floor else "")


def _curves(runs: Sequence[tuple[str, int | None, bool, float, float]]) -> list[_Curve]:
    """A curve for every solver, of its runs: its name, order, whether it is adaptive, evaluations, error."""
    points: dict[str, list[tuple[float, float]]] = {}
    about: dict[str, tuple[int | None, bool]] = {}
    for name, order, adaptive, evaluations, error in runs:
        if np.isfinite(error) and error > 0:
            points.setdefault(name, []).append((evaluations, error))
            about[name] = order, adaptive
    curves: list[_Curve] = []
    for name in points:
        curve = _Curve([name], *about[name], *np.array(sorted(points[name])).T)
        twin = next((other for other in curves if other.agrees(curve)), None)
        if twin is None:
            curves.append(curve)
        else:
            twin.names.append(name)
    if not curves:
        raise ValueError("the study has nothing to draw: no run has a finite error above 0")
    return curves


def _log_axes(axes: "Axes", curves: Sequence[_Curve], *, least: float | None = None, most: float = 0.0) -> None:
    evaluations = np.concatenate([c.evaluations for c in curves])
    error = np.concatenate([c.error for c in curves])
    left, right = evaluations.min() / 1.15, evaluations.max() * 1.15
    bottom, top = min(error.min(), least or np.inf), max(error.max(), most)
    margin = max((top / bottom) ** 0.05, 1.05)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom / margin, top * margin)
    ticks_x = [tick for tick in (1, 2, *(5 * 2**p for p in range(14))) if left <= tick <= right]
    axes.set_xticks(ticks_x, [str(tick) for tick in ticks_x])
    axes.set_xticks([], minor=True)
    if top / bottom < 100:
        ticks = [
            k * 10.0**p for p in range(-12, 6) for k in (1, 2, 5) if bottom / margin <= k * 10.0**p <= top * margin
        ]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.yaxis.set_minor_formatter("")


def _draw(axes: "Axes", curves: Sequence[_Curve]) -> None:
    ends = []
    for i, curve in enumerate(curves):
        color = PALETTE[i % len(PALETTE)]
        dash = "--" if curve.adaptive else "-" if i < len(PALETTE) else "-."
        marker = _MARKERS.get(curve.order or 0, "*")
        axes.plot(curve.evaluations, curve.error, dash, color=color, marker=marker, markersize=3.5, linewidth=1.3)
        ends.append((" = ".join(curve.names), color, curve.evaluations[-1], curve.error[-1]))
    _name_ends(axes, ends)


def _name_ends(axes: "Axes", ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Names in the right margin, level with the ends of their curves or as near as they fit without overlap."""
    low, high = np.log(axes.get_ylim())
    wanted = np.array([(np.log(y) - low) / (high - low) for *_, y in ends])
    for i, level in zip(np.argsort(wanted), _separated(np.sort(wanted), 0.052), strict=True):
        name, color, x, y = ends[i]
        axes.annotate(
            name,
            (x, y),
            (1.06, level),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=color,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": color, "linewidth": 0.5, "alpha": 0.5},
        )


def _separated(levels: np.ndarray, gap: float) -> np.ndarray:
    """Rising levels moved as little as makes neighbours at least `gap` apart (least squares, by pooling)."""
    pools: list[list[float]] = []
    for level in levels - gap * np.arange(len(levels)):
        pools.append([level])
        while len(pools) > 1 and np.mean(pools[-2]) >= np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    merged = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])
    return merged + gap * np.arange(len(levels))


def _guides(axes: "Axes") -> None:
    """Faint lines that fall like orders 1, 2 and 4 over one doubling, in the corner that no curve reaches."""
    (left, right), (bottom, top) = np.log(axes.get_xlim()), np.log(axes.get_ylim())
    width, height = np.log(2) / (right - left), 1 / (top - bottom)
    x, y = 0.04, 0.04 + 4 * np.log(2) * height
    if width > 0.5 or y > 0.5:  # then no corner is free of curves
        return
    for order in (1, 2, 4):
        end = y - order * np.log(2) * height
        axes.plot([x, x + width], [y, end], color="0.75", linewidth=0.9, transform=axes.transAxes, zorder=0)
        axes.text(x + width + 0.01, end, str(order), transform=axes.transAxes, fontsize=7.5, color="0.5", va="center")
    axes.text(x, y + 0.02, "order", transform=axes.transAxes, fontsize=7.5, color="0.5", va="bottom")
