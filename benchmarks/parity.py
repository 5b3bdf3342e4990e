"""Our samplers and their peers', k-diffusion's and diffusers': the same numbers, or by what they differ.

Both run on one grid, from one start, with one noise, on the exact denoiser of one Gaussian mixture. Printed is the
largest difference of their outputs, relative to the largest entry, in float64 and in float32. Up to 1e-10 and 1e-5 they
are "same". Where they differ, the table says by what, and which of the two has the order that ours declares: both are
measured by `scorediff.verify.order`, on a mixture for the flow and in distribution on a Gaussian for the reverse SDE,
there with the largest relative error of a variance after 16 steps, theirs and ours. Their multistep methods start with
steps of lower order, after which the whole is of order 2: what orders the later steps have shows on grids with short
first steps. Ours are asked to do the same, `start=lower-order`, wherever they would start otherwise: from order 3 on,
without noise.

A peer is run by its own code, as a solver of ours (`Peer`); what had to be done so that its own method shows:

* k-diffusion: sigmas without the zero that it appends, and our noise by its `noise_sampler=`.
* diffusers: its tables `sigmas` or `alphas_cumprod`, of integer times and in float32, are replaced by the nodes of the
  grid in float64; the steps to sigma = 0 are left out; its `randn_tensor` returns our noise; and for float64 its casts
  of the state to float32 are taken out. The rows "as shipped" have none of this.
* dpm_fast makes its grid in torch's default dtype, which is set to that of the state.

    python benchmarks/parity.py --markdown docs/parity.md  # a minute
    python benchmarks/parity.py --only 2m                  # rows whose names contain "2m"

`--markdown` writes the table between the marks of that file.
"""

import argparse
import importlib
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from overhead import import_k_diffusion
from torch import Tensor
from work_precision import markdown

import scorediff as sd
from scorediff import verify
from scorediff._core.tables import aligned

DOUBLE, SINGLE = 1e-10, 1e-5
MARKS = "<!-- parity -->", "<!-- /parity -->"
MIXTURE = sd.targets.GaussianMixture(
    weights=(0.2, 0.5, 0.3), means=((2.0, 0.0, 0.5), (-1.0, 1.5, 0.0), (0.0, -2.0, -0.5)), covariances=(0.05, 0.2, 0.4)
)
UNEVEN = 1 + 0.5 * np.sin(1.7 * np.arange(12))  # steps in the log-SNR, neighbours up to 1 : 2.4
EVEN = np.ones(12)
EASED_LADDER = (20, 28, 40, 57, 80, 113, 160)  # with more steps the first ones are so short that rounding shows


# --- one run, as a peer sees it

_NEAR = 1e-6  # in the log-SNR: float32 moves a node by less

#: How much of the noise over a step is that over its first half, of `(s_0, s_middle, s_1)`.
NoiseFraction = Callable[[float, float, float], float]


def of_one_process(s_0: float, s_m: float, s_1: float) -> float:
    """Both noises belong to one solution of the SDE at eta = 1."""
    # the noise at the middle, s_m sqrt(1 - s_m^2/s_0^2), falls by s_1^2/s_m^2: in units of that at the end
    return float(s_1 / s_m * np.sqrt((1 - (s_m / s_0) ** 2) / (1 - (s_1 / s_0) ** 2)))


def of_one_path_over_sigma(s_0: float, s_m: float, s_1: float) -> float:
    """Both noises are increments of one Brownian path over s."""
    return float(np.sqrt((s_0 - s_m) / (s_0 - s_1)))


