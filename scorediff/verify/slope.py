"""The slope of errors against steps, on doubly logarithmic axes: by regression, where there is one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

import numpy as np

__all__ = ["ConvergencePoint", "Slope", "Use", "counted", "fit", "settled"]

_LEAST = 4  # points of a fit
_STEADY = 0.04  # how far the slope may move as coarse points come in, where errors fall smoothly
_FLAT = 0.3  # a slope below which errors have stopped falling
_BENT = 0.35  # how far an extrapolated slope may widen the interval: one that is farther away is scatter
_SCATTERED = 0.5  # the band of the finest points beyond which errors do not fall smoothly
_CLEAR = 30.0  # how many times the floor an error must be, so that the slope shows through


class Use(Enum):
    """What became of a point: in the fit, or why not."""

    FITTED = "fitted"
    COARSE = "too coarse: before the slope settles"
    FLOOR = "at the floor, where errors stop falling"
    ROUNDING = "at rounding, or at the accuracy of the truth"
    FAILED = "not finite"


@dataclass(frozen=True)
class ConvergencePoint:
    """One run.

    `steps`: how many, a mean over samples for an adaptive solver. `evaluations`: of the denoiser, per sample. `error`:
    in units of the state. `use`: what became of the point in the fit.
    """

    steps: float
    evaluations: float
    error: float
    use: Use = Use.FITTED


@dataclass(frozen=True)
class Slope:
    """What a regression found of errors against steps.

    `order`: at which errors fall, None where too few points are left. `interval`: its 95 % interval, likewise.
    `floor`: where the errors stop falling, well above rounding; None where they do not. `points`: all of them, from
    coarse to fine.
    """

    order: float | None
    interval: tuple[float, float] | None
    floor: float | None
    points: tuple[ConvergencePoint, ...]

    @property
    def fitted(self) -> tuple[ConvergencePoint, ...]:
        """The points of the fit."""
        return tuple(p for p in self.points if p.use is Use.FITTED)

    @property
    def exact(self) -> bool:
        """Whether all errors are at rounding."""
        return bool(self.points) and all(p.use is Use.ROUNDING for p in self.points)


def counted(points: Sequence[ConvergencePoint]) -> float:
    """Evaluations that one more step takes."""
    a, b = points[0], points[-1]
    return (b.evaluations - a.evaluations) / (b.steps - a.steps)


def fit(points: Sequence[ConvergencePoint], rounding: float, *, smooth: bool = True) -> Slope:
    """The slope of `points`, by steps from coarse to fine; errors up to `rounding` say nothing.

    From the fine end, points at rounding are left out, then those where errors have stopped falling. From the
    coarse end, points that move the slope away from that of the finest four. The interval is the 95 % band of the
    regression, and holds the slope of the finest four and, with five points or more, those that `a - p log N + b /
    N` and the same with `+ c / N^2` have for N -> infinity. Errors that are not `smooth` in the steps, those of an
    adaptive solver, are fitted by their finer half and its band, which the interval then holds too.
    """
    left = [replace(p, use=_bare_use(p, rounding)) for p in points]
    used = [i for i, p in enumerate(left) if p.use is Use.FITTED]
    floor = _floor([left[i] for i in used]) if not any(p.use is Use.ROUNDING for p in left) else None
    if floor is not None:
        for i in used:
            if left[i].error < _CLEAR * floor:
                left[i] = replace(left[i], use=Use.FLOOR)
    used = [i for i in used if left[i].use is Use.FITTED]
    if len(used) < _LEAST:
        return Slope(None, None, floor, tuple(left))
    finest, scatter = _regression([left[i] for i in used[-_LEAST:]])
    scatters = not smooth or scatter > _SCATTERED
    if scatters:
        finest, scatter = _regression([left[i] for i in used[-max(_LEAST, (len(used) + 1) // 2) :]])
    steady = max(_STEADY, scatter) if scatters else _STEADY
    while abs(_regression([left[i] for i in used])[0] - finest) > steady:
        left[used[0]] = replace(left[used[0]], use=Use.COARSE)
        used = used[1:]
    order, band = _regression([left[i] for i in used])
    within = [order - band, order + band, finest]
    if not smooth:
        within += [finest - scatter, finest + scatter]
    elif not scatters and len(used) > _LEAST:
        bent = (_regression([left[i] for i in used], bends=bends)[0] for bends in (1, 2))
        within += [min(max(slope, order - _BENT), order + _BENT) for slope in bent]
    return Slope(order, (min(within), max(within)), floor, tuple(left))


def settled(points: Sequence[ConvergencePoint], rounding: float) -> bool:
    """Whether the slope has come to rest, or no finer point will be of use."""
    used = [p for p in points if _bare_use(p, rounding) is Use.FITTED]
    if len(used) < len(points) or len(used) < _LEAST + 2:
        return len(used) < len(points) and bool(points) and _bare_use(points[-1], rounding) is not Use.FITTED
    return abs(_regression(used[-_LEAST:])[0] - _regression(used[-_LEAST - 2 : -2])[0]) <= _STEADY


def _bare_use(point: ConvergencePoint, rounding: float) -> Use:
    if not math.isfinite(point.error):
        return Use.FAILED
    return Use.ROUNDING if point.error <= rounding else Use.FITTED


def _floor(points: Sequence[ConvergencePoint]) -> float | None:
    """The error at which the finest points stay, if three or more do."""
    slopes = [_local(a, b) for a, b in pairwise(points)]
    flat = 0
    while flat < len(slopes) and abs(slopes[-1 - flat]) < _FLAT:
        flat += 1
    return None if flat < 2 else float(np.median([p.error for p in points[-1 - flat :]]))


def _local(a: ConvergencePoint, b: ConvergencePoint) -> float:
    return -math.log(b.error / a.error) / math.log(b.steps / a.steps)


def _regression(points: Sequence[ConvergencePoint], *, bends: int = 0) -> tuple[float, float]:
    """`p` of `log error = a - p log N`, with terms of `b / N + c / N^2`, and the half width of its 95 % band."""
    from scipy.stats import t

    steps, errors = (np.array([getattr(p, name) for p in points]) for name in ("steps", "error"))
    basis = np.stack(
        [np.ones_like(steps), -np.log(steps), *((steps[0] / steps) ** k for k in range(1, bends + 1))], axis=1
    )
    found = np.linalg.lstsq(basis, np.log(errors), rcond=None)[0]
    rest, freedom = np.log(errors) - basis @ found, len(steps) - basis.shape[1]
    if not freedom:
        return float(found[1]), math.inf
    variance = float(rest @ rest) / freedom * np.linalg.inv(basis.T @ basis)[1, 1]
    return float(found[1]), float(t.ppf(0.975, freedom)) * math.sqrt(variance)
