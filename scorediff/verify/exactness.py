"""What a solver is exact on: measured, on a coarse grid."""

import numpy as np

from scorediff.schedules import Schedule, VPLinear
from scorediff.solvers import Exact, Solver
from scorediff.solvers.probe import eta_for
from scorediff.solvers.solve import resolve
from scorediff.spacings import Grid
from scorediff.targets import Gaussian
from scorediff.verify.moments import Moments, moments

__all__ = ["exactness"]

_ROUNDING = 1e-11
_MEANS = (0.7, -1.5, 0.1)
_VARIANCES = (0.03, 0.8, 4.0)


def exactness(
    solver: Solver | str,
    *,
    eta: float | None = None,
    schedule: Schedule | None = None,
    log_snr: np.ndarray | None = None,
) -> frozenset[Exact]:
    """Which of `Exact` hold for a fixed-grid solver on the nodes `log_snr`, by default six uneven ones from -2 to 2.

    Raises ValueError where the solver is adaptive, or not linear.

    >>> sorted(claim.name for claim in exactness("dpm++2m"))
    ['MEAN', 'POINT_MASS']
    """
    solver, schedule = resolve(solver), schedule or VPLinear()
    eta = eta_for(solver, eta)
    nodes = np.array([-2.0, -1.5, -0.6, 0.4, 0.9, 2.0]) if log_snr is None else log_snr

    def found(target: Gaussian, on: Schedule) -> Moments:
        return moments(solver, target, schedule=on, grid=Grid(on.time_at(nodes)), eta=eta)

    errors = {
        Exact.POINT_MASS: found(Gaussian(_MEANS, 0.0), schedule).wasserstein,
        Exact.MEAN: found(Gaussian(_MEANS, _VARIANCES), schedule).bias,
        Exact.UNIT_VARIANCE: found(Gaussian(_MEANS, 1.0), VPLinear()).wasserstein,
    }
    if solver.own_variance is not None:
        errors[Exact.OWN_GAUSSIAN] = found(Gaussian((0.0,), solver.own_variance), schedule).wasserstein
    return frozenset(claim for claim, error in errors.items() if error < _ROUNDING)
