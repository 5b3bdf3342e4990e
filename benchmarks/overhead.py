"""Time per step beyond the network: DDIM and DPM-Solver++ 2M (eta = 0, float32, CPU), ours and its peers'; and
exponential Adams of variable step, of order 3 at the most.

Timed is the whole public call: `scorediff.solve` with its finite check and without progress bar; a diffusers
scheduler's `set_timesteps` and the loop of `step`; k-diffusion's function with its own sigmas. The network is a
function that hands out two tensors in turn, made beforehand; what its calls take (0.1 us) is subtracted. A run of
`steps` and one of a fifth of them, at least 4, give the slope, the time of one more step, and the intercept, the set-up
of a run; "whole/step" is the long run over its steps, set-up included. Each number is the best of `--repeat` medians,
taken in turn over all samplers.

The floor is what one step has to move at the least: three operations into a buffer that is used again. Next to it
stand the same three into fresh tensors.

Per step are counted, on a state of two samples, the tensor operations that reach torch's dispatcher; of these those on
one number per sample, shape (B,), and those on scalars, tensors of at most one element; and the values that the host
asks for, each a wait for the device (item, nonzero and their like; tolist, numpy).

    python benchmarks/overhead.py --shapes 1x3x64x64,64x3x32x32 --steps 50 --threads 1 --repeat 5
"""

import argparse
import gc
import importlib
import importlib.util
import math
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import scorediff as sd

SHAPES = "1x3x64x64,64x3x32x32,64x3x64x64,64x3x256x256"
ADAPTIVE = sd.ExponentialAdams(1e-5, largest_k=2)
SAMPLERS = {"DDIM": sd.DDIM(), "DPM-Solver++ 2M": sd.DPMSolverPP(2)}
READS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item", "tolist", "numpy", "__array__"}

Run = Callable[[int], object]
Maker = Callable[[Tensor, Callable[..., Tensor]], Run]


class Candidate(NamedTuple):
    """One way to run a sampler. `make(x, network)` gives a run of so many steps; None where `why` it cannot."""

    sampler: str
    name: str
    make: Maker | None
    why: str = ""
    ours: bool = False


def network_for(x: Tensor) -> Callable[..., Tensor]:
    """A network that costs nothing. Two outputs in turn, so that a multistep method does not get one of them twice."""
    outputs = cycle([torch.randn_like(x), torch.randn_like(x)])

    def network(x: Tensor, t: Any, **cond: Any) -> Tensor:
        return next(outputs)

    return network


# --- the floor, and the four implementations


def floor(x: Tensor, network: Callable[..., Tensor], *, fresh: bool = False) -> Run:
    a, b, buffer = torch.randn_like(x), torch.randn_like(x), torch.zeros_like(x)

    def reuse(steps: int) -> None:
        for _ in range(steps):
            torch.mul(x, 0.9, out=buffer)
            buffer.add_(a, alpha=0.2)
            buffer.add_(b, alpha=0.3)

    def allocate(steps: int) -> None:
        for _ in range(steps):
            torch.mul(x, 0.9).add_(a, alpha=0.2).add_(b, alpha=0.3)

    return allocate if fresh else reuse


def ours(
    x: Tensor, network: Callable[..., Tensor], *, solver: sd.Solver, prediction: sd.predictions.Prediction, new: bool
) -> Run:
    """`new` makes the denoiser again for every run, so that nothing it remembers of its times is of use."""

    def flow() -> sd.ProbabilityFlow:
        return sd.ProbabilityFlow(sd.Denoiser(network, sd.VPLinear(), prediction))

    kept = flow()

    def run(steps: int) -> sd.Solution:
        # one evaluation a step: an adaptive run ends with its budget, long before t_end
        options = {"max_evaluations": steps} if solver.adaptive else {"steps": steps}
        return sd.solve(flow() if new else kept, x, solver, progress=False, **options)

    return run


def diffusers(x: Tensor, network: Callable[..., Tensor], *, module: Any, sampler: str, prediction: str) -> Run:
    common = {"prediction_type": prediction, "timestep_spacing": "trailing"}
    if sampler == "DDIM":
        scheduler = module.DDIMScheduler(clip_sample=False, **common)
    else:
        scheduler = module.DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            lower_order_final=False,
            final_sigmas_type="sigma_min",
            **common,
        )

    @torch.no_grad()
    def run(steps: int) -> Tensor:
        state = x
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            state = scheduler.step(network(state, t), t, state).prev_sample
        return state

    return run


