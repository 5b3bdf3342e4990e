"""What a solver is, and what it yields."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum, IntEnum
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from scorediff._core import registry
from scorediff._core.typed import TypedFields
from scorediff.noise import Noise
from scorediff.problems import ProbabilityFlow, Problem
from scorediff.schedules import Schedule
from scorediff.solvers.tolerances import check_budget, check_tolerance
from scorediff.spacings import Grid, Spacing, UniformLogSNR

__all__ = ["AdaptiveSolver", "Exact", "Solver", "Status", "Step", "check_log_snr"]


class Status(IntEnum):
    """How a sample fares. `NON_FINITE`: the network's output was not finite, though the state it was given was;
    `STATE_NON_FINITE`: the state is not finite, though every output before was: the solver made it so.

    >>> Status(1).name
    'BUDGET_EXHAUSTED'
    """

    RUNNING = -1
    SUCCESS = 0
    BUDGET_EXHAUSTED = 1
    STEP_UNDERFLOW = 2
    NON_FINITE = 3
    STOPPED_EARLY = 4
    STATE_NON_FINITE = 5


class Exact(Enum):
    """What a solver may be exact on, to rounding, on any grid, started from the exact marginal."""

    POINT_MASS = "a point mass"
    MEAN = "the mean of a Gaussian"
    UNIT_VARIANCE = "a Gaussian of unit variance, on a variance-preserving schedule"
    OWN_GAUSSIAN = "a Gaussian around 0 of the variance that its linear part takes out"


class Step(NamedTuple):
    """What `Solver.run` yields after a step: the time reached and the state there.

    On a fixed grid `t` is a float, and `order` a number, where the order of steps varies. An adaptive solver gives
    float64 or integer host arrays of shape (B,): the time `t` of each sample, the `order` of its last step, an estimate
    of its `error` so far, as it will be at the end, its `status`, and how many steps were `accepted` and `rejected`;
    `x` is always the whole batch. A bare `(t, x)` will do.
    """

    t: Any
    x: Any
    order: Any = None
    error: Any = None
    status: Any = None
    accepted: Any = None
    rejected: Any = None


@dataclass(frozen=True)
class Solver(TypedFields, ABC):
    """A method that carries a state along a problem; subclass it, state its order, and write `run`.

    >>> class ExplicitMidpoint(Solver):
    ...     order = 2
    ...     def run(self, problem, x, grid, noise):
    ...         for t, s in grid.pairs():
    ...             middle = x + (s - t) / 2 * problem.drift(t, x)
    ...             x = x + (s - t) * problem.drift((t + s) / 2, middle)
    ...             yield s, x

    A body uses `problem.denoiser(t, x) -> (data, noise)`, `.drift(t, x)`, `.diffusion(t)`, `.schedule`, `.eta`, the
    steps of `grid` and the increments of `noise`; on states only `+`, `-` and `* number`, unless it declares `linear =
    False`.
    """

    #: The problems it solves.
    solves: ClassVar[tuple[type, ...]] = (ProbabilityFlow,)
    #: Where it comes from.
    source: ClassVar[str] = ""
    #: Its names, each with the options it stands for; the class name in kebab case by default.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    # What a solver claims. A subclass says otherwise by an attribute of the class, or by a property where its fields
    # decide.

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its own steps."""
        return False

    @property
    def linear(self) -> bool:
        """Whether the state it returns is linear in the states and model outputs it saw."""
        return True

    @property
    def one_step(self) -> bool:
        """Whether a step forgets the ones before it."""
        return True

    @property
    def invariant(self) -> bool:
        """Whether x / alpha is the same on every schedule, on the same log-SNR nodes."""
        return False

    @property
    def starts_at_pure_noise(self) -> bool:
        """Whether it runs from alpha = 0, where the log-SNR is -infinity."""
        return False

    @property
    def depends_on_batch(self) -> bool:
        """Whether a sample depends on those that are run beside it."""
        return False

    @property
    def needs_path(self) -> bool:
        """Whether it asks for the noise of intervals that overlap, so that it wants a Brownian path."""
        return False

    @property
    def estimates(self) -> str:
        """How it estimates the error of its samples; empty where it does not."""
        return ""

    @property
    def order(self) -> int | None:
        """The order of its error at t_end on the probability flow; None where it declares none."""
        return None

    @property
    def weak_order(self) -> int | None:
        """The order of the distribution of its output on the reverse SDE; None where it does not solve it."""
        return None

    @property
    def strong_order(self) -> float | None:
        """The order of its samples along one Brownian path, on the reverse SDE; None where it declares none."""
        return None

    @property
    def exact_on(self) -> frozenset[Exact]:
        """What it is exact on, whatever the grid and eta."""
        return frozenset()

    @property
    def own_variance(self) -> float | None:
        """The variance of the Gaussian around 0 on which it is exact (`Exact.OWN_GAUSSIAN`), where there is one."""
        return None

    @property
    def nfe(self) -> int | None:
        """Evaluations of the denoiser per step; None where it varies or is not declared."""
        return None

    def evaluations(self, steps: int, eta: float = 0.0) -> int | None:
        """Evaluations of a run of so many steps on a problem with this eta, a start by another method included."""
        return None if self.nfe is None else self.nfe * steps

    @property
    def spacing(self) -> Spacing:
        """The grid it takes when only a number of steps is given."""
        return UniformLogSNR()

    @property
    def name(self) -> str:
        """The name of the variant it is, whatever its other options; else that of its class."""
        return registry.name_of(self)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        """Raise ValueError where this solver cannot run this problem on this grid with a state of this dtype."""
        check_log_snr(self, problem.schedule, grid)

    @abstractmethod
    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        """Yield a `Step`, or a bare `(t, x)`, after each step."""

    def stepper(self, problem: Any, segments: Sequence[tuple[float, float]], noise: Noise) -> Callable[[int, Any], Any]:
        """A function `(n, x)` that carries a state along segment n, `(from, to)`: the steps of a one-step method."""

        def step(n: int, x: Any) -> Any:
            *_, last = self.run(problem, x, Grid(segments[n]), noise)
            return last[1]

        return step

    def to_dict(self) -> dict[str, Any]:
        """Every setting as plain data."""
        return dict(registry.to_dict(self))

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Solver":
        """The inverse of `to_dict`."""
        return registry.from_dict(Solver, dict(data))  # type: ignore[type-abstract]


