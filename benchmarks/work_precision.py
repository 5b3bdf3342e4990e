"""Error against evaluations: every fixed-step solver of the flow, on every spacing, on four targets.

The error of a run is the distance of each sample at t_end to where the true trajectory takes it, in units of the data's
root mean square; its median over samples is taken, since a start between two modes is nobody's fault. Starts are
the same for all; trajectories are true to 1e-9 or so, by two routes. A solver gets the most steps that its budget pays
for, the evaluations of its start included. Nothing is added after t_end.

Targets: a ring of 8 unequal modes in 2 dimensions; 12 modes in 64; 6 modes in 3072 that vary along 16 directions, with
a standard deviation of 0.02 along all others; the digits, at a bandwidth of 0.4. VP-linear, from t = 1 to 1e-3.

    python benchmarks/work_precision.py --markdown docs/which-solver.md

`--markdown` writes the tables between the marks of that file.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import scorediff as sd
from scorediff._core import registry
from scorediff._core.tables import aligned
from scorediff.lab.data import digits
from scorediff.study import reference
from scorediff.targets import Target

BUDGETS = (5, 6, 8, 10, 12, 15, 20, 25, 32, 40, 50, 64, 80, 100)
SPACINGS = {
    "log-snr": sd.spacings.UniformLogSNR(),
    "flow-time": sd.spacings.FlowTime(),
    "angle": sd.spacings.UniformAngle(),
    "quadratic": sd.spacings.Quadratic(),
    "karras": sd.spacings.Karras(),
}
SCHEDULE = sd.VPLinear()
T_END = 1e-3
PUBLISHED = "unipc-3-published"
MARKS = "<!-- work-precision -->", "<!-- /work-precision -->"
Method = tuple[str, str]


@dataclass(frozen=True)
class Problem:
    """A target with its starts, and where they must arrive."""

    name: str
    flow: sd.ProbabilityFlow
    x: torch.Tensor
    truth: torch.Tensor
    known_to: float
    scale: float

    def error(self, solver: sd.Solver, spacing: sd.spacings.Spacing, steps: int) -> float:
        """The median error; infinite where a sample is lost."""
        out = sd.solve(self.flow, self.x, solver, steps=steps, spacing=spacing, t_end=T_END, progress=False)
        return float((out.x - self.truth).square().mean(1).sqrt().median()) / self.scale if out.ok else np.inf


def targets() -> Iterator[tuple[str, Target, int]]:
    """Names, distributions, and how many samples."""
    rng = np.random.default_rng(0)
    angles = 2 * np.pi * np.arange(8) / 8
    ring = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    weights = np.arange(1.0, 9.0)
    yield "ring, 2-D", sd.targets.GaussianMixture(weights / weights.sum(), ring, np.geomspace(0.01, 0.1, 8)), 256
    yield (
        "12 modes, 64-D",
        sd.targets.GaussianMixture(np.full(12, 1 / 12), rng.standard_normal((12, 64)), np.full(12, 0.1)),
        64,
    )
    means, variances = np.zeros((6, 3072)), np.full((6, 3072), 4e-4)
    # the directions that vary are the axes: a rotation would change no error
    means[:, :16], variances[:, :16] = 12 * rng.standard_normal((6, 16)), rng.uniform(1, 30, (6, 16))
    yield "low rank, 3072-D", sd.targets.GaussianMixture(np.full(6, 1 / 6), means / 3, variances / 9), 16
    yield "digits, 64-D", sd.targets.Empirical(digits().double(), bandwidth=0.4), 64


def problems() -> list[Problem]:
    """The four, with their true trajectories."""
    made = []
    for name, target, count in targets():
        flow = sd.ProbabilityFlow(target.denoiser(SCHEDULE))
        x = target.at(SCHEDULE, SCHEDULE.t_start).sample(count, 0).flatten(1)
        shaped = x.reshape(count, *target.event_shape)
        found = reference(flow, shaped, t_end=T_END)
        scale = float(target.sample(256, 1).square().mean().sqrt())
        made.append(Problem(name, flow, shaped, found.x, (found.error or 0.0) / scale, scale))
    return made


def steps_for(solver: sd.Solver, budget: int) -> int | None:
    """The most steps that so many evaluations pay for."""
    affordable = [n for n in range(1, budget + 1) if (solver.evaluations(n) or np.inf) <= budget]
    return affordable[-1] if affordable else None


def solvers() -> dict[str, sd.Solver]:
    """The fixed-step solvers of the flow that carry every sample, our own."""
    found = {}
    for name, solver in registry.names(sd.Solver).items():
        own = type(solver).__module__.startswith("scorediff.solvers")
        if own and sd.ProbabilityFlow in solver.solves and not solver.adaptive and solver.order:
            found[name] = solver
    return found


def measured(made: list[Problem], budgets: list[int]) -> dict[str, dict[Method, list[float]]]:
    """Errors by target, by solver and spacing, by budget."""
    table: dict[str, dict[Method, list[float]]] = {}
    for problem in made:
        rows: dict[Method, list[float]] = {}
        for name, solver in solvers().items():
            steps = [steps_for(solver, budget) for budget in budgets]
            for spacing, rule in SPACINGS.items():
                errors = {n: problem.error(solver, rule, n) for n in sorted({n for n in steps if n})}
                rows[name, spacing] = [errors[n] if n else np.inf for n in steps]
        table[problem.name] = rows
    return table


def tables(found: dict[str, dict[Method, list[float]]], budgets: list[int]) -> Iterator[tuple[str, list[list[str]]]]:
    """Titles and rows: what to take, what is best for each target, and a few methods side by side."""
    recommended = [["evaluations", "solver", "spacing", *(f"x best, {name}" for name in found)]]
    for i, budget in enumerate(budgets):
        best = {name: min(errors[i] for errors in rows.values()) for name, rows in found.items()}
        methods = next(iter(found.values()))
        # the one that is least behind where it is farthest behind
        behind = {m: [rows[m][i] / best[name] for name, rows in found.items()] for m in methods}
        method = min(methods, key=lambda m: max(behind[m]))
        recommended.append([str(budget), *method, *(f"{ratio:.2f}" for ratio in behind[method])])
    yield "One for all: the solver and spacing least behind the best on any target", recommended
    for name, rows in found.items():
        lines = [["evaluations", "best", "error", "second", "error", "DDIM", "2M, log-SNR", "UniPC-3 as published"]]
        for i, budget in enumerate(budgets):
            by_solver = sorted(((errors[i], m) for m, errors in rows.items()), key=lambda item: item[0])
            first = by_solver[0]
            second = next(item for item in by_solver if item[1][0] != first[1][0])
            named = [cell for error, m in (first, second) for cell in (f"{m[0]} ({m[1]})", f"{error:.1e}")]
            plain = [min(rows[n, s][i] for s in SPACINGS) for n in ("ddim", PUBLISHED)]
            lines.append(
                [str(budget), *named, f"{plain[0]:.1e}", f"{rows['dpm++2m', 'log-snr'][i]:.1e}", f"{plain[1]:.1e}"]
            )
        yield f"{name}: median error", lines


def at_64(found: dict[str, dict[Method, list[float]]], budgets: list[int]) -> Iterator[str]:
    """What is reached at 64 evaluations, on each target: each method on the spacing that suits it best."""
    i = budgets.index(64)
    for name, rows in found.items():
        best, method = min((errors[i], m) for m, errors in rows.items())
        published = min(rows[PUBLISHED, s][i] for s in SPACINGS)
        same = rows[PUBLISHED, method[1]][i]
        yield (
            f"{name}: {method[0]} ({method[1]}) {best:.1e}; UniPC-3 as published {published:.1e} on its best spacing, "
            f"{published / best:.0f} times, {same:.1e} on the same, {same / best:.0f} times"
        )


def markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="evaluations, separated by commas")
    parser.add_argument("--markdown", type=Path, help="a file to write the tables into, between its marks")
    options = parser.parse_args()
    budgets = [int(n) for n in options.budgets.split(",")]
    torch.set_num_threads(1)
    started = time.perf_counter()
    made = problems()
    found = measured(made, budgets)
    parts = []
    for title, rows in tables(found, budgets):
        print(f"\n{title}\n\n{aligned(rows[0], rows[1:])}")
        parts.append(f"### {title}\n\n{markdown(rows)}\n")
    if 64 in budgets:
        summary = list(at_64(found, budgets))
        print("\nAt 64 evaluations\n\n" + "\n".join(summary))
        parts.append("### At 64 evaluations\n\n" + "\n".join(f"- {line}" for line in summary) + "\n")
    known = "; ".join(f"{p.name} {p.known_to:.0e}" for p in made)
    print(f"\nThe truth is known to: {known}. {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.markdown:
        before, rest = options.markdown.read_text(encoding="utf-8").split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        text = f"{before}{MARKS[0]}\n\n" + "\n".join(parts) + f"\nThe truth is known to: {known}.\n\n{MARKS[1]}{after}"
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
