"""`scorediff train` and `scorediff average`."""

from pathlib import Path
from typing import Annotated

import typer

from scorediff.cli import flags, options
from scorediff.cli.fields import with_options_of
from scorediff.lab.training.recipe import DATA, Recipe

__all__ = ["average", "train"]

RUN = "The run"

_Out = Annotated[
    Path,
    typer.Option(parser=flags.place, help="The folder of the run; one that was cut off goes on.", rich_help_panel=RUN),
]


@with_options_of(Recipe, "recipe")
def train(
    *,
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
    recipe: Recipe,
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
    from scorediff.lab.training import train as run
    from scorediff.schedules import Schedule

    try:
        registry.from_dict(Schedule, registry.to_dict(recipe.schedule))  # type: ignore[type-abstract]
    except ValueError:
        raise ValueError(
            f"--schedule {registry.name_of(recipe.schedule)}: functions are not written into a checkpoint; train in "
            "Python"
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
    run: Annotated[Path, typer.Argument(parser=flags.place, help="The folder of a training run.")],
    std: Annotated[float, typer.Option(help="Width of the average, a share of the run.")],
    out: Annotated[Path, typer.Option(parser=flags.place, help="The checkpoint to write, .safetensors.")],
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
