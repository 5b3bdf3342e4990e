"""A user-defined pair of functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff.schedules.base import Schedule, Times, derivative

__all__ = ["CustomSchedule"]


def _quarter_cosine(t: Times) -> Any:
    return np.cos(np.pi / 2 * t)


def _quarter_sine(t: Times) -> Any:
    return np.sin(np.pi / 2 * t)


@dataclass(frozen=True)
class CustomSchedule(Schedule):
    """User-defined `alpha(t)` and `sigma(t)`, written with numpy functions or plain arithmetic, on any `domain` of
    times.

    The default is the quarter circle, `cos(pi t / 2)` and `sin(pi t / 2)`, but for its ends, where the log-SNR is
    infinite. Raises ValueError, besides what `Schedule` does, for functions that cannot be differentiated by a complex
    step.
    """

    alpha: Callable[[Any], Any] = _quarter_cosine  # type: ignore[assignment]
    sigma: Callable[[Any], Any] = _quarter_sine  # type: ignore[assignment]
    domain: tuple[float, float] = (1e-3, 0.995)

    def __post_init__(self) -> None:
        lo, hi = self.domain
        t = np.linspace(lo, hi, 9)[1:-1]
        h = 1e-5 * (hi - lo)
        for name in ("alpha", "sigma"):
            fn = getattr(self, name)
            try:
                slope, rough = derivative(fn, t), (fn(t + h) - fn(t - h)) / (2 * h)
            except TypeError as error:
                raise ValueError(
                    f"{name}(t) does not take a complex array ({error}): write it with numpy functions"
                ) from error
            off = np.flatnonzero(
                ~np.isclose(slope, rough, rtol=1e-4, atol=1e-4 * np.abs(rough).max() + 1e-12, equal_nan=True)
            )
            if off.size:
                raise ValueError(
                    f"{name}(t) has the derivative {slope[off[0]]:.6g} by a complex step and {rough[off[0]]:.6g} by "
                    f"differences at t = {t[off[0]]:.6g}; write it with analytic numpy functions (no abs, no where)"
                )
        super().__post_init__()