@dataclass(frozen=True)
class Course:
    """A run in the variance-exploding coordinates that both libraries step in: `y = x/alpha`, `s = sigma/alpha`."""

    problem: sd.ProbabilityFlow | sd.ReverseSDE
    grid: sd.Grid
    noise: Any
    parts: int = 1

    @property
    def schedule(self) -> sd.schedules.Schedule:
        return self.problem.schedule

    @cached_property
    def own(self) -> np.ndarray:
        """The log-SNR at the nodes of the grid."""
        return np.asarray(self.schedule.log_snr(self.grid.times))

    @cached_property
    def log_snr(self) -> np.ndarray:
        """The nodes, with every step of the grid split into `parts` that are equal in the log-SNR."""
        return np.interp(np.arange(self.parts * self.grid.steps + 1) / self.parts, np.arange(len(self.own)), self.own)

    @property
    def s(self) -> np.ndarray:
        return np.exp(-self.log_snr)

    @property
    def alphas(self) -> tuple[float, float]:
        """Alpha at both ends."""
        return float(self.schedule.alpha(self.grid.start)), float(self.schedule.alpha(self.grid.end))

    def read(self, y: Tensor, s: float) -> Sequence[Tensor]:
        """`(data, noise)` at the state `y`."""
        t = self.time(s)
        return self.problem.denoiser(t, y * float(self.schedule.alpha(t)))

    def time(self, s: float) -> float:
        """The time of `s`: that of a node where float32 has moved it a little away."""
        log_snr = -float(np.log(s))
        off = np.abs(self.own - log_snr)
        if off.min() < _NEAR:
            return float(self.grid.times[off.argmin()])
        return float(np.clip(self.schedule.time_at(log_snr), self.grid.end, self.grid.start))

    def node(self, s: float) -> int:
        """The node next to `s`."""
        return int(np.abs(self.own + np.log(s)).argmin())

    def fresh(self, n: int, m: int) -> Tensor:
        """The noise from node to node."""
        return self.noise(float(self.log_snr[n]), float(self.log_snr[m]))

    def spanned(self, start: float, middle: float, end: float, fraction: NoiseFraction) -> Tensor:
        """The noise of a whole step, part of which is that of its first half."""
        c = fraction(*np.exp([-start, -middle, -end]))
        return self.noise(start, middle) * float(c) + self.noise(middle, end) * float(np.sqrt(1 - c**2))


