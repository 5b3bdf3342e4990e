"""Random runs, and what must hold for every one of them: `make fuzz`, or `python tests/fuzz.py --cases N --first I`.

Case i is the same on every machine. It draws a solver, a schedule, a grid or a spacing, a target, a batch, a dtype and
a terminal map; then

- no evaluation lies outside the schedule's domain,
- every evaluation is counted, and where the solver declares their number, there are as many,
- a sample is finite or its status says that it is not; nothing raises once the network has been called,
- a sample is the same alone as in its batch,
- eight times as many steps do not lead farther away from the exact flow of a Gaussian.

What is refused before the first evaluation, with a ValueError or a TypeError, is counted apart.
"""

import argparse
import collections
import json
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from discovery import SCHEDULES, SOLVERS, SPACINGS, takes_even_steps_alone
from tqdm import tqdm

import scorediff as sd

_FALLING = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
_SCHEDULES = [*SCHEDULES, sd.VPDiscrete(np.minimum(1 - _FALLING[1:] / _FALLING[:-1], 0.999)), sd.EDM(1e-5, 1e3)]
_CHUNK = 250
#: How far apart a sample alone and in its batch may be, in units of its size: matrix products round by the batch.
_ROUNDING = {torch.float64: 1e-7, torch.float32: 1e-2}


class Broken(AssertionError):
    """What must hold does not."""


@dataclass(frozen=True)
class Case:
    """One run: the `problem` of a `target`, a `solver`, its `start`, and `how`, the other arguments of `solve`."""

    number: int
    target: Any
    problem: Any
    solver: Any
    start: torch.Tensor
    how: dict[str, Any]

    @property
    def words(self) -> str:
        """What would make it again by hand."""
        how = {k: v.tolist() if isinstance(v, np.ndarray) else repr(v) for k, v in self.how.items()}
        shape, dtype = tuple(self.start.shape), self.start.dtype
        return f"case {self.number}: {self.solver!r} on {self.problem!r} from {shape} {dtype}, {json.dumps(how)}"


