"""`scorediff train` and `scorediff average`."""

from pathlib import Path
from typing import Annotated

import typer

from scorediff.cli import flags, options

__all__ = ["average", "train"]

DATA, NETWORK, LEARNING, RUN = "What to learn", "What learns it", "How it learns", "The run"

_Out = Annotated[Path, typer.Option(help="The folder of the run; one that was cut off goes on.", rich_help_panel=RUN)]


def train(
    data: Annotated[
        str,
        typer.Option(
            help="digits, fashion-mnist, a folder of images or of idx files, an .npz or .npy file.",
            rich_help_panel=DATA,
        ),
    ],
    out: _Out,
    size: Annotated[
        int | None, typer.Option(min=1, help="Scale and cut the images of a folder to squares.", rich_help_panel=DATA)
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Read a folder's images as grey.", rich_help_panel=DATA)] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of all images.", rich_help_panel=DATA)] = False,
    drop_labels: Annotated[
        float, typer.Option(min=0, max=1, help="Share of labels withheld, for guidance.", rich_help_panel=DATA)
    ] = 0.1,
    held_out: Annotated[
        int, typer.Option(min=1, help="Samples kept aside for the held-out loss.", rich_help_panel=DATA)
    ] = 256,
    schedule: flags.Schedule = "vp-linear",
    prediction: Annotated[
        str, typer.Option(help="noise, data, v, score, flow, edm:data_std=0.5.", rich_help_panel=NETWORK)
    ] = "noise",
    network: Annotated[
        str,
        typer.Option(help="unet:width=32,blocks=2,patch=1, mlp:width=128, diffusers-unet.", rich_help_panel=NETWORK),
    ] = "unet",
    times: Annotated[
        str,
        typer.Option(
            help="Times to train at: continuous, discrete:count=1000, log-normal, logit-normal, log-snr.",
            rich_help_panel=LEARNING,
        ),
    ] = "continuous",
    weighting: Annotated[
        str, typer.Option(help="simple, min-snr:gamma=5, likelihood, output.", rich_help_panel=LEARNING)
    ] = "simple",
    steps: Annotated[int, typer.Option(min=1, rich_help_panel=LEARNING)] = 10_000,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step.", rich_help_panel=LEARNING)] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.", rich_help_panel=LEARNING)] = 1e-3,
    warmup: Annotated[int, typer.Option(min=0, help="Steps until it is reached.", rich_help_panel=LEARNING)] = 200,
    cooldown: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps in which it falls to 0.", rich_help_panel=LEARNING)
    ] = 0.3,
    clip: Annotated[float, typer.Option(help="Longest gradient.", rich_help_panel=LEARNING)] = 1.0,
    weight_decay: Annotated[float, typer.Option(min=0, rich_help_panel=LEARNING)] = 0.0,
    average: Annotated[
        float, typer.Option(help="Width of the average over steps, a share of the run.", rich_help_panel=LEARNING)
    ] = 0.1,
    precision: Annotated[str, typer.Option(help="no, bf16 or fp16.", rich_help_panel=LEARNING)] = "no",
    seed: flags.Seed = 0,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between states to go on from.", rich_help_panel=RUN)
    ] = 500,
    picture_every: Annotated[
        int, typer.Option(min=0, help="Steps between sheets of samples, 0 for none.", rich_help_panel=RUN)
    ] = 0,
    averages: Annotated[
        int, typer.Option(min=0, help="How often to keep what 'scorediff average' takes.", rich_help_panel=RUN)
    ] = 16,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave a GPU alone.", rich_help_panel=RUN)] = False,
    threads: flags.Threads = 1,
    progress: flags.Progress = True,
) -> None:
    """Train a network as a denoiser, DDPM's algorithm 1 for any schedule and prediction.

    Call it again after a kill and it goes on, to the same weights. Under `torchrun` or `accelerate launch` processes
    share each batch.

    Examples:

        scorediff train --data digits --out run --steps 2000
        scorediff train --data fashion-mnist --out run --network unet:patch=2 --prediction v
        torchrun --nproc-per-node 2 -m scorediff train --data photos --size 64 --out run
    """
    from scorediff._core import registry
    from scorediff.lab.data import load_data
    from scorediff.lab.networks import Network
    from scorediff.lab.training import Recipe, TrainingTimes, Weighting
    from scorediff.lab.training import train as run
    from scorediff.predictions import Prediction
    from scorediff.schedules import Schedule

    def parsed(base: type, text: str, suffix: str) -> object:
        name, colon, rest = text.partition(":")
        return registry.parse(base, f"{name.removesuffix(suffix)}{suffix}{colon}{rest}")

    recipe = Recipe(
        schedule=options.parse_schedule(schedule),
        prediction=parsed(Prediction, prediction, "-prediction"),  # type: ignore[arg-type]
        network=registry.parse(Network, network),  # type: ignore[type-abstract]
        times=parsed(TrainingTimes, times, "-times"),  # type: ignore[arg-type]
        weighting=parsed(Weighting, weighting, "-weighting"),  # type: ignore[arg-type]
        steps=steps,
        batch=batch,
        lr=lr,
        warmup=warmup,
        cooldown=cooldown,
        clip=clip,
        weight_decay=weight_decay,
        drop_labels=drop_labels,
        flip=flip,
        average=average,
        held_out=held_out,
        precision=precision,
        seed=seed,
    )
    try:
        registry.from_dict(Schedule, registry.to_dict(recipe.schedule))  # type: ignore[type-abstract]
    except ValueError:
        raise ValueError(
            f"--schedule {schedule}: functions are not written into a checkpoint; train in Python"
        ) from None
    samples = load_data(data, size=size, gray=gray, progress=progress)
    with options.threads(threads):
        made = run(
            samples,
            out,
            recipe,
            save_every=save_every,
            picture_every=picture_every,
            averages=averages,
            cpu=cpu,
            progress=progress,
        )
    if options.process()[0] == 0:
        print(f"{out / 'model.safetensors'}: {made.card['step']} steps in {made.card['seconds']:.0f} s")


def average(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.")],
    std: Annotated[float, typer.Option(help="Width of the average, a share of the run.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write, .safetensors.")],
    step: Annotated[int | None, typer.Option(help="Up to which step (default: the last one kept).")] = None,
) -> None:
    """Average the weights of a training run over another width, afterwards (arXiv:2312.02696).

    Example:

        scorediff average run --std 0.06 --out narrow.safetensors
    """
    from scorediff.lab.checkpoints import save
    from scorediff.lab.training import reconstruct

    path = options.output(out, (".safetensors",))
    save(path, reconstruct(run, std, step))
    print(f"{out}: the average of width {std:g}")