@dataclass(frozen=True)
class Peer(sd.Solver):
    """A peer's sampler as a solver, for `solve` and for `verify`."""

    call: str
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    library: ClassVar[str]
    solves: ClassVar[tuple[type, ...]] = (sd.ProbabilityFlow, sd.ReverseSDE)
    one_step: ClassVar[bool] = False

    @property
    def name(self) -> str:
        words = [value if isinstance(value, str) else f"{key}={value}" for key, value in self.options.items()]
        return " ".join([self.call, *words, *[self.note] * bool(self.note)])

    def __repr__(self) -> str:
        return self.name

    def to_dict(self) -> dict[str, Any]:
        return {"type": type(self).__name__, "call": self.name}

    def run(self, problem: Any, x: Any, grid: sd.Grid, noise: Any) -> Iterator[Any]:
        with warnings.catch_warnings(), default_dtype(x.dtype):
            warnings.simplefilter("ignore")  # of what is deprecated there
            reached = self.sample(problem, x, grid, noise)
        yield reached

    @abstractmethod
    def sample(self, problem: Any, x: Tensor, grid: sd.Grid, noise: Any) -> tuple[float, Tensor]:
        """The time it reaches, and the state there."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- k-diffusion

Sampler = Callable[[Any, Any], Tensor]
Noises = Callable[[Course], Sampler]


def one_noise_a_step(course: Course) -> Sampler:
    return lambda s_0, s_1: course.fresh(course.node(float(s_0)), course.node(float(s_1)))


def two_noises_a_step(course: Course, fraction: NoiseFraction) -> Sampler:
    """For DPM++ SDE, which asks for the noise to the middle of a step, then for that to its end."""

    def sampler(s_0: Any, s_1: Any) -> Tensor:
        n = course.node(float(s_0))
        start, end = float(course.own[n]), float(course.own[n + 1])
        middle = (start + end) / 2
        if abs(end + np.log(float(s_1))) < _NEAR:
            return course.spanned(start, middle, end, fraction)
        return course.noise(start, middle)

    return sampler


@dataclass(frozen=True, repr=False)
class KDiffusion(Peer):
    """A function of k_diffusion.sampling; its eta is the power `eta` of ours, none at 0.

    With `before_end` it stops at the last node but one: an ancestral step leads below the node it ends at, where ours
    would not go if the run ended there.
    """

    eta: int = 0
    noises: Noises | None = None
    before_end: bool = False
    library: ClassVar[str] = "k-diffusion"

    def sample(self, problem: Any, x: Tensor, grid: sd.Grid, noise: Any) -> tuple[float, Tensor]:
        course, last = Course(problem, grid, noise), -2 if self.before_end else -1
        s, t = course.s[: len(grid) + last + 1], float(grid.times[last])
        y = self._function(course, x * (1 / course.alphas[0]), torch.tensor(s, dtype=x.dtype))
        return t, y * float(course.schedule.alpha(t))

    def _function(self, course: Course, y: Tensor, sigmas: Tensor) -> Tensor:
        options: dict[str, Any] = dict(self.options)
        if self.eta:
            options["eta"] = float(course.problem.eta) ** self.eta  # type: ignore[arg-type]
        if self.noises is not None:
            options["noise_sampler"] = self.noises(course)
        function = getattr(k_diffusion(), self.call)
        return function(lambda y, s: course.read(y, float(s[0]))[0], y, *self._grid(sigmas), disable=True, **options)

    def _grid(self, sigmas: Tensor) -> tuple[Any, ...]:
        return (sigmas,)


@dataclass(frozen=True, repr=False)
class Fast(KDiffusion):
    """DPM-Solver-fast, which makes its own grid, even in the log-SNR: steps of order 3, and one of order 2 at last."""

    def _grid(self, sigmas: Tensor) -> tuple[Any, ...]:
        return float(sigmas[-1]), float(sigmas[0]), 3 * (len(sigmas) - 2) + 2


@cache
def k_diffusion() -> Any:
    return import_k_diffusion()


# --- diffusers


@dataclass(frozen=True)
class Stage:
    """One call of a scheduler: the timestep it is given, s where the network is asked, and what draws its noise."""

    timestep: Any
    s: float
    noise: Callable[[], Tensor] | None = None


Wiring = Callable[[Any, Course], list[Stage]]


def by_sigmas(scheduler: Any, course: Course) -> list[Stage]:
    steps = course.parts * course.grid.steps
    scheduler.sigmas = torch.tensor(course.s, dtype=torch.float64)
    scheduler.timesteps = torch.arange(steps, 0, -1, dtype=torch.float64)
    return [
        Stage(t, float(s), partial(course.fresh, n, n + 1))
        for n, (t, s) in enumerate(zip(scheduler.timesteps, course.s[:-1], strict=True))
    ]


def by_orders(scheduler: Any, course: Course, fraction: NoiseFraction | None = None) -> list[Stage]:
    """A noise for the stage at the middle, then one for the whole step: independent, unless there is a `fraction`."""
    stages, nodes = by_sigmas(scheduler, course), course.log_snr.tolist()

    def whole(n: int) -> Tensor:
        if fraction is None:
            return course.noise(nodes[n - 1], nodes[n + 1], 1)
        return course.spanned(nodes[n - 1], nodes[n], nodes[n + 1], fraction)

    return [
        replace(stage, noise=partial(whole, n)) if order > 1 else stage
        for n, (stage, order) in enumerate(zip(stages, scheduler.order_list, strict=True))
    ]


def by_pairs(scheduler: Any, course: Course) -> list[Stage]:
    """Two calls a step, the second at its end, or for KDPM2 at the middle of its log-SNR."""
    s = course.s
    levels = np.concatenate([s[:1], np.repeat(s[1:-1], 2), s[-1:]])
    scheduler.sigmas = torch.tensor(levels)
    scheduler.timesteps = torch.arange(len(levels), 0, -1, dtype=torch.float64)
    if hasattr(scheduler, "sigmas_interpol"):
        middles = np.sqrt(s[1:] * s[:-1])
        levels[1::2] = middles
        scheduler.sigmas_interpol = torch.tensor(np.repeat(middles, 2))
    return [Stage(t, float(level)) for t, level in zip(scheduler.timesteps, levels, strict=True)]


def by_alphas(scheduler: Any, course: Course) -> list[Stage]:
    """Row j of the table is the node j before the end."""
    s = course.s
    scheduler.alphas_cumprod = torch.tensor(1 / (1 + s[::-1] ** 2))
    # the last, which is not stepped from, is there for DDPM, which looks for the next one
    scheduler.timesteps = torch.arange(len(s) - 1, -1, -1)
    return [Stage(len(s) - 1 - n, float(s[n]), partial(course.fresh, n, n + 1)) for n in range(len(s) - 1)]


def by_half_steps(scheduler: Any, course: Course) -> list[Stage]:
    """Rows in between are the middles of time."""
    t = course.grid.times
    times = np.interp(np.arange(2 * len(t) - 1) / 2, np.arange(len(t)), t)
    s = np.exp(-np.asarray(course.schedule.log_snr(times)))
    scheduler.alphas_cumprod = torch.tensor(1 / (1 + s[::-1] ** 2))
    return [Stage(j, float(s[len(s) - 1 - j])) for j in scheduler.timesteps.tolist()]


def by_angles(scheduler: Any, course: Course) -> list[Stage]:
    stages = by_sigmas(scheduler, course)
    scheduler.alphas = 1 / (1 + scheduler.sigmas**2).sqrt()
    scheduler.betas = scheduler.sigmas * scheduler.alphas
    return stages


ModelOutput = Callable[[Any, Any, Any, float], Any]


def as_noise(data: Any, noise: Any, y: Any, s: float) -> Any:
    return noise


def as_velocity(data: Any, noise: Any, y: Any, s: float) -> Any:
    # alpha eps - sigma D, alpha = 1 / sqrt(1 + s^2)
    return (noise - data * s) * (1 + s**2) ** -0.5


def as_edm(data: Any, noise: Any, y: Any, s: float) -> Any:
    # D = c_skip y + c_out F, for data of the scale 1/2
    c_skip, c_out = 0.25 / (s**2 + 0.25), 0.5 * s / (s**2 + 0.25) ** 0.5
    return (data - y * c_skip) * (1 / c_out)


@dataclass(frozen=True, repr=False)
class Diffusers(Peer):
    """A scheduler. `exploding`: its state is `y`, not the variance-preserving one; `parts`: its steps in one of our
    steps; `with_eta`: its `step` takes eta.
    """

    wire: Wiring = by_sigmas
    reads: ModelOutput = as_noise
    exploding: bool = False
    parts: int = 1
    with_eta: bool = False
    library: ClassVar[str] = "diffusers"

    def sample(self, problem: Any, x: Tensor, grid: sd.Grid, noise: Any) -> tuple[float, Tensor]:
        course = Course(problem, grid, noise, self.parts)
        scheduler = self._scheduler(course)
        stages = self.wire(scheduler, course)
        arguments = {"eta": float(problem.eta)} if self.with_eta else {}
        state = x * (self._scale(stages[0].s) / course.alphas[0])
        for stage in stages:
            y = state * (1 / self._scale(stage.s))
            data, predicted = course.read(y, stage.s)
            output = self.reads(data, predicted, y, stage.s)
            with _opened(scheduler, stage, x.dtype):
                state = scheduler.step(output, stage.timestep, state, **arguments).prev_sample
        return grid.end, state * (course.alphas[1] / self._scale(float(course.s[-1])))

    def _scale(self, s: float) -> float:
        return 1.0 if self.exploding else float((1 + s**2) ** -0.5)

    def _scheduler(self, course: Course) -> Any:
        steps = self.parts * course.grid.steps
        settings = _SETTINGS[self.call](steps) if self.call in _SETTINGS else {}
        made = getattr(diffusers(), self.call)(**{**settings, **self.options})
        made.set_timesteps(steps)
        made.is_scale_input_called = True
        return made


def _own_table(steps: int) -> dict[str, Any]:
    return {"clip_sample": False, "num_train_timesteps": steps + 1}


def _plain_end(steps: int) -> dict[str, Any]:
    return {"final_sigmas_type": "sigma_min", "lower_order_final": False}


# what keeps a scheduler from clipping, and from last steps of another kind
_SETTINGS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "DDIMScheduler": _own_table,
    "DDPMScheduler": _own_table,
    "PNDMScheduler": lambda steps: {"num_train_timesteps": 2 * steps + 1, "steps_offset": 2},
    "DPMSolverMultistepScheduler": _plain_end,
    "DPMSolverSinglestepScheduler": _plain_end,
    "EDMDPMSolverMultistepScheduler": _plain_end,
    "DEISMultistepScheduler": lambda steps: {"lower_order_final": False},
    "SASolverScheduler": lambda steps: {"lower_order_final": False},
    "UniPCMultistepScheduler": lambda steps: {"final_sigmas_type": "sigma_min"},
}


class _Wide:
    """Torch, for a module that casts to float32."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name == "float32" else getattr(torch, name)


