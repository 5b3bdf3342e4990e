"""Whether the outputs of two samplers have one distribution: exactly on a Gaussian, by samples elsewhere."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from scorediff.noise import Noise
from scorediff.schedules import Schedule, VPLinear
from scorediff.solvers import Solver, solve
from scorediff.solvers.probe import eta_for, pose
from scorediff.spacings import Spacing
from scorediff.targets import Gaussian, Target
from scorediff.verify.measured import Measurement
from scorediff.verify.moments import moments, wasserstein
from scorediff.verify.runs import GAUSSIAN, PlainFunction, as_solver, ends
from scorediff.verify.slope import ConvergencePoint, Slope, fit
from scorediff.verify.two_sample import Alternative, TwoSample, check, power, scaled, two_sample, whole

__all__ = ["Marginals", "Refinement", "Sampler", "marginals"]

_RUNGS = 5  # each of twice the steps of the one before
_FINEST = 320  # the least steps to refine to, so that a ladder from a handful of steps gets where slopes settle
_ROUNDING = 1e-12  # of the size of a sample
_SAMPLES, _ALPHA, _REPLICATES = 10_000, 1e-3, 50


@dataclass(frozen=True)
class Sampler:
    """A solver and how it is run.

    `solver`: itself, its name, or a function `(denoise, x_T, grid) -> x_0`; DDIM by default, which runs at any eta.
    `eta`: of the reverse SDE; by default 0 where the solver solves the flow, else 1. `steps`: how many, 50 unless
    said, as is usual for DDIM; an adaptive solver ignores them. `grid`: the rule that spaces them, by default the
    solver's own. Raises TypeError or ValueError for anything else.
    """

    solver: Solver | str | PlainFunction = "ddim"
    eta: float | None = None
    steps: int = 50
    grid: Spacing | str | None = None

    def __post_init__(self) -> None:
        as_solver(self.solver)
        if self.eta is not None and not (isinstance(self.eta, (int, float)) and 0 <= self.eta < math.inf):
            raise ValueError(f"eta = {self.eta!r}: give a number from 0 on, or None for the solver's default")
        whole("steps", self.steps, 1)
        if not (self.grid is None or isinstance(self.grid, (Spacing, str))):
            raise TypeError(f"grid = {self.grid!r}: give a Spacing or its name; its ends are t_start= and t_end=")

    @property
    def resolved(self) -> Solver:
        """The solver itself."""
        return as_solver(self.solver)

    @property
    def effective_eta(self) -> float:
        """The eta that it runs at."""
        return eta_for(self.resolved, self.eta)

    @property
    def declared(self) -> int:
        """The order of its distribution; 1, the least of what converges, where none is declared."""
        solver = self.resolved
        return (solver.weak_order if self.effective_eta else solver.order or solver.weak_order) or 1

    def __str__(self) -> str:
        solver = self.resolved
        words = [f"eta = {self.effective_eta:g}"] * (self.effective_eta > 0) + [f"{self.steps} steps"] * (
            not solver.adaptive
        )
        return solver.name + (f" ({', '.join(words)})" if words else "")


@dataclass(frozen=True)
class Refinement:
    """How far the exact distributions of two outputs are apart, in Wasserstein-2, down a ladder of refinements.

    `points`: the distances; their `steps` are those of the first sampler. `slope`: the order at which they fall, None
    where a tolerance was given. `expected`: the lower of the two declared orders. `ratio`: how many times as many steps
    the second sampler has. `rounding`: distances up to it are none. `tolerance`: the largest distance that is taken for
    one distribution, None where the slope decides.
    """

    points: tuple[ConvergencePoint, ...]
    slope: Slope | None
    expected: int
    ratio: float
    rounding: float
    tolerance: float | None = None

    @property
    def wasserstein(self) -> float:
        """The distance at the given steps."""
        return self.points[0].error

    @property
    def same(self) -> bool:
        """Whether it is one distribution in the limit of small steps; or to the tolerance, where there is one."""
        if self.tolerance is not None:
            return self.wasserstein <= self.tolerance
        return not self._fault or self._at_rounding

    @property
    def verdict(self) -> str:
        """In words."""
        last = self.points[-1]
        measured = f"{last.error:.1e} at {self._steps(last)}"
        if self.tolerance is not None:
            kind, bound = ("one distribution", "within") if self.same else ("different distributions", "above")
            return f"{kind}: W2 is {measured}, {bound} the tolerance {self.tolerance:g}"
        slope = self.slope
        if slope is not None and slope.order is not None and not self._fault:
            return f"one distribution: W2 falls at order {slope.order:.2f}, {measured}"
        if self._at_rounding:
            return f"one distribution: W2 is {measured}, which is rounding"
        if slope is None or slope.floor is not None:
            return f"different distributions: W2 stays at {last.error:.2g}"
        if slope.order is None or slope.order <= 0:
            return f"different distributions: W2 does not fall, {measured}"
        order = f"order {slope.order:.2f}, not {self.expected}"
        return f"not shown to be one distribution: W2 falls at {order}, {measured}"

    def __str__(self) -> str:
        return self.verdict

    @property
    def _at_rounding(self) -> bool:
        return self.points[-1].error <= 10 * self.rounding

    @property
    def _fault(self) -> str:
        # by the rule that declared orders are held to, but for having more
        return Measurement("", self.slope).fault(self.expected)

    def _steps(self, point: ConvergencePoint) -> str:
        return (
            f"{point.steps:g} steps" if self.ratio == 1 else f"{point.steps:g} and {self.ratio * point.steps:g} steps"
        )


@dataclass(frozen=True)
class Marginals:
    """What `marginals` found of two samplers.

    `a` and `b`: the samplers in words. `found`: a `Refinement` on a Gaussian, a `TwoSample` elsewhere.
    """

    a: str
    b: str
    found: Refinement | TwoSample

    @property
    def same(self) -> bool:
        """Whether the outputs have one distribution, as far as was measured."""
        return self.found.same

    @property
    def verdict(self) -> str:
        """In words, with what was measured."""
        return self.found.verdict

    def __str__(self) -> str:
        return f"{self.a} and {self.b}: {self.verdict}"


def marginals(
    a: Sampler | Solver | str | PlainFunction,
    b: Sampler | Solver | str | PlainFunction | None,
    target: Target | None = None,
    *,
    schedule: Schedule | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    tolerance: float | None = None,
    n: int | None = None,
    alpha: float | None = None,
    alternative: Alternative | None = None,
    seed: int = 0,
) -> Marginals:
    """Whether the outputs of samplers `a` and `b` have one distribution; `b = None` is the exact marginal at t_end.

    Both start from the exact marginal at t_start; by default the log-SNR goes from -2 to 2, on VP-linear.

    On a `Gaussian` (the default) without Monte Carlo: the steps of both are doubled again and again, and the
    distributions are one if their Wasserstein-2 distance falls at the lower of the two declared orders, within 0.15, or
    is rounding. With a `tolerance` only the distance at the given steps is asked for, to be at most that.

    On any other target by `n` samples of each (10000) at the given steps: see `two_sample`, at a false-alarm rate of
    `alpha` (1e-3). The result states how often a difference such as `alternative` (`scaled(1.05)`) would be found.
    Adaptive and non-linear samplers can be tested here: a mixture of one component is a Gaussian.

    Raises TypeError or ValueError for what cannot be run, and on a Gaussian for a sampler that is adaptive or not
    linear.

    >>> print(marginals(Sampler("ddim", eta=0.3, steps=20), Sampler("dpm++2m", steps=20)))  # doctest: +ELLIPSIS
    ddim (eta = 0.3, 20 steps) and dpm++2m (20 steps): one distribution: W2 falls at order 1.00, ... at 320 steps
    """
    samplers = [s if isinstance(s, Sampler) else Sampler(s) for s in ((a,) if b is None else (a, b))]
    schedule, target = schedule or VPLinear(), GAUSSIAN if target is None else target
    if not isinstance(target, Target):
        raise TypeError(f"target = {target!r}: give a Gaussian, a GaussianMixture or an Empirical")
    first, last = ends(schedule)
    span = {"t_start": first if t_start is None else t_start, "t_end": last if t_end is None else t_end}
    pair = _Pair(samplers, schedule, span)
    found: Refinement | TwoSample
    if isinstance(target, Gaussian):
        _refuse("distributions on a Gaussian are known without samples", n=n, alpha=alpha, alternative=alternative)
        found = pair.refined(target, tolerance)
    else:
        _refuse("only on a Gaussian is the distance of two distributions known", tolerance=tolerance)
        alpha, n = _ALPHA if alpha is None else alpha, _SAMPLES if n is None else n
        found = pair.sampled(target, n, alpha, scaled(1.05) if alternative is None else alternative, seed)
    return Marginals(str(samplers[0]), "the exact marginal" if b is None else str(samplers[1]), found)


def _refuse(reason: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise TypeError(f"{name} = {value!r}: {reason}, drop {name}=")


@dataclass(frozen=True)
class _Pair:
    """Two samplers, or one and the exact marginal; `span` holds t_start and t_end."""

    samplers: list[Sampler]
    schedule: Schedule
    span: dict[str, Any]

    def refined(self, target: Gaussian, tolerance: float | None) -> Refinement:
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance = {tolerance}: give a distance from 0 on, or None for the ladder")
        for solver in (sampler.resolved for sampler in self.samplers):
            if solver.adaptive:
                way_out = "give the Gaussian as a GaussianMixture of one component, to test samples"
                raise ValueError(
                    f"{solver!r} chooses its steps from values, so its distribution cannot be computed: {way_out}"
                )
        exact = target.at(self.schedule, self.span["t_end"])
        square = exact.mean.square().sum() + exact.spectrum.values.mean() * exact.mean.numel()
        rounding = _ROUNDING * math.sqrt(float(square))
        rungs = self._rungs() if tolerance is None else 1
        points = tuple(self._distance(target, 2**rung) for rung in range(rungs))
        slope = fit(points, rounding) if tolerance is None else None
        expected = min(sampler.declared for sampler in self.samplers)
        ratio = self.samplers[-1].steps / self.samplers[0].steps
        return Refinement(points, slope, expected, ratio, rounding, tolerance)

    def _rungs(self) -> int:
        fewest = min(sampler.steps for sampler in self.samplers)
        return max(_RUNGS, 1 + math.ceil(math.log2(_FINEST / fewest)))

    def _distance(self, target: Gaussian, factor: int) -> ConvergencePoint:
        rules: dict[str, Any] = {"schedule": self.schedule, **self.span}
        one, *rest = (
            moments(s.resolved, target, steps=factor * s.steps, grid=s.grid, eta=s.effective_eta, **rules)
            for s in self.samplers
        )
        distance = (
            wasserstein((one.means, one.variances), (rest[0].means, rest[0].variances)) if rest else one.wasserstein
        )
        return ConvergencePoint(
            factor * self.samplers[0].steps, one.calls + sum(other.calls for other in rest), distance
        )

    def sampled(self, target: Target, n: int, alpha: float, alternative: Alternative, seed: int) -> TwoSample:
        if not isinstance(alternative, Alternative):
            raise TypeError(f"alternative = {alternative!r}: give an Alternative, such as scaled(1.05)")
        check(n, alpha, seed)
        exact = target.at(self.schedule, self.span["t_end"])
        sets = [self._samples(sampler, target, n, seed + k) for k, sampler in enumerate(self.samplers)]
        x, y = (*sets, exact.sample(n, seed + 1))[:2]
        tested = two_sample(x, y, alpha=alpha, seed=seed)
        found = power(exact.sample, alternative, n, alpha=alpha, seed=seed, replicates=_REPLICATES)
        return dataclasses.replace(tested, alternative=alternative.name, power=found, replicates=_REPLICATES)

    def _samples(self, sampler: Sampler, target: Target, n: int, seed: int) -> Tensor:
        """Outputs of shape (n, ...), whose starts and noises are those of `seed`."""
        solver, start = sampler.resolved, target.at(self.schedule, self.span["t_start"])
        problem = pose(target.denoiser(self.schedule), sampler.effective_eta)
        options = {"steps": None if solver.adaptive else sampler.steps, "spacing": sampler.grid, **self.span}
        solution = solve(problem, start.sample(n, seed), solver, seed=seed, noise=_Joint, progress=False, **options)
        return solution.check().x


class _Joint(Noise):
    """Normals drawn for all rows at once: a row depends on its batch, its distribution does not."""

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._normals(a, b, tag, 0)

    def area(self, a: float, b: float, tag: int = 0) -> Tensor:
        return self._normals(a, b, tag, 1)

    def _normals(self, a: float, b: float, tag: int, kind: int) -> Tensor:
        words = (self.seed, *(np.array([a, b]) + 0.0).view(np.uint64).tolist(), tag, kind)
        return self._as_state(np.random.default_rng(words).standard_normal((len(self.ids), self._size)))