@dataclass(frozen=True)
class AdaptiveSolver(Solver):
    """A solver that chooses its own steps, so that the error of every sample is held to a tolerance.

    `rtol` and `atol`: the tolerance, relative and absolute, of what the class says: 1e-3 is a distance that no eye sees
    in a picture. `max_evaluations`: the budget of each sample, so high by default that only a run gone astray meets it.
    """

    rtol: float = field(default=1e-3, kw_only=True)
    atol: float = field(default=0.0, kw_only=True)
    max_evaluations: int = field(default=10_000, kw_only=True)
    adaptive = True
    linear = False

    @property
    def least_evaluations(self) -> int:
        """What a first step takes."""
        return 1

    @property
    def has_default_tolerance(self) -> bool:
        """Whether its tolerances are those that it has where nobody says otherwise."""
        own = {f.name: f.default for f in fields(self)}
        return (self.rtol, self.atol) == (own["rtol"], own["atol"])

    def at(self, tolerance: float) -> Self:
        """The same solver at another tolerance, relative and absolute."""
        return replace(self, rtol=tolerance, atol=tolerance)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        self.check_ends(problem, grid)
        check_tolerance(self.rtol, self.atol, dtype)
        check_budget(self.max_evaluations, self.least_evaluations)

    def check_ends(self, problem: Problem, grid: Grid) -> None:
        """Raise ValueError where the method is infinite at an end of the run."""
        check_log_snr(self, problem.schedule, grid)


def check_log_snr(solver: Solver, schedule: Schedule, grid: Grid) -> None:
    """Raise ValueError where the log-SNR is infinite at an end of the grid, and the solver cannot bear it."""
    for t, bearable in ((grid.start, solver.starts_at_pure_noise), (grid.end, False)):
        log_snr = schedule.log_snr(t)
        if not np.isfinite(log_snr) and not (bearable and log_snr < 0):
            way_out = (
                "end a little earlier and use terminal=Denoise()"
                if log_snr > 0
                else f"start at t_start = {schedule.t_start:.6g}"
            )
            raise ValueError(
                f"{solver!r} works in the log-SNR, which is infinite at t = {t:.6g} of {schedule!r}: {way_out}"
            )
