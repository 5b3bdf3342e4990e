"""Folders that `save_pretrained` of diffusers wrote, read without fetching anything or running code of theirs."""

import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = ["is_pipeline", "load_pipeline"]

_INDEX, _CONFIG, _SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def is_pipeline(folder: str | Path) -> bool:
    """Whether a pipeline lies in `folder`."""
    return (Path(folder).expanduser() / _INDEX).is_file()


def load_pipeline(folder: str | Path, dtype: torch.dtype) -> Any:
    """The pipeline in `folder`, or around the one model there; see `DiffusersPipeline.load`."""
    place = Path(folder).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    if is_pipeline(place):
        return _pipeline(place, dtype)
    if (place / _CONFIG).is_file():
        return _model(place, dtype)
    raise FileNotFoundError(f"{folder} holds neither {_INDEX}, of a pipeline, nor {_CONFIG}, of a model")


def _pipeline(place: Path, dtype: torch.dtype) -> Any:
    index = _read(place / _INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(f"{place / _INDEX} names no pipeline of diffusers: custom code is not run")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    # parts that were saved as nothing, such as a third text encoder, are to be given as nothing
    nothing = {name: None for name, (library, _) in parts.items() if library is None}
    for name in parts.keys() - nothing.keys():
        _refuse_pickles(place / name if (place / name).is_dir() else place)
    libraries = {"diffusers", *("transformers" for library, _ in parts.values() if library == "transformers")}
    with _reading(place, sorted(libraries)):
        pipe = importlib.import_module("diffusers").DiffusionPipeline.from_pretrained(
            place, **nothing, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def _model(place: Path, dtype: torch.dtype) -> Any:
    """A network of pixels with its scheduler, as the pipeline that consists of both."""
    name = _read(place / _CONFIG).get("_class_name")
    if name != "UNet2DModel":
        raise ValueError(
            f"{place} holds a {name} alone, without what stands around it: load it with diffusers, and give it to "
            "from_diffusers(model, scheduler)"
        )
    beside = (place, place / "scheduler", place.parent / "scheduler")
    said = next((folder for folder in beside if (folder / _SCHEDULER).is_file()), None)
    if said is None:
        raise FileNotFoundError(
            f"{place} has no {_SCHEDULER}, there or in scheduler/: what it was trained on is not known"
        )
    _refuse_pickles(place)
    with _reading(place, ["diffusers"]):
        diffusers = importlib.import_module("diffusers")
        scheduler = getattr(diffusers, _read(said / _SCHEDULER)["_class_name"]).from_pretrained(said)
        options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
        net = diffusers.UNet2DModel.from_pretrained(place, **options)
        return diffusers.DDPMPipeline(net.eval().requires_grad_(False), scheduler)


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path} is damaged: it holds no object")
    return said


def _refuse_pickles(place: Path) -> None:
    """Raise ValueError where weights are to be read from pickles, which may run any code."""
    names = sorted(path.name for path in place.iterdir())
    shards = [
        str(file)
        for name in names
        if name.endswith(".safetensors.index.json")
        for file in _read(place / name).get("weight_map", {}).values()
    ]
    pickles = [file for file in shards if not file.endswith(".safetensors")]
    if not any(name.endswith(".safetensors") for name in names):
        pickles += [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise ValueError(
            f"{place / pickles[0]} is a pickle, which may run any code when it is read, and no .safetensors is in its "
            "place: if you trust it, load it with diffusers yourself and save it anew, "
            "save_pretrained(folder, safe_serialization=True)"
        )


@contextmanager
def _reading(place: Path, libraries: list[str]) -> Iterator[None]:
    """The libraries imported and quiet, and what they raise named by the folder."""
    from safetensors import SafetensorError

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", FutureWarning)  # they deprecate arguments of each other's
        for name in libraries:
            stack.enter_context(_quiet(name))
        try:
            yield
        except (OSError, ValueError, RuntimeError, AttributeError, KeyError, TypeError, SafetensorError) as error:
            words = " ".join(str(error).split())
            raise ValueError(f"{place} cannot be loaded by diffusers: {words}") from error


@contextmanager
def _quiet(library: str) -> Iterator[None]:
    """Its bars and notes held back. Raises ModuleNotFoundError where it is not installed."""
    try:
        importlib.import_module(library)
        logging = importlib.import_module(f"{library}.utils.logging")
    except ImportError as error:
        raise ModuleNotFoundError(f"this folder wants {library}: pip install 'scorediff[interop]'") from error
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
