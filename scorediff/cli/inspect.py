"""`scorediff inspect`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from scorediff.cli import flags

if TYPE_CHECKING:
    from scorediff.lab.data import Data

__all__ = ["inspect"]

_Model = Annotated[
    str, typer.Argument(help="A network (digits-unet), a run's folder or its file, or the folder of a pipeline.")
]
_Data = Annotated[
    str | None,
    typer.Option(
        help="What it was trained on: digits, fashion-mnist, a folder of images, a file .npz or .npy. By default "
        "samples that it makes."
    ),
]
_Prompt = Annotated[str | None, typer.Option(help="The text for a pipeline that wants one.")]
_Count = Annotated[int, typer.Option("--n", min=2, help="How many samples.")]


def inspect(
    model: _Model,
    data: _Data = None,
    prompt: _Prompt = None,
    n: _Count = 16,
    seed: flags.Seed = 0,
    threads: flags.Threads = 1,
) -> int:
    """Look at a network: what it predicts, on which schedule, whether its outputs make sense; and a first guess where
    its prediction or the number that it gets for the time looks wrong. Exit code 1 where something does.

    A guess wants `--data`; on samples that it makes a network shows that something is wrong, but seldom what.

    Examples:

        scorediff inspect digits-unet --data digits
        scorediff inspect stable-diffusion/ --prompt "a photo" --data photos/
    """
    import torch

    from scorediff.cli import options
    from scorediff.cli.subjects import Asked, subject_for
    from scorediff.interop.inspection import inspect as looked_at

    subject = subject_for(Asked(model, prompt=prompt or ""))
    if subject.target is not None:
        raise ValueError(f"{model} is a target whose denoiser is exact: give a network, such as digits-unet")
    network = subject.denoiser
    while network.made_of:  # the network, not what guides it
        network = network.made_of[0]
    cond = {key: value for key, value in subject.conditions(n).items() if not key.startswith("negative_")}
    labels = subject.label("all" if subject.null is None else "none")
    if labels is not None:
        cond[subject.labelled] = labels(range(n))
    samples = None
    if data is not None:
        found = _brought(data, subject.pixels or subject.shape)
        rows = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:n]
        samples = subject.encode(found.batch(rows.numpy()))
    with options.threads(threads):
        report = looked_at(network, subject.shape, data=samples, cond=cond, n=n, seed=seed)
    print(f"model        {model}\n{report}")
    return 0 if report.ok else 1


def _brought(name: str, shape: Sequence[int]) -> "Data":
    """Data by name; a folder of images is brought to `shape`."""
    from scorediff._core.files import expanded
    from scorediff.lab.data import NAMED, load_data
    from scorediff.lab.data.idx import holds_idx

    path = expanded(name)
    if name in NAMED or not path.is_dir() or holds_idx(path) or len(shape) != 3:
        return load_data(name, progress=False)
    return load_data(name, size=shape[-1], gray=shape[0] == 1, progress=False)