@contextmanager
def _opened(scheduler: Any, stage: Stage, dtype: torch.dtype) -> Iterator[None]:
    """With our noise, and without its casts to float32 where the state is in float64."""
    module, draw = sys.modules[type(scheduler).__module__], stage.noise
    with ExitStack() as stack:
        if draw is not None and hasattr(module, "randn_tensor"):
            stack.enter_context(mock.patch.object(module, "randn_tensor", lambda *_, **__: draw()))
        if dtype is torch.float64:
            stack.enter_context(mock.patch.object(module, "torch", _Wide()))
        yield


@dataclass(frozen=True, repr=False)
class AsShipped(Diffusers):
    """With its own tables, on the grid of its own integer times."""

    def sample(self, problem: Any, x: Tensor, grid: sd.Grid, noise: Any) -> tuple[float, Tensor]:
        scheduler = getattr(diffusers(), self.call)(timestep_spacing="trailing", **self.options)
        scheduler.set_timesteps(grid.steps)
        wanted = np.rint(problem.schedule.index(grid.times[:-1]))
        if not np.array_equal(scheduler.timesteps.numpy(), wanted):
            raise ValueError(f"{self!r} steps from {scheduler.timesteps.tolist()}, not from {wanted.tolist()}")
        for t, timestep in zip(grid.times, scheduler.timesteps, strict=False):
            x = scheduler.step(problem.denoiser(float(t), x)[1], timestep, x).prev_sample
        return grid.end, x


