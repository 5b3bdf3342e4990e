"""Evaluations that adaptive solvers of the flow need for a given global error: ours, and their peers' side by side.

The error of a run is the root mean square, over samples and entries, of its distance at t_end to where the true
trajectories end, in units of the data's root mean square. Targets, schedule and ends are those of `work_precision.py`,
with fewer samples; all methods take the same starts, in float64. Every method runs at rtol = atol = 10^-1, 10^-1.5, ...
until its error is below the smallest one asked for, it fails, or a sample wants more than 3000 evaluations. What an
error costs is taken from the lower envelope of these runs, by interpolation of its logarithm; "<=" stands where the
loosest tolerance is already that good, "-" where the error is not reached.

Evaluations are means over samples, rejected steps and starts included. They count what the steps of a sample take:
where one step serves the whole batch, all calls. "rows" is what the network was given to do, per sample: diffrax under
vmap and torchode step per sample, but go on evaluating samples that have arrived, until the last one does. Rows,
milliseconds (one thread, the network's included, compilation left out) and syncs are those of the cheapest run that
reaches 1e-3. "syncs/call" are the values of tensors that the host asks for (item, bool, tolist, numpy and their like),
each a wait where the tensor is on a device, over batched calls of the network; what converting a peer's times into
those of our denoiser is left out.

Peers, each at the same tolerances and otherwise by its defaults:

* torchdiffeq, by our back end `TorchDiffEq`: one step for the batch, the worst sample held to the tolerance; and raw,
  by its own `odeint`, mean over the batch held. Raw it asks beyond the end of the run: there it sees the field at it.
* SciPy, by our back end `SciPy`, a sample at a time, in float64 on the host.
* k-diffusion's `sample_dpm_adaptive`, order 3 without noise: one step for the batch, in x/alpha against sigma/alpha.
* diffrax's Tsit5 under vmap, in time, on the same distribution written in JAX; torchode's Tsit5, in time.

    python benchmarks/adaptive.py --markdown docs/adaptive.md
    python benchmarks/adaptive.py --only rk45,torchode --targets ring,digits

`--markdown` writes the tables between the marks of that file. A peer that is not installed is printed as such.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from overhead import count
from parity import default_dtype, k_diffusion
from torch import Tensor
from work_precision import SCHEDULE, T_END, Problem, markdown, problems

import scorediff as sd
from scorediff._core.tables import aligned

ERRORS = (1e-2, 1e-3, 1e-4, 1e-6)
LOOKED_AT = 1e-3  # the run whose rows, time and syncs are shown
TOLERANCES = tuple(float(10 ** (-k / 2)) for k in range(2, 24))
COUNTS = (64, 32, 16, 16)
BUDGET = 3000
RANK = 16
MARKS = "<!-- adaptive -->", "<!-- /adaptive -->"


@dataclass(frozen=True)
class Outcome:
    """Ends of shape (B, ...), evaluations and rows per sample, batched calls, and syncs that are not their fault."""

    x: Tensor
    evaluations: float
    rows: float
    calls: int
    converted: int = 0


@dataclass(frozen=True)
class Method:
    """`run(problem, tolerance)` raises where it fails, ImportError where it is not installed."""

    label: str
    run: Callable[[Problem, float], Outcome]
    has_reads: bool = True


class OutOfBudget(Exception):
    """The next evaluation would be one more than allowed."""


class Watched:
    """The flow of a problem as a peer calls it, with times and flat states in tensors: counted, inside the run."""

    def __init__(self, problem: Problem) -> None:
        self.flow, self.shape = problem.flow, problem.x.shape
        self.calls = self.converted = 0

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """`dx/dt` for `t` of shape () or (B,) and a state that holds as many numbers as the start."""
        return self.flow.drift(self._inside(t), x.reshape(self.shape)).reshape(x.shape)

    def data(self, y: Tensor, s: Tensor) -> Tensor:
        """The denoised `y = x / alpha` at `s = sigma / alpha`, equal for all samples."""
        t = self._inside(SCHEDULE.time_at(-np.log(float(s[0]))))
        return self.flow.denoiser(t, y * float(SCHEDULE.alpha(t)))[0]

    def _inside(self, t: Any) -> Any:
        self.calls, self.converted = self.calls + 1, self.converted + 1
        if self.calls > BUDGET:
            raise OutOfBudget
        times = np.clip(np.asarray(t.tolist() if isinstance(t, Tensor) else t), T_END, SCHEDULE.t_start)
        return times if times.ndim else float(times)

    def outcome(self, x: Tensor, evaluations: float | None = None) -> Outcome:
        own = self.calls if evaluations is None else evaluations
        return Outcome(x.reshape(self.shape), own, self.calls, self.calls, self.converted)


# --- ours, and third-party back ends

Maker = Callable[[float, Problem], sd.Solver]


def run_ours(problem: Problem, tolerance: float, *, make: Maker) -> Outcome:
    solver = make(tolerance, problem)
    out = sd.solve(problem.flow, problem.x, solver, t_end=T_END, max_evaluations=BUDGET, progress=False).check()
    return Outcome(out.x, float(out.evaluations.mean()), out.rows / len(problem.x), out.calls)


@cache
def fitted(problem: Problem) -> Any:
    data = problem.flow.denoiser.target.sample(1024, 2)  # type: ignore[attr-defined]
    return sd.linear_parts.GaussianPart.fit(data, min(RANK, data[0].numel()))


#: The linear parts that the exponential method may take; add a line to add one.
PARTS: Mapping[str, Callable[[Problem], Any]] = {
    "data": lambda p: sd.linear_parts.DataPart(p.scale),
    "noise": lambda p: sd.linear_parts.NoisePart(p.scale),
    "preconditioned": lambda p: sd.linear_parts.Preconditioned(p.scale),
    f"Gaussian, rank {RANK}": fitted,
}


def adams(tolerance: float, problem: Problem, *, part: Callable[[Problem], Any]) -> sd.Solver:
    made: sd.Solver = sd.ExponentialAdams(rtol=tolerance, atol=0.0, part=part(problem))
    return made


def our_makers() -> dict[str, Maker]:
    """Labels, and what makes the solver at a tolerance for a problem."""
    found: dict[str, Maker] = {"rk45, angle": lambda tol, p: sd.RK45(tol, tol, sd.coordinates.Angle(p.scale))}
    if hasattr(sd, "ExponentialAdams"):
        found.update({f"exponential Adams, {name}": partial(adams, part=part) for name, part in PARTS.items()})
    return found


COORDINATES: Mapping[str, Callable[[Problem], sd.coordinates.Coordinates]] = {
    "time": lambda p: sd.coordinates.Time(),
    "log-SNR": lambda p: sd.coordinates.LogSNR(),
    "sigma/alpha": lambda p: sd.coordinates.DDIMCoordinates(),
    "angle": lambda p: sd.coordinates.Angle(p.scale),
}


def third_party(tolerance: float, problem: Problem, *, kind: type, method: str, where: str) -> sd.Solver:
    made: sd.Solver = kind(method, tolerance, tolerance, COORDINATES[where](problem))
    return made


def methods() -> Iterator[Method]:
    for label, make in our_makers().items():
        yield Method(f"ours: {label}", partial(run_ours, make=make))
    for where in COORDINATES:
        make = partial(third_party, kind=sd.backends.TorchDiffEq, method="dopri5", where=where)
        yield Method(f"torchdiffeq dopri5, {where}", partial(run_ours, make=make))
    yield Method("torchdiffeq dopri5, raw, time", torchdiffeq_raw)
    for name in ("RK45", "DOP853", "LSODA"):
        for where in ("time", "angle"):
            make = partial(third_party, kind=sd.backends.SciPy, method=name, where=where)
            yield Method(f"scipy {name}, {where}", partial(run_ours, make=make), has_reads=False)
    yield Method("k-diffusion dpm_adaptive", dpm_adaptive)
    yield Method("diffrax Tsit5, vmap, time", diffrax_tsit5, has_reads=False)
    yield Method("torchode Tsit5, time", torchode_tsit5)


# --- peers, by their own calls


def torchdiffeq_raw(problem: Problem, tolerance: float) -> Outcome:
    from torchdiffeq import odeint

    seen, ends = Watched(problem), torch.tensor([SCHEDULE.t_start, T_END], dtype=torch.float64)
    return seen.outcome(odeint(seen.drift, problem.x, ends, rtol=tolerance, atol=tolerance, method="dopri5")[-1])


def dpm_adaptive(problem: Problem, tolerance: float) -> Outcome:
    seen, times = Watched(problem), np.array([T_END, SCHEDULE.t_start])
    alphas, s = SCHEDULE.alpha(times), np.exp(-SCHEDULE.log_snr(times))
    with default_dtype(torch.float64):  # it makes tensors of its ends in that
        y = k_diffusion().sample_dpm_adaptive(
            seen.data, problem.x / alphas[1], *s.tolist(), disable=True, order=3, rtol=tolerance, atol=tolerance, eta=0
        )
    return seen.outcome(y * alphas[0])


def torchode_tsit5(problem: Problem, tolerance: float) -> Outcome:
    import torchode

    seen, y = Watched(problem), problem.x.flatten(1)
    term = torchode.ODETerm(seen.drift)
    controller = torchode.IntegralController(tolerance, tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller, backprop_through_step_size_control=False)
    ends = [torch.full((len(y),), t, dtype=y.dtype) for t in (SCHEDULE.t_start, T_END)]
    with torch.no_grad():
        out = solver.solve(torchode.InitialValueProblem(y, *ends))
    if bool(out.status.any()):
        raise RuntimeError(f"status {int(out.status.max())}")
    # six evaluations a step, and as many at the start as it took
    steps = out.stats["n_steps"].double()
    return seen.outcome(out.ys[:, -1], seen.calls - 6 * float(steps.max() - steps.mean()))


def diffrax_tsit5(problem: Problem, tolerance: float) -> Outcome:
    x, steps, ok = (np.array(v) for v in _diffrax(problem)(problem.x.flatten(1).numpy(), tolerance))
    if not ok.all():
        raise OutOfBudget
    evaluations = 1 + 6 * steps  # the first slope, and six per step, rejected or not
    ends = torch.from_numpy(x).reshape(problem.x.shape)
    return Outcome(ends, float(evaluations.mean()), float(evaluations.max()), int(evaluations.max()))


@cache
def _diffrax(problem: Problem) -> Callable[..., Any]:
    """The compiled function `(x, tolerance) -> (ends, steps, which arrived)`."""
    import diffrax
    import jax

    jax.config.update("jax_enable_x64", True)
    drift = _in_jax(problem)

    def one(x: Any, tolerance: Any) -> tuple[Any, Any, Any]:
        control = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        out = diffrax.diffeqsolve(
            *(diffrax.ODETerm(drift), diffrax.Tsit5(), SCHEDULE.t_start, T_END, None, x),
            stepsize_controller=control,
            max_steps=BUDGET // 6,
            throw=False,
        )
        return out.ys[-1], out.stats["num_steps"], out.result == diffrax.RESULTS.successful

    compiled: Callable[..., Any] = jax.jit(jax.vmap(one, in_axes=(0, None)))
    return compiled


def _in_jax(problem: Problem) -> Callable[..., Any]:
    """`dx/dt` of one sample of shape (D,) by the exact denoiser of a mixture; a smoothed data set is one."""
    import jax
    import jax.numpy as jnp

    target: Any = problem.flow.denoiser.target  # type: ignore[attr-defined]
    if isinstance(target, sd.targets.Empirical):
        target = sd.targets.GaussianMixture(
            np.full(len(target.data), 1 / len(target.data)), target.data, target.bandwidth**2
        )
    m, v, w = (jnp.asarray(part.numpy()) for part in (target.means.flatten(1), target.spectrum.values, target.weights))
    b0, b1 = SCHEDULE.beta_min, SCHEDULE.beta_max

    def drift(t: Any, x: Any, args: Any) -> Any:
        log_alpha, rate = -t * (t * (b1 - b0) / 4 + b0 / 2), -(t * (b1 - b0) + b0) / 2
        alpha, square = jnp.exp(log_alpha), -jnp.expm1(2 * log_alpha)
        c = alpha**2 * v + square
        nats = ((x - alpha * m) ** 2 / c).sum(1) + jnp.log(c).sum(1) * (m.shape[1] / v.shape[1])
        r = jax.nn.softmax(jnp.log(w) - nats / 2)[:, None]
        data = (r * (square / c) * m).sum(0) + alpha * x * (r * (v / c)).sum(0)
        # alpha' D + sigma' E, with sigma' = -alpha alpha' / sigma and E = (x - alpha D) / sigma
        return alpha * rate * (data - alpha * (x - alpha * data) / square)

    return drift


# --- measuring


@dataclass(frozen=True)
class Curve:
    """Evaluations, error and tolerance of every run, and why the next one failed."""

    points: tuple[tuple[float, float, float], ...]
    failure: str = ""

    def needed(self, error: float) -> str:
        """Evaluations for an error, on the lower envelope."""
        before: tuple[float, float] | None = None
        for n, reached, _ in sorted(self.points):
            if reached <= error:
                if before is None:
                    return f"<= {n:.0f}"
                fraction = np.log(before[1] / error) / np.log(before[1] / reached)
                return f"{before[0] + fraction * (n - before[0]):.0f}"
            if before is None or reached < before[1]:
                before = n, reached
        return "-"

    def tolerance(self, error: float) -> float | None:
        """That of the cheapest run which reaches an error."""
        return next((tolerance for _, reached, tolerance in sorted(self.points) if reached <= error), None)


def measured(method: Method, problem: Problem) -> Curve:
    points: list[tuple[float, float, float]] = []
    failure = ""
    for tolerance in TOLERANCES:
        try:
            out = method.run(problem, tolerance)
        except ImportError as why:
            return Curve((), f"not installed ({why})")
        except Exception as why:  # a peer may raise anything
            failure = f"{tolerance:.0e}: {shorten(str(why), 50) or type(why).__name__}"
            if points:
                break
            continue
        reached = float((out.x - problem.truth).square().mean().sqrt()) / problem.scale
        points.append((out.evaluations, reached, tolerance))
        if reached < min(ERRORS):
            return Curve(tuple(points))
    return Curve(tuple(points), failure)


def cells(method: Method, problem: Problem) -> list[str]:
    """A row of the table."""
    curve = measured(method, problem)
    needed, tolerance = [curve.needed(error) for error in ERRORS], curve.tolerance(LOOKED_AT)
    if tolerance is None:
        return [method.label, *needed, "-", "-", "-", curve.failure]
    started = time.perf_counter()
    out = method.run(problem, tolerance)
    seconds = time.perf_counter() - started
    reads = "-"
    if method.has_reads:
        all_reads = count(lambda steps: method.run(problem, tolerance), 1, len(problem.x)).reads
        reads = f"{(all_reads - out.converted) / out.calls:.2f}"
    return [method.label, *needed, f"{out.rows:.0f}", f"{1e3 * seconds:.0f}", reads, curve.failure]


HEADER = ["method", *(f"{error:.0e}" for error in ERRORS), "rows", "ms", "syncs/call", "stopped at tolerance"]


def chosen(words: str, name: str) -> bool:
    return any(word in name for word in words.split(","))


def tables(only: str, among: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Titles and rows, target by target."""
    for whole, n in zip(problems(), COUNTS, strict=True):
        if not chosen(among, whole.name):
            continue
        problem, rows = replace(whole, x=whole.x[:n], truth=whole.truth[:n]), [HEADER]
        for method in methods():
            if chosen(only, method.label):
                progress(f"{problem.name}: {method.label}")
                rows.append(cells(method, problem))
        progress("")
        yield f"{problem.name}, {n} samples: evaluations for a global error", rows


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="methods whose labels contain one of these words")
    parser.add_argument("--targets", default="", help="targets whose names contain one of these words")
    parser.add_argument("--markdown", type=Path, help="a file to write the tables into, between its marks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # peers warn of each other's
    started, parts = time.perf_counter(), []
    for title, rows in tables(options.only, options.targets):
        print(f"\n{title}\n\n{aligned(rows[0], rows[1:])}", flush=True)
        parts.append(f"### {title}\n\n{markdown(rows)}\n")
    print(f"\n{time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.markdown:
        before, rest = options.markdown.read_text(encoding="utf-8").split(MARKS[0])
        text = f"{before}{MARKS[0]}\n\n" + "\n".join(parts) + f"\n{MARKS[1]}{rest.split(MARKS[1])[1]}"
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
