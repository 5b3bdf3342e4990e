"""What a linear sampler makes of a Gaussian target, exactly: its own body, run on affine forms instead of tensors.

On `N(m, diag v)` the denoiser is affine, so after any number of steps the state in each eigendirection is
`offset + slope x_T + sum_k loading_k z_k`. An `Affine` carries those coefficients, shape (directions, 2 + noises).
"""

import numpy as np

from scorediff.problems import ProbabilityFlow, ReverseSDE


class AffineGaussian:
    """The denoiser of `N(mean, diag(variances))` on affine states."""

    def __init__(self, schedule, mean, variances):
        self.schedule, self.mean, self.variances = schedule, np.asarray(mean)[:, None], np.asarray(variances)[:, None]

    def __call__(self, t, x):
        alpha_t, sigma_t = self.schedule.alpha(t), self.schedule.sigma(t)
        total = alpha_t**2 * self.variances + sigma_t**2
        one = np.zeros_like(x)
        one[:, 0] = 1.0
        data = (sigma_t**2 * self.mean * one + alpha_t * self.variances * x) / total
        noise = sigma_t * (x - alpha_t * self.mean * one) / total
        return data, noise

    def marginal(self, t):
        alpha_t, sigma_t = self.schedule.alpha(t), self.schedule.sigma(t)
        return alpha_t * self.mean[:, 0], alpha_t**2 * self.variances[:, 0] + sigma_t**2


class BasisNoise:
    """Every increment is a new coordinate; a repeated interval gives the same one."""

    def __init__(self, directions, width):
        self.known, self.shape = {}, (directions, width)

    def __call__(self, a, b, tag=0):
        return self._unit((a, b, tag))

    def area(self, a, b, tag=0):
        return self._unit((a, b, tag, "area"))

    def _unit(self, key):
        column = self.known.setdefault(key, 2 + len(self.known))
        unit = np.zeros(self.shape)
        unit[:, column] = 1.0
        return unit


def distribution(solver, target, grid, eta=0.0):
    """Mean and variance per direction of the output at the grid's end, from the exact marginal at its start."""
    directions = len(target.mean)
    width = 2 + 4 * grid.steps
    start = np.zeros((directions, width))
    start[:, 1] = 1.0
    problem = ReverseSDE(target, eta) if eta else ProbabilityFlow(target)
    *_, last = solver.run(problem, start, grid, BasisNoise(directions, width))
    x = last[1]
    mean_T, variance_T = target.marginal(grid.start)
    return x[:, 0] + x[:, 1] * mean_T, x[:, 1] ** 2 * variance_T + (x[:, 2:] ** 2).sum(1)


def one_after_the_other(first, second):
    """The coefficients of the result, of shape (columns,), where the second run goes on from what the first makes."""
    start, calls, more = second.start[-1], first.times.size, second.times.size
    array = np.concatenate(
        [start * first.array[-1, : 1 + calls], second.outputs[-1], start * first.noises[-1], second.noises[-1]]
    )
    assert array.size == 1 + calls + more + len(first.intervals) + len(second.intervals)
    return array


def wasserstein(one, other):
    (mean_a, var_a), (mean_b, var_b) = one, other
    return float(np.sqrt(np.sum((mean_a - mean_b) ** 2) + np.sum((np.sqrt(var_a) - np.sqrt(var_b)) ** 2)))
