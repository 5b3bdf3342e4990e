"""Networks saved as programs, by TorchScript or torch.export, as denoisers."""

import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorediff.denoiser import Denoiser
from scorediff.denoiser.network import TimeMap
from scorediff.interop.wrapping import Wrapped
from scorediff.predictions import Prediction
from scorediff.schedules import Schedule

__all__ = ["from_exported"]

Place = torch.device | str | None


def from_exported(
    program: Any,
    schedule: Schedule | str,
    prediction: Prediction | str,
    *,
    time: TimeMap | None = None,
    device: Place = None,
) -> Denoiser:
    """A program `(x, t, **cond) -> output` as a denoiser: TorchScript's or torch.export's, or the path of a file of
    either.

    `x` and the output of shape (B, ...), `t` of shape (B,); `schedule`, `prediction` and `time` are those of
    `Denoiser`. A file is read to the CPU and what is given stays where it is, unless `device` says otherwise. Adaptive
    solvers shrink the batch: export with a dynamic one. A plain pickle is refused, and not read; but a program is code
    as well, and torch unpickles parts of a `.pt2` file: load only what you trust.

    Raises FileNotFoundError without the file, ValueError for one that holds neither, TypeError for another object, and
    ValueError when the program is called with a batch that it was not exported for.

    >>> import torch
    >>> class Half(torch.nn.Module):
    ...     def forward(self, x, t):
    ...         return t[:, None] * x
    >>> free = {0: torch.export.Dim("batch")}
    >>> program = torch.export.export(Half(), (torch.ones(2, 1), torch.ones(2)), dynamic_shapes=(free, free))
    >>> model, x = from_exported(program, "rectified-flow", "noise"), torch.ones(3, 1)
    >>> data, noise = model(0.5, x)    # eps = x / 2, and x = x0 / 2 + eps / 2
    >>> float(data[0]), float(noise[0])
    (1.5, 0.5)
    """
    if isinstance(program, str | Path):
        path, device = Path(program), "cpu" if device is None else device
        program = _reader(path)(path, device)
    net = _module(program, device)
    if isinstance(net, torch.fx.GraphModule):
        net = Wrapped(net, partial(_checked, _exported_for(net)))
    return Denoiser(net, schedule, prediction, time=time)


def _module(program: Any, device: Place) -> nn.Module:
    from torch.export import ExportedProgram
    from torch.export.passes import move_to_device_pass

    if isinstance(program, ExportedProgram):
        # not module().to(device): tensors made inside the program stay on the device that it was exported on
        return (program if device is None else move_to_device_pass(program, device)).module()
    if isinstance(program, torch.jit.ScriptModule | torch.fx.GraphModule):
        return program if device is None else program.to(device)
    raise TypeError(
        f"{type(program).__name__} is neither a TorchScript module nor an exported program, nor the path of either: "
        "wrap a module in Denoiser(net, schedule, prediction)"
    )


def _reader(path: Path) -> Callable[[Path, Place], Any]:
    """What reads the file, by the names inside it. Raises ValueError where nothing here does."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise _refused(path, "a pickle, or no archive at all")
    with zipfile.ZipFile(path) as archive:
        # all lie in one folder, named after the file
        names = {name.partition("/")[2] for name in archive.namelist()}
    if any(name.startswith("data/aotinductor/") for name in names):
        raise ValueError(
            f"{path} holds machine code: load it by torch._inductor.aoti_load_package and give it to Denoiser()"
        )
    if "archive_format" in names and any(name.startswith("models/") for name in names):
        return _read_exported
    if "constants.pkl" in names:  # beside data.pkl, which a file of torch.save has too
        return _read_script
    raise _refused(path, "a pickle" if "data.pkl" in names else "some other archive")


def _refused(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is neither TorchScript nor a program of torch.export but {what}. A pickle may run any code when it is "
        "read, so it is not read here: if you trust it, load it yourself and give its module to Denoiser(net, "
        "schedule, prediction); safetensors hold weights without code"
    )


def _read_exported(path: Path, device: Place) -> Any:
    with path.open("rb") as file:  # by its path, torch minds another suffix than .pt2
        return torch.export.load(file)


def _read_script(path: Path, device: Place) -> nn.Module:
    with warnings.catch_warnings():
        # in favour of torch.export: for who writes such files, not for who has one
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        return torch.jit.load(str(path), map_location=device).eval()


def _exported_for(program: torch.fx.GraphModule) -> Sequence[int | None] | None:
    """The shape of the first input, None for a side that is free; None for a program that does not say."""
    first = next((node for node in program.graph.nodes if node.op == "placeholder"), None)
    value = None if first is None else first.meta.get("val")
    return [n if isinstance(n, int) else None for n in value.shape] if isinstance(value, Tensor) else None


def _checked(shape: Sequence[int | None] | None, program: nn.Module, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
    fits = shape is None or (len(shape) == x.ndim and all(n in (None, m) for n, m in zip(shape, x.shape, strict=True)))
    if not fits:
        sides = ", ".join("any" if n is None else str(n) for n in shape or ())
        raise ValueError(_misfit(x, f"it takes ({sides})"))
    try:
        return program(x, t, **cond)
    except AssertionError as guard:  # of a side that is free within bounds
        raise ValueError(_misfit(x, str(guard))) from guard


def _misfit(x: Tensor, why: str) -> str:
    return (
        f"the exported program was called with a state of shape {tuple(x.shape)}: {why}. Adaptive solvers shrink the "
        "batch; export it with a dynamic one, dynamic_shapes=({0: Dim('batch')}, {0: Dim('batch')})"
    )