@cache
def diffusers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("diffusers")


LIBRARIES: Mapping[str, Callable[[], Any]] = {"k-diffusion": k_diffusion, "diffusers": diffusers}


# --- the rows


@dataclass(frozen=True)
class _LastOtherwise(sd.Solver):
    """One method for all steps but the last."""

    most: sd.Solver
    last: sd.Solver

    @property
    def name(self) -> str:
        return f"{self.most.name}, {self.last.name} at last"

    def run(self, problem: Any, x: Any, grid: sd.Grid, noise: Any) -> Iterator[Any]:
        for solver, times in ((self.most, grid.times[:-1]), (self.last, grid.times[-2:])):
            for step in solver.run(problem, x, sd.Grid(times), noise):
                x = step[1]
                yield step


@dataclass(frozen=True)
class _Eased(sd.spacings.Spacing):
    """Quadratic in the log-SNR: steps so short at first that the order of a start does not count."""

    def times(self, schedule: sd.schedules.Schedule, t_start: float, t_end: float, steps: int) -> np.ndarray:
        first, last = (float(schedule.log_snr(t)) for t in (t_start, t_end))
        return np.asarray(schedule.time_at(first + (last - first) * (np.arange(steps + 1) / steps) ** 2))


@dataclass(frozen=True)
class Row:
    """A peer and ours, a name or a solver; `differs`: by what, empty where they are the same."""

    theirs: Peer
    ours: str | sd.Solver
    differs: str = ""
    eta: float = 0.0
    steps: np.ndarray = field(default_factory=lambda: UNEVEN)
    schedule: sd.schedules.Schedule = sd.EDM()
    ladder: sd.spacings.Spacing | None = None  # the grids on which orders are measured, even in the log-SNR by default

    @property
    def words(self) -> tuple[str, str, str]:
        """Peer, its settings, ours."""
        at = f" eta={self.eta:g}" if self.eta else ""
        ours = self.ours if isinstance(self.ours, str) else self.ours.name
        return self.theirs.library, self.theirs.name, ours + at

    @property
    def solver(self) -> sd.Solver:
        """Ours."""
        if isinstance(self.ours, sd.Solver):
            return self.ours
        solver: sd.Solver = sd.registry.parse(sd.Solver, self.ours)  # type: ignore[type-abstract]
        return solver


_K = KDiffusion
_PLAIN = one_noise_a_step
_TWO = "the second difference has not its factor 2"
_SIGN = (
    "the second difference has a weight near -1, which should vanish with the step: a 1/2 has the wrong sign, and the "
    "factor 2 is not there either"
)


def _k_rows() -> Iterator[Row]:
    yield Row(_K("sample_euler"), "ddim")
    yield Row(_K("sample_heun"), "edm-heun")
    yield Row(_K("sample_dpm_2"), "dpm2")
    yield Row(_K("sample_lms"), "lms-4:start=lower-order")
    yield Row(_K("sample_dpmpp_2m"), "dpm++2m")
    fast = _LastOtherwise(
        sd.solvers.DPMSolverSinglestep(part=sd.linear_parts.NoisePart(), k=3),
        sd.solvers.DPMSolverSinglestep(part=sd.linear_parts.NoisePart()),
    )
    yield Row(Fast("sample_dpm_fast"), fast, steps=EVEN)
    for eta in (0.5, 1.0):
        yield Row(_K("sample_euler_ancestral", eta=1, noises=_PLAIN), "ddim", eta=eta)
        for call, ours in (("sample_dpm_2_ancestral", "dpm2-a"), ("sample_dpmpp_2s_ancestral", "dpm++2s-a")):
            yield Row(_K(call, eta=1, noises=_PLAIN, before_end=True), ours, eta=eta)
        for kind, ours in (("midpoint", "sde-dpm++2m"), ("heun", "sa-predictor2")):
            peer = _K("sample_dpmpp_2m_sde", {"solver_type": kind}, "eta=ours^2", eta=2, noises=_PLAIN)
            yield Row(peer, ours, eta=eta)
    yield Row(_K("sample_dpm_2_ancestral", eta=1, noises=_PLAIN), "dpm2")
    yield Row(_K("sample_dpmpp_2s_ancestral", eta=1, noises=_PLAIN), "dpm++2s")
    yield Row(_K("sample_dpmpp_2m_sde", {"solver_type": "midpoint"}, eta=2, noises=_PLAIN), "dpm++2m")
    path = "the two noises of a step are correlated as a path in sigma, not as the solution of the SDE"
    for fraction, note, differs in (
        (of_one_process, "noises of one process", ""),
        (of_one_path_over_sigma, "noises as of its Brownian tree", path),
    ):
        noises = partial(two_noises_a_step, fraction=fraction)
        yield Row(_K("sample_dpmpp_sde", {}, note, eta=1, noises=noises), "sde-dpm++2s", differs, eta=1.0)
    three = _K("sample_dpmpp_3m_sde", {}, "eta=ours^2", eta=2, noises=_PLAIN)
    differs = f"{_TWO}, and the second step is exp-ab2's"
    yield Row(three, "dpm++3m:start=lower-order", differs, ladder=_Eased())
    yield Row(three, "sde-dpm++3m", differs, eta=1.0)


