"""The rows of a study, one for each run, and the truth that they are measured against."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["DistributionRow", "Reference", "TrajectoryRow"]


@dataclass(frozen=True)
class Reference:
    """Where the true trajectories end.

    `x`: the ends, float64 of shape (B, ...). `error`: the largest distance over samples, as a root mean square over
    entries, to a second computation by another route; None where `x` was given. `route`: the two routes in words.
    """

    x: Tensor
    error: float | None = None
    route: str = "given"


@dataclass(frozen=True)
class TrajectoryRow:
    """One run of an ODE solver. Errors are root mean squares over the entries of a sample.

    `solver`: its name. `order`: what it declares, None where it declares none. `steps` and `evaluations`: means over
    samples, as measured. `median`, `rms` and `q95`: of the errors over samples, the last their 95 % quantile; NaN where
    samples failed. `other`: how many samples ended nearer to another datum than their true trajectory did, where the
    target is a data set, else None. `failed`: how many samples have no end. `adaptive`: whether the solver chooses its
    own steps.
    """

    solver: str
    order: int | None
    steps: float
    evaluations: float
    median: float
    rms: float
    q95: float
    other: int | None = None
    failed: int = 0
    adaptive: bool = False


@dataclass(frozen=True)
class DistributionRow:
    """One run of an SDE solver, whose samples are compared with exact ones as sets.

    `solver`: its name. `weak_order`: what it declares, None where it declares none. `steps` and `evaluations`: means
    over samples, as measured. `distance`: sliced Wasserstein-2, to exact samples at t_end; NaN where samples failed.
    `failed`: how many have no end.
    """

    solver: str
    weak_order: int | None
    steps: float
    evaluations: float
    distance: float
    failed: int = 0
