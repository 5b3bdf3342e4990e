"""`scorediff sample`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorediff.cli import flags, options

if TYPE_CHECKING:
    from torch import Tensor

    from scorediff.cli.subjects import Subject
    from scorediff.solvers import Solution, Solver

__all__ = ["sample"]

_STEPS = 20

_Model = Annotated[
    str,
    typer.Option(
        help="A target (digits, gaussian, mixture, ...), a network (digits-unet, fashion-unet), a run's folder or "
        "its file, or the folder of a pipeline of diffusers.",
        rich_help_panel=flags.PROBLEM,
    ),
]
_Label = Annotated[
    str, typer.Option(help="A class, by number or name; all in turn; or none.", rich_help_panel=flags.PROBLEM)
]
_Schedule = Annotated[
    str | None,
    typer.Option(
        help="Noise schedule; see 'scorediff solvers'. By default a network's own, vp-linear for a target.",
        rich_help_panel=flags.PROBLEM,
    ),
]
_Bandwidth = Annotated[
    float | None, typer.Option(help="Smoothing of the digits (default 0.1).", rich_help_panel=flags.PROBLEM)
]
_Prompt = Annotated[str | None, typer.Option(help="What a pipeline is to show.", rich_help_panel=flags.PROBLEM)]
_Negative = Annotated[
    str | None, typer.Option(help="What it is guided away from (default: nothing).", rich_help_panel=flags.PROBLEM)
]
_Guidance = Annotated[
    float | None,
    typer.Option(
        help="Scale of guidance by the class or the text, 1 for none (default: none; a pipeline's own).",
        rich_help_panel=flags.PROBLEM,
    ),
]
_Size = Annotated[
    int | None,
    typer.Option(
        min=1, help="Sides of a pipeline's images, in pixels (default: its own).", rich_help_panel=flags.PROBLEM
    ),
]
_Eta = Annotated[
    float | None,
    typer.Option(
        help="Noise of the reverse SDE; 0 is the probability flow. By default 0 where the solver can, else 1.",
        rich_help_panel=flags.PROBLEM,
    ),
]
_Solver = Annotated[
    str, typer.Option(help="Name, or 'name:option=value,...'; see 'scorediff solvers'.", rich_help_panel=flags.SOLVER)
]
_Steps = Annotated[
    int | None, typer.Option(help=f"Steps of a fixed-grid solver (default {_STEPS}).", rich_help_panel=flags.SOLVER)
]
_Terminal = Annotated[
    str | None,
    typer.Option(
        help="From t_end to sigma = 0: none, denoise or half-step. By default none; denoise for a pipeline, where the "
        "noise at t_end can be seen.",
        rich_help_panel=flags.SOLVER,
    ),
]
_MaxEvaluations = Annotated[
    int | None, typer.Option(help="Budget per sample of an adaptive solver.", rich_help_panel=flags.SOLVER)
]
_Count = Annotated[
    int | None,
    typer.Option(
        "--n",
        "--count",
        min=1,
        help="How many samples (default 64; 1 of a pipeline. Under torchrun: --count).",
        rich_help_panel=flags.RUN,
    ),
]
_BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "--batch",
        min=1,
        help="Samples at a time (default: all; 256 into a folder).",
        rich_help_panel=flags.RUN,
    ),
]
_Shard = Annotated[int, typer.Option(min=1, help="Samples in a file of a folder.", rich_help_panel=flags.OUTPUT)]
_Out = Annotated[
    Path,
    typer.Option(
        parser=flags.place,
        help="A picture (.png); samples, labels, status, evaluations and settings (.npz); a folder (no suffix).",
        rich_help_panel=flags.OUTPUT,
    ),
]


def sample(
    model: _Model = "digits",
    label: _Label = "all",
    prompt: _Prompt = None,
    negative: _Negative = None,
    guidance: _Guidance = None,
    size: _Size = None,
    bandwidth: _Bandwidth = None,
    schedule: _Schedule = None,
    eta: _Eta = None,
    t_start: flags.TStart = None,
    t_end: flags.TEnd = None,
    solver: _Solver = "dpm++2m",
    steps: _Steps = None,
    spacing: flags.Spacing = None,
    terminal: _Terminal = None,
    max_evaluations: _MaxEvaluations = None,
    n: _Count = None,
    seed: flags.Seed = 0,
    dtype: flags.Dtype = "float32",
    batch_size: _BatchSize = None,
    shard: _Shard = 1024,
    threads: flags.Threads = 1,
    progress: flags.Progress = True,
    out: _Out = Path("samples.png"),
) -> None:
    """Sample a target whose denoiser is known exactly, or a trained network, and write a picture, the numbers, or both
    by the thousand. A pipeline of diffusers that save_pretrained() wrote to a folder makes images, from text or a
    class.

    Solvers of the ODE run on the probability flow, solvers of the SDE on the reverse SDE. The same seed gives the same
    samples, whatever the batch size. Into a folder go files of --shard samples; a run that is cut off and called again
    goes on, and under `torchrun` processes split it.

    Examples:

        scorediff sample --solver dpm++2m --steps 12
        scorediff sample --model fashion-unet --label sneaker --guidance 2 --solver unipc-3 --steps 10
        scorediff sample --solver ddim --eta 0.5 --steps 50 --n 100
        scorediff sample --solver rk45:rtol=1e-4 --schedule edm --out edm.npz
        scorediff sample --model run/model.safetensors --n 50000 --batch-size 256 --out samples/
        scorediff sample --model stable-diffusion/ --prompt "a cat" --guidance 7.5 --steps 20 --n 1 --out cat.png
    """
    import scorediff as sd
    from scorediff.cli.subjects import Asked, subject_for
    from scorediff.solvers.solve import problem_for

    folder = out.suffix == "" or out.is_dir()
    path = out if folder else options.output(out, (".png", ".npz"))
    chosen = options.parse_solver(solver)
    subject = subject_for(Asked(model, bandwidth, schedule, prompt, negative, guidance, size))
    labels = subject.label(label)
    if folder and subject.decode is not None:
        raise ValueError(f"--out {out}: images of a pipeline go to one file; end its name in .png or .npz")
    count = n or subject.count
    problem = problem_for(subject.denoiser, chosen, eta)
    how: dict[str, Any] = {
        "steps": _steps(chosen, steps),
        "spacing": options.parse_spacing(spacing),
        "t_start": t_start,
        "t_end": t_end,
        "max_evaluations": max_evaluations,
        "terminal": options.terminal_named(terminal or subject.terminal),
        "dtype": options.dtype_named(dtype),
        "batch_size": batch_size,
    }
    with options.threads(threads):
        if folder:
            settings = (
                {"label": label} if subject.target else {"label": label, "batch": batch_size or 256, "threads": threads}
            )
            _into(options.folder(path), problem, chosen, subject, labels, settings, count, shard, seed, progress, how)
            return
        classes = None if labels is None else labels(range(count))
        cond = subject.conditions(count) | ({} if classes is None else {subject.labelled: classes})
        shape = (count, *subject.shape)
        solution = sd.sample(problem, shape, chosen, seed=seed, cond=cond, progress=progress, **how).check()
        samples = solution.x if subject.decode is None else _decoded(subject.decode, solution.x, batch_size)
    words = f"{chosen.name}, {solution.evaluations.mean():.4g} evaluations"
    _write(path, subject, samples, solution, words, classes)
    print(f"{out}: {count} samples by {words} each")


def _into(
    path: Path,
    problem: Any,
    solver: "Solver",
    subject: "Subject",
    labels: Any,
    settings: dict[str, Any],
    n: int,
    shard: int,
    seed: int,
    progress: bool,
    how: dict[str, Any],
) -> None:
    """The part of this process in files of samples; `torchrun` says which it is. `settings` join the manifest: what a
    network's last digits depend on is the same when a run goes on.
    """
    from scorediff.lab.shards import batch_rounding, sample_shards

    rank, parts = options.process()
    how["batch_size"] = how["batch_size"] or 256
    shards = sample_shards(
        problem,
        solver,
        subject.shape,
        path,
        n=n,
        size=shard,
        seed=seed,
        labels=labels,
        rank=rank,
        parts=parts,
        settings={**subject.said, **settings},
        progress=progress and rank == 0,
        **how,
    )
    if rank == 0:
        rounding = batch_rounding(problem, solver, shards, seed=seed, labels=labels, **how)
        left = len(shards.missing())
        others = f" ({left} files are still with other processes)" if left else ""
        print(f"{path}: {n} samples in {len(shards)} files{others}; the first two made alone differ by {rounding:.1e}")


def _steps(solver: "Solver", steps: int | None) -> int | None:
    if not solver.adaptive:
        return _STEPS if steps is None else steps
    if steps is not None:
        raise ValueError(
            f"{solver.name} chooses its own steps: drop --steps {steps}, set its tolerance as in "
            f"--solver '{solver.name}:rtol=1e-4'"
        )
    return None


def _decoded(decode: Callable[["Tensor"], "Tensor"], x: "Tensor", batch_size: int | None) -> "Tensor":
    import torch

    return torch.cat([decode(part) for part in x.split(batch_size or len(x))])


def _write(
    path: Path,
    subject: "Subject",
    samples: "Tensor",
    solution: "Solution",
    words: str,
    classes: "Tensor | None",
) -> None:
    import numpy as np

    from scorediff._core.files import write_whole
    from scorediff.lab.pictures import contact_sheet, scatter

    if path.suffix.lower() == ".npz":
        settings = np.array(json.dumps({**subject.said, **solution.settings}))
        arrays: dict[str, Any] = {
            "samples": samples.numpy(),
            "status": solution.status,
            "evaluations": solution.evaluations,
            "settings": settings,
        } | ({} if classes is None else {"labels": classes.numpy()})
        write_whole(path, lambda part: np.savez(part, **arrays))
    elif subject.decode is not None and len(samples) == 1:
        write_whole(path, lambda part: _one_image(part, samples[0]))
    elif len(subject.shape) == 3:
        contact_sheet(path, samples, ink=subject.decode is None, scale=max(64 // samples.shape[-1], 1))
    else:
        truth = None if subject.target is None else subject.target.sample(2000, seed=1)
        scatter(path, samples, truth=truth, title=words)


def _one_image(path: Path, image: "Tensor") -> None:
    """An image of shape (1 or 3, H, W) as it is, without a frame."""
    from matplotlib.image import imsave

    from scorediff.lab.data.arrays import to_pixels

    imsave(path, to_pixels(image.float()).permute(1, 2, 0).expand(-1, -1, 3).numpy())