def _multistep(ours: str, order: int, kind: str, differs: str = "", eta: float = 0.0, **options: Any) -> Row:
    settings = {"algorithm_type": kind, "solver_order": order, **options}
    ladder = _Eased() if differs and not eta else None
    return Row(Diffusers("DPMSolverMultistepScheduler", settings), ours, differs, eta, ladder=ladder)


def _multistep_rows() -> Iterator[Row]:
    for order, ours in ((1, "dpm++1"), (2, "dpm++2m")):
        yield _multistep(ours, order, "dpmsolver++")
    yield _multistep("dpm++2m:lower_order_final=True", 2, "dpmsolver++", lower_order_final=True)
    yield _multistep("exp-ab2", 2, "dpmsolver++", solver_type="heun")
    yield _multistep("dpm++3m:start=lower-order", 3, "dpmsolver++", _TWO)
    for order, ours in ((1, "dpm-1"), (2, "dpm-2m")):
        yield _multistep(ours, order, "dpmsolver")
    yield _multistep("exp-ab2-noise", 2, "dpmsolver", solver_type="heun")
    yield _multistep("dpm-3m:start=lower-order", 3, "dpmsolver", _TWO)
    for order, ours in ((1, "sde-dpm++1"), (2, "sde-dpm++2m")):
        yield _multistep(ours, order, "sde-dpmsolver++", eta=1.0)
    yield _multistep("sa-predictor2", 2, "sde-dpmsolver++", eta=1.0, solver_type="heun")
    yield _multistep("sde-dpm++3m", 3, "sde-dpmsolver++", _SIGN, eta=1.0)
    for order, ours in ((1, "sde-dpm-1"), (2, "sde-dpm-2m")):
        yield _multistep(ours, order, "sde-dpmsolver", eta=1.0)
    for kind, order, eta, ours, differs in (
        ("dpmsolver++", 2, 0.0, "dpm++2m", ""),
        ("dpmsolver++", 3, 0.0, "dpm++3m:start=lower-order", _TWO),
        ("sde-dpmsolver++", 2, 1.0, "sde-dpm++2m", ""),
    ):
        settings = {"algorithm_type": kind, "solver_order": order}
        peer = Diffusers("EDMDPMSolverMultistepScheduler", settings, reads=as_edm, exploding=True)
        yield Row(peer, ours, differs, eta, ladder=_Eased() if differs else None)


def _singlestep_rows() -> Iterator[Row]:
    def row(
        kind: str, order: int, ours: str, differs: str = "", fraction: NoiseFraction | None = None, eta: float = 0.0
    ) -> Row:
        settings = {"algorithm_type": kind, "solver_order": order}
        wire, note = partial(by_orders, fraction=fraction), "noises of one process" if fraction else ""
        peer = Diffusers("DPMSolverSinglestepScheduler", settings, note, wire=wire, parts=order)
        return Row(peer, ours, differs, eta)

    stage = "the stage at 2/3 has the weight phi_1/2 of order 2 in place of phi_2"
    yield row("dpmsolver++", 2, "dpm++2s")
    yield row("dpmsolver++", 3, "dpm++3s", stage)
    yield row("dpmsolver", 2, "dpm-2s")
    yield row("dpmsolver", 3, "dpm-3s", stage)
    yield row("sde-dpmsolver++", 2, "sde-dpm++2s", fraction=of_one_process, eta=1.0)
    yield row("sde-dpmsolver++", 2, "sde-dpm++2s", "the two noises of a step are independent", eta=1.0)