def k_diffusion(x: Tensor, network: Callable[..., Tensor], *, module: Any, function: str, **options: Any) -> Run:
    sampler = getattr(module, function)

    def run(steps: int) -> Tensor:
        # one positive sigma more than steps: the appended zero, a step of another kind, is cut off
        sigmas = module.get_sigmas_exponential(steps + 1, 0.01, 80.0)[:-1]
        return sampler(network, x, sigmas, disable=True, **options)

    return run


def import_k_diffusion() -> Any:
    """Its sampling module alone: the package's own `__init__` imports a training stack, and that module's utilities
    torchvision, for functions that no sampler uses.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise ImportError("no module named 'k_diffusion'")
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    stubs = {name: types.ModuleType(name) for name in names if name not in sys.modules}
    # the package is made, not executed
    sys.modules.update({"k_diffusion": importlib.util.module_from_spec(spec), **stubs})
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in stubs:
            del sys.modules[name]


def candidates() -> Iterator[Candidate]:
    yield Candidate("floor", "mul, add, add into one buffer", floor)
    yield Candidate("floor", "the same into fresh tensors", partial(floor, fresh=True))
    for sampler, solver in SAMPLERS.items():
        noise, data = sd.NoisePrediction(), sd.DataPrediction()
        for prediction, new in ((noise, False), (data, False), (noise, True)):
            name = f"scorediff, {'noise' if prediction is noise else 'data'}{', new model' * new}"
            make = partial(ours, solver=solver, prediction=prediction, new=new)
            yield Candidate(sampler, name, make, ours=True)
        yield from peers(sampler, "diffusers", partial(importlib.import_module, "diffusers"), diffusers_ways(sampler))
        yield from peers(sampler, "k-diffusion", import_k_diffusion, k_diffusion_ways(sampler))
    for prediction in (sd.NoisePrediction(), sd.DataPrediction()):
        make = partial(ours, solver=ADAPTIVE, prediction=prediction, new=False)
        yield Candidate("adaptive Adams", f"scorediff, {type(prediction).__name__}, k <= 2", make, ours=True)


def diffusers_ways(sampler: str) -> dict[str, Callable[..., Run]]:
    kinds = {"noise": "epsilon", "data": "sample"}
    return {kind: partial(diffusers, sampler=sampler, prediction=word) for kind, word in kinds.items()}


def k_diffusion_ways(sampler: str) -> dict[str, Callable[..., Run]]:
    if sampler != "DDIM":
        return {"dpmpp_2m, data": partial(k_diffusion, function="sample_dpmpp_2m")}
    # DDIM is Euler in sigma / alpha. Both functions draw a noise per step that they then multiply by 0, or drop.
    return {
        "euler, data": partial(k_diffusion, function="sample_euler"),
        "euler_ancestral eta 0, data": partial(k_diffusion, function="sample_euler_ancestral", eta=0.0),
    }


def peers(
    sampler: str, library: str, load: Callable[[], Any], ways: dict[str, Callable[..., Run]]
) -> Iterator[Candidate]:
    try:
        module = load()
    except ImportError as error:
        yield Candidate(sampler, library, None, why=f"not installed ({error})")
        return
    for name, way in ways.items():
        yield Candidate(sampler, f"{library}, {name}", partial(way, module=module))


# --- counting


class Counts(NamedTuple):
    """Of a run, or per step."""

    operations: float = 0
    per_sample: float = 0
    scalar: float = 0
    reads: float = 0


class _Dispatched(TorchDispatchMode):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.names, self.kinds = batch, [], []  # type: ignore[var-annotated]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(r, Tensor)]
        tensors = made or [a for a in args if isinstance(a, Tensor)]
        self.names.append(func.overloadpacket.__name__)
        if tensors and all(v.numel() <= 1 for v in tensors):
            self.kinds.append("scalar")
        elif tensors and all(v.shape == (self.batch,) for v in tensors):
            self.kinds.append("per sample")
        return result


class _Converted(TorchFunctionMode):
    """Values asked for by the host that never reach the dispatcher."""

    reads = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += getattr(func, "__name__", "") in {"tolist", "numpy", "__array__"}
        return func(*args, **(kwargs or {}))


def count(run: Run, steps: int, batch: int) -> Counts:
    with _Converted() as converted, _Dispatched(batch) as seen:
        run(steps)
    reads = sum(name in READS for name in seen.names) + converted.reads
    return Counts(len(seen.names), seen.kinds.count("per sample"), seen.kinds.count("scalar"), reads)


def counts_per_step(make: Maker) -> Counts:
    x = torch.randn(2, 3, 8, 8)
    run = make(x, network_for(x))
    few, many = (count(run, steps, len(x)) for steps in (10, 30))
    return Counts(*((b - a) / 20 for a, b in zip(few, many, strict=True)))


# --- timing


@dataclass
class Timer:
    """Medians of the seconds a run of `steps` takes; of which the best is taken."""

    run: Run
    steps: int
    calls: int = 0
    medians: list[float] = field(default_factory=list)

    def once(self) -> float:
        start = time.perf_counter()
        self.run(self.steps)
        return time.perf_counter() - start

    def measure(self) -> None:
        if not self.calls:  # the first call warms up, the second says how many fill a tenth of a second
            self.once()
            self.calls = min(max(3, math.ceil(0.1 / self.once())), 50)
        self.medians.append(statistics.median(self.once() for _ in range(self.calls)))

    @property
    def best(self) -> float:
        return min(self.medians)


class Cost(NamedTuple):
    """Seconds beyond the network: of one more step, of setting up a run, and of the whole long run over its steps."""

    step: float
    set_up: float
    whole: float


def costs(made: list[Candidate], x: Tensor, steps: int, repeat: int) -> list[Cost]:
    short = max(4, steps // 5)  # by then all buffers have been touched
    network, bare = network_for(x), network_for(x)

    def calls(steps: int) -> None:
        for _ in range(steps):
            bare(x, None)

    timers = [(Timer(run, short), Timer(run, steps)) for run in (c.make(x, network) for c in made if c.make)]
    alone = Timer(calls, 1000)
    gc.collect()
    gc.disable()
    for _ in range(repeat):
        alone.measure()
        for pair in timers:
            for timer in pair:
                timer.measure()
    gc.enable()
    net = alone.best / alone.steps
    result = []
    for (low, high), candidate in zip(timers, made, strict=True):
        slope = (high.best - low.best) / (high.steps - low.steps)
        its_network = 0.0 if candidate.sampler == "floor" else net
        result.append(Cost(slope - its_network, high.best - slope * steps, high.best / steps - its_network))
    return result


# --- the table

HEADER = (
    *("shape", "sampler", "who, prediction", "us/step", "x floor", "x best peer", "set-up us", "whole/step"),
    *("ops", "of (B,)", "scalar", "host syncs"),
)


def table(shapes: list[tuple[int, ...]], steps: int | None, repeat: int) -> list[tuple[str, ...]]:
    every = list(candidates())
    present = [c for c in every if c.make]
    counted = {c: counts_per_step(c.make) for c in present if c.make}
    rows = []
    for shape in shapes:
        x = torch.randn(shape)
        by_size = 50 if x.numel() < 2**22 else 12
        cost = dict(zip(present, costs(present, x, steps or by_size, repeat), strict=True))
        for c in every:
            head = ("x".join(map(str, shape)), c.sampler, c.name)
            rows.append((*head, *(cells(c, cost, counted[c]) if c in cost else (c.why, *[""] * (len(HEADER) - 4)))))
    return rows


def cells(candidate: Candidate, cost: dict[Candidate, Cost], counts: Counts) -> tuple[str, ...]:
    mine = cost[candidate]
    at_least = next(iter(cost.values())).step
    rivals = [c.step for other, c in cost.items() if other.sampler == candidate.sampler and not other.ours]
    versus = f"{mine.step / min(rivals):.2f}" if rivals and candidate.sampler != "floor" else ""
    times = (f"{1e6 * mine.step:.1f}", f"{mine.step / at_least:.2f}", versus)
    return (*times, f"{1e6 * mine.set_up:.0f}", f"{1e6 * mine.whole:.1f}", *(f"{n:.3g}" for n in counts))


def show(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [HEADER, *(r for r in rows if r[4] or i < 3)]) for i in range(len(HEADER))]
    left = 3
    print("| " + " | ".join(h.ljust(w) for h, w in zip(HEADER, widths, strict=True)) + " |")
    print("|" + "|".join("-" * (w + 2 - (i >= left)) + ":" * (i >= left) for i, w in enumerate(widths)) + "|")
    for row in rows:
        aligned = (v.ljust(w) if i < left else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True)))
        print("| " + " | ".join(aligned) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, help="states to time, as BxCxHxW,... (%(default)s)")
    parser.add_argument("--steps", type=int, help="steps of the long run, 8 or more (50; 12 from 4 million numbers on)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="medians of which the best is taken (%(default)s)")
    options = parser.parse_args()
    if options.steps is not None and options.steps < 8:
        parser.error(f"--steps {options.steps}: a slope wants at least 8")
    try:
        shapes = [tuple(int(n) for n in shape.split("x")) for shape in options.shapes.split(",")]
    except ValueError:
        parser.error(f"--shapes {options.shapes}: write 1x3x64x64,64x3x32x32")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, float32, CPU, threads: {options.threads}; best of {options.repeat} medians\n")
    show(table(shapes, options.steps, options.repeat))


if __name__ == "__main__":
    main()