class Watched(sd.DenoiserBase):
    """An exact denoiser that writes down its times, and is never outside the domain."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.schedule, self.rows, self.calls = denoiser, denoiser.schedule, 0, 0

    def evaluate(self, t: Any, x: torch.Tensor, cond: Any) -> Any:
        lo, hi = self.schedule.domain
        times = np.asarray(t, dtype=np.float64)
        if not np.all((times >= lo) & (times <= hi)):
            raise Broken(f"an evaluation at t = {times}, outside [{lo}, {hi}]")
        self.calls += 1
        self.rows += len(x)
        return self.denoiser.evaluate(t, x, cond)


def case(number: int) -> Case:
    """Case `number`; raises ValueError or TypeError where what was drawn is refused."""
    rng = np.random.default_rng([16, number])
    solver, schedule = rng.choice(SOLVERS), rng.choice(_SCHEDULES)
    variance = float(10 ** rng.uniform(-6, 0.5))
    gaussian = sd.targets.Gaussian(rng.normal(size=2), variance * rng.uniform(0.1, 1, size=2))
    mixture = sd.targets.GaussianMixture(np.full(3, 1 / 3), rng.normal(size=(3, 2)), np.full(3, variance))
    target = gaussian if rng.random() < 0.5 else mixture
    lo, hi = schedule.t_end, schedule.t_start
    ends = np.sort(lo + (hi - lo) * rng.random(2)) if rng.random() < 0.4 else np.array([lo, hi])
    start, end = float(ends[1]), float(ends[0])
    noisy = rng.random() < 0.5 if len(solver.solves) > 1 else sd.ReverseSDE in solver.solves
    eta = float(rng.choice([0.3, 1.0, 1.0, 1.5])) if noisy else 0.0
    denoiser = Watched(target.denoiser(schedule))
    problem = sd.ReverseSDE(denoiser, eta) if eta else sd.ProbabilityFlow(denoiser)
    how: dict[str, Any] = {"seed": int(rng.integers(1000))}
    if solver.adaptive:
        how |= {"t_start": start, "t_end": end, "max_evaluations": 400}
    elif rng.random() < 0.5 or takes_even_steps_alone(solver):
        how |= {"steps": int(rng.integers(1, 16)), "t_start": start, "t_end": end}
        if rng.random() < 0.5 and not takes_even_steps_alone(solver):
            how["spacing"] = rng.choice([s for s in SPACINGS if not isinstance(s, sd.spacings.Times)])
    else:
        inner = start + (end - start) * rng.random(int(rng.integers(0, 12)))
        near = inner[:2] * (1 - 10.0 ** rng.uniform(-16, -2, size=len(inner[:2]))) if rng.random() < 0.5 else []
        how["grid"] = np.unique(np.clip([start, *inner, *near, end], end, start))[::-1]
        if not eta and rng.random() < 0.2:
            how["grid"] = how["grid"][::-1]
    rising = "grid" in how and how["grid"][0] < how["grid"][-1]
    if rng.random() < 0.3 and not rising:
        how["terminal"] = rng.choice(["denoise", "half-step"])
    dtype = rng.choice([torch.float64, torch.float64, torch.float32, torch.float32, torch.float16, torch.bfloat16])
    at = end if rising else start
    x = target.at(schedule, at).sample(int(rng.integers(0, 5)), seed=number).to(dtype)
    return Case(number, target, problem, solver, x, how)


def run(this: Case) -> sd.Solution | None:
    """Run a case and hold it to what must be; None where it is refused."""
    watched = this.problem.denoiser
    try:
        found = sd.solve(this.problem, this.start, this.solver, progress=False, **this.how)
    except (ValueError, TypeError):
        if watched.calls:
            raise
        return None
    counted(this, found)
    if found.x.shape != this.start.shape or found.x.dtype != this.start.dtype:
        raise Broken(f"a state of {found.x.dtype} of shape {tuple(found.x.shape)}")
    finite = torch.isfinite(found.x).flatten(1).all(1).numpy()
    good = np.asarray(found.status == sd.solvers.Status.SUCCESS)
    if not finite[good].all():
        raise Broken("a sample that is not finite is called a success")
    alone(this, found, good)
    refined(this, found, good)
    return found


def counted(this: Case, found: sd.Solution) -> None:
    """Every evaluation is counted, and there are as many as declared."""
    watched, n = this.problem.denoiser, len(this.start)
    if int(found.rows) != watched.rows:
        raise Broken(f"{found.rows} rows counted, {watched.rows} evaluated")
    if this.solver.adaptive or not n:
        return
    steps = this.how["steps"] if "steps" in this.how else len(this.how["grid"]) - 1
    declared = this.solver.evaluations(steps, this.problem.eta)
    wanted = None if declared is None else declared + ("terminal" in this.how)
    if wanted is not None and "grid" not in this.how and not np.all(found.evaluations == wanted):
        raise Broken(f"{found.evaluations} evaluations, {wanted} declared")


def alone(this: Case, found: sd.Solution, good: np.ndarray) -> None:
    """The last sample by itself is the same."""
    tolerance, n = _ROUNDING.get(this.start.dtype), len(this.start)
    if tolerance is None or n < 2 or not good[-1] or this.solver.depends_on_batch:
        return
    by_itself = sd.solve(this.problem, this.start[-1:], this.solver, ids=[n - 1], progress=False, **this.how).x[0]
    size = 1 + float(found.x[-1].abs().max())
    if not float((by_itself - found.x[-1]).abs().max()) <= tolerance * size:
        raise Broken(f"alone {by_itself.tolist()}, in its batch {found.x[-1].tolist()}")


def refined(this: Case, found: sd.Solution, good: np.ndarray) -> None:
    """With eight times as many steps the exact flow is not farther away."""
    how, solver = this.how, this.solver
    usual = "steps" in how and "spacing" not in how and "terminal" not in how
    if not usual or this.problem.eta or this.start.dtype is not torch.float64 or not good.any() or how["steps"] < 5:
        return
    if not isinstance(this.target, sd.targets.Gaussian) or solver.order is None:
        return
    schedule = this.problem.schedule
    exact = this.target.flow(schedule, how["t_start"], how["t_end"], this.start)
    finer = sd.solve(this.problem, this.start, solver, progress=False, **{**how, "steps": 8 * how["steps"]}).x
    coarse, fine = (float((x - exact).square().mean().sqrt()) for x in (found.x, finer))
    if not fine <= coarse + 1e-7:
        raise Broken(f"error {coarse:.2e} with {how['steps']} steps, {fine:.2e} with eight times as many")


def outcome(number: int) -> tuple[str, str]:
    """What became of a case: `held`, `refused`, or `BROKEN`; and in words why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Functional iteration|The following arguments|lsoda|.*not converge")
            try:
                this = case(number)
            except (ValueError, TypeError) as error:
                return "refused", str(error)
            try:
                return ("refused" if run(this) is None else "held"), ""
            except Exception as error:
                return "BROKEN", f"{this.words}: {type(error).__name__}: {error}"
    except Exception as error:
        return "BROKEN", f"case {number} cannot be drawn: {type(error).__name__}: {error}"


def outcomes(numbers: range) -> list[tuple[str, str]]:
    """Those of some cases, on one thread."""
    torch.set_num_threads(1)
    return [outcome(number) for number in numbers]


def main() -> int:
    """Run the cases; 1 where one of them is broken."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=int, default=100_000)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--workers", type=int, default=2)
    chosen = options.parse_args()
    stop = chosen.first + chosen.cases
    chunks = [range(n, min(n + _CHUNK, stop)) for n in range(chosen.first, stop, _CHUNK)]
    counts: collections.Counter[str] = collections.Counter()
    with ProcessPoolExecutor(chosen.workers) as pool:
        for found in tqdm(pool.map(outcomes, chunks), total=len(chunks), unit=f"{_CHUNK} cases"):
            for kind, words in found:
                counts[kind] += 1
                if kind == "BROKEN":
                    tqdm.write(words)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return int(counts["BROKEN"] > 0)


if __name__ == "__main__":
    sys.exit(main())