def _diffusers_rows() -> Iterator[Row]:
    yield Row(Diffusers("DDIMScheduler", wire=by_alphas, with_eta=True), "ddim")
    for eta in (0.5, 1.0):
        yield Row(Diffusers("DDIMScheduler", wire=by_alphas, with_eta=True), "ddim", eta=eta)
    for kind, ours in (("fixed_small", "ddpm"), ("fixed_large", "ddpm-large")):
        # the larger variance is that of the forward step, which is the schedule's
        peer = Diffusers("DDPMScheduler", {"variance_type": kind}, wire=by_alphas)
        yield Row(peer, ours, eta=1.0, schedule=sd.VPLinear())
    yield from _multistep_rows()
    yield from _singlestep_rows()
    for kind in ("bh1", "bh2"):
        for order in (1, 2, 3):
            peer = Diffusers("UniPCMultistepScheduler", {"solver_type": kind, "solver_order": order})
            yield Row(peer, f"unipc-{order}:b={kind[-1]},start=lower-order,lower_order_final=True")
    for order in (1, 2, 3):
        peer = Diffusers("DEISMultistepScheduler", {"solver_order": order}, "log-rho")
        yield Row(peer, f"exp-ab2-noise:k={order},start=lower-order")
    time = "its polynomial is one in log rho, not in time as in DEIS tAB"
    yield Row(peer, "deis-tab2:start=lower-order", time, ladder=_Eased())
    yield Row(Diffusers("PNDMScheduler", wire=by_half_steps), "pndm", schedule=sd.VPLinear())
    plms = Diffusers("PNDMScheduler", {"skip_prk_steps": True}, wire=by_half_steps)
    yield Row(plms, "ipndm-4", "its first step is Heun's, at one evaluation more")
    yield Row(Diffusers("IPNDMScheduler", wire=by_angles, reads=as_velocity), "ipndm-4")
    yield Row(Diffusers("EulerDiscreteScheduler", exploding=True), "ddim")
    yield Row(Diffusers("EulerAncestralDiscreteScheduler", exploding=True), "ddim", eta=1.0)
    yield Row(Diffusers("HeunDiscreteScheduler", wire=by_pairs, exploding=True), "edm-heun")
    yield Row(Diffusers("KDPM2DiscreteScheduler", wire=by_pairs, exploding=True), "dpm2")
    yield Row(Diffusers("LMSDiscreteScheduler", exploding=True), "lms-4:start=lower-order")
    yield from _sa_solver_rows()
    yield from _shipped_rows()


def _sa_solver_rows() -> Iterator[Row]:
    extra = "with two evaluations it adds a term O(h^3)"
    for order, eta, when in ((2, 0.0, ""), (2, 1.0, ""), (3, 0.0, ", while it starts"), (3, 1.0, ", while it starts")):
        settings = {
            "predictor_order": order,
            "corrector_order": order,
            "tau_func": Tau(eta),
        }
        ours = f"sa-solver:k={order},corrector_k={order - 1},start=lower-order"
        yield Row(Diffusers("SASolverScheduler", settings), ours, extra + when, eta=eta)


@dataclass(frozen=True)
class Tau:
    """A constant tau."""

    value: float

    def __call__(self, t: Any) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"{self.value:g}"


def _shipped_rows() -> Iterator[Row]:
    tables = "its tables, and DPM-Solver's state, are in float32"
    ends: dict[str, dict[str, Any]] = {
        "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False},
        "DPMSolverMultistepScheduler": {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
    }
    for (call, options), ours in zip(ends.items(), ("ddim", "dpm++2m"), strict=True):
        yield Row(AsShipped(call, options, "as shipped"), ours, tables, steps=np.zeros(20), schedule=sd.VPDiscrete())


ROWS: tuple[Row, ...] = (*_k_rows(), *_diffusers_rows())


# --- what is measured


class _Rounded(sd.noise.IndependentNoise):
    """Noise that takes log-SNRs as one that differ in their last digits."""

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        return super().__call__(round(a, 6), round(b, 6), tag)


def grid_of(row: Row) -> sd.Grid:
    """From log-SNR -2 to 2, in steps as the row has them; one node more where the peer stops before the end."""
    if isinstance(row.theirs, AsShipped):
        return sd.Grid(np.concatenate([np.linspace(1, 0, len(row.steps), endpoint=False), [row.schedule.t_end]]))
    places = np.concatenate([[0.0], np.cumsum(row.steps)])
    log_snr = -2 + 4 * places / places[-1]
    if getattr(row.theirs, "before_end", False):
        log_snr = np.append(log_snr, 4.0)
    return sd.Grid(row.schedule.time_at(log_snr))


def difference(row: Row, dtype: torch.dtype) -> float:
    """The largest difference, relative to the largest entry."""
    theirs, ours = (_output(row, solver, dtype) for solver in (row.theirs, row.solver))
    return float((theirs - ours).abs().max() / ours.abs().max())


def _output(row: Row, solver: sd.Solver, dtype: torch.dtype) -> Tensor:
    grid = grid_of(row)
    t = float(grid.times[-2 if getattr(row.theirs, "before_end", False) else -1])
    x = sd.prior(row.schedule, (8, 3), t_start=grid.start, seed=3, dtype=dtype)
    problem = _problem(MIXTURE.denoiser(row.schedule), row.eta)
    states = sd.solve(problem, x, solver, grid=grid, noise=_Rounded, seed=5, save=[t], progress=False).states
    assert states is not None
    return states[-1]


def _problem(denoiser: Any, eta: float) -> sd.ProbabilityFlow | sd.ReverseSDE:
    return sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)


def orders(row: Row) -> str:
    """The measured orders, theirs and ours, the declared one, and in distribution how far variances are off."""
    target = verify.GAUSSIAN if row.eta else verify.MIXTURE
    solvers = (row.theirs, row.solver)
    settings: dict[str, Any] = {"target": target, "schedule": "vp-linear", "eta": row.eta, "declared": 1}
    if row.ladder is not None:
        settings.update(grid=row.ladder, steps=EASED_LADDER)
    found = [verify.order(solver, **settings).order for solver in solvers]
    declared = row.solver.weak_order if row.eta else row.solver.order
    if row.ladder is not None:
        declared = getattr(row.solver, "full_order", declared)
    theirs, ours = ("none" if order is None else f"{order:.2f}" for order in found)
    where = "on grids with short first steps " * (row.ladder is not None)
    words = f"{'weak ' * bool(row.eta)}order {where}theirs {theirs}, ours {ours}, declared {declared}"
    if not row.eta:
        return words
    off = " and ".join(f"{_variance_error(solver, row.eta):.1%}" for solver in solvers)
    return f"{words}; variance off by {off}"


def _variance_error(solver: sd.Solver, eta: float) -> float:
    schedule = sd.VPLinear()
    grid = sd.Grid(schedule.time_at(np.linspace(-2, 2, 17)))
    found = verify.moments(solver, verify.GAUSSIAN, schedule=schedule, grid=grid, eta=eta)
    return float((found.variances / found.exact_variances - 1).abs().max())


def verdict(row: Row, double: float, single: float) -> str:
    same = double <= DOUBLE and single <= SINGLE
    if row.differs and not same:
        measured = "" if isinstance(row.theirs, AsShipped) else f"; {orders(row)}"
        return f"differs: {row.differs}{measured}"
    return "same" if same and not row.differs else f"NOT AS STATED: {row.differs or 'same'}"


def line(row: Row) -> list[str]:
    try:
        LIBRARIES[row.theirs.library]()
    except ImportError as error:
        return [*row.words, "", "", f"not installed ({error})"]
    double, single = (difference(row, dtype) for dtype in (torch.float64, torch.float32))
    return [*row.words, f"{double:.0e}", f"{single:.0e}", verdict(row, double, single)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="only rows in whose names this occurs")
    parser.add_argument("--markdown", type=Path, help="a file to write the whole table into, between its marks")
    options = parser.parse_args()
    if options.markdown and options.only:
        parser.error("--markdown wants all rows, without --only")
    torch.set_num_threads(1)
    lines = [line(row) for row in ROWS if options.only in " ".join(row.words)]
    header = ["peer", "function, settings", "ours", "float64", "float32", "verdict"]
    print(aligned(header, lines, flush_left=(0, 1, 2, 5)))
    if options.markdown:
        versions = ", ".join(f"{name} {version(name)}" for name in (*LIBRARIES, "torch"))
        before, rest = options.markdown.read_text(encoding="utf-8").split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        text = f"{before}{MARKS[0]}\n\n{markdown([header, *lines])}\n\nWith {versions}.\n\n{MARKS[1]}{after}"
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
