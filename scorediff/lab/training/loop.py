"""A training run, from where it was left to its end."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorediff._core import registry
from scorediff._core.files import in_full
from scorediff._core.progress import bar
from scorediff.denoiser import Denoiser
from scorediff.lab.checkpoints import Checkpoint, save
from scorediff.lab.data import Data
from scorediff.lab.training.batches import Batch, Batches
from scorediff.lab.training.ema import KEPT, PowerAverage
from scorediff.lab.training.loss import held_out_loss, losses, on
from scorediff.lab.training.recipe import Recipe
from scorediff.lab.training.run import Run, read_state

__all__ = ["TrainingError", "train"]

_LOG_EVERY = 50


class TrainingError(RuntimeError):
    """Training cannot go on: the message says at which step, and where to go on from."""


def train(
    data: Data,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    net: nn.Module | None = None,
    save_every: int = 500,
    picture_every: int = 0,
    averages: int = 16,
    cpu: bool = False,
    progress: bool = True,
    callback: Callable[[int, float], None] | None = None,
) -> Checkpoint:
    """Train a network on `data`, or go on where the run in the folder `out` was left; the checkpoint it makes.

    The network is the recipe's, or `net`, any module `(x, t, label=None)`. A run that is killed and called
    again with the same arguments gives the same weights, to the rounding of the device. Every `save_every` steps it
    writes what it would go on from, the checkpoint with the averaged weights so far, and the held-out loss; every
    `picture_every` steps a sheet of samples; `averages` times in the run what `reconstruct` makes averages of another
    width of. Under `torchrun` or `accelerate launch` the processes share each batch. Wants the extra `train`.

    `callback(step, loss)` is called after every step. Raises ValueError for a recipe that does not fit the data or the
    folder, TrainingError where the loss or its gradient is not a number.
    """
    recipe = recipe or Recipe()
    for name, value, least in (
        ("save_every", save_every, 1),
        ("picture_every", picture_every, 0),
        ("averages", averages, 0),
    ):
        if value < least:
            raise ValueError(f"{name} = {value}: {least} or more")
    if picture_every and (len(data.shape) != 3 or data.shape[0] not in (1, 3)):
        raise ValueError(
            f"picture_every = {picture_every}: samples of shape {data.shape} are not images of 1 or 3 channels"
        )
    with _accelerator(recipe, cpu) as accelerator, _own_randomness(accelerator.device):
        training = _Training(data, out, recipe, net, accelerator)
        try:
            return training.go(save_every, picture_every, averages, progress, callback)
        finally:
            training.close()


@contextmanager
def _accelerator(recipe: Recipe, cpu: bool) -> Iterator[Any]:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise ModuleNotFoundError("training wants accelerate: pip install 'scorediff[train]'") from error
    if recipe.precision == "fp16" and (cpu or not torch.cuda.is_available()):
        raise ValueError("precision = 'fp16' wants a GPU: take 'bf16' or 'no'")
    try:
        yield Accelerator(mixed_precision=recipe.precision, cpu=cpu)
    finally:
        # the next run in this process may want another precision or device; the group of many processes stays
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())


def _own_randomness(device: torch.device) -> Any:
    """torch's generators are as they were afterwards."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


class _Training:
    """One process's part of a run."""

    def __init__(self, data: Data, out: str | Path, recipe: Recipe, net: nn.Module | None, accelerator: Any) -> None:
        self.recipe, self.accelerator, self.main = recipe, accelerator, accelerator.is_main_process
        if recipe.flip and len(data.shape) != 3:
            raise ValueError(f"flip = True mirrors images, and the samples are of shape {data.shape}")
        rows, held_out = data.split(recipe.held_out, recipe.seed)
        self.data, self.held_out = data, data.take(held_out)
        config = {"recipe": registry.to_dict(recipe), "data": data.summary(), "net": _named(net)}
        torch.manual_seed(recipe.seed)
        self.classes = self.data.classes
        self.own = net if net is not None else recipe.network.build(self.data.shape, self.classes)
        if not any(p.requires_grad for p in self.own.parameters()):
            raise ValueError("no parameter of net asks for a gradient: net.requires_grad_(True) makes all of them")
        self.own.train()
        self.batches = Batches(data, recipe, accelerator.process_index, accelerator.num_processes, rows)
        self.batches.at(0)
        # the first process makes the folder and holds it, when all that can be refused has been; the others follow
        self.run = Run(out, config) if self.main else None
        accelerator.wait_for_everyone()
        self.folder = in_full(out)
        self.time = None if net is not None else recipe.network.time(recipe.schedule)
        self.network = None if net is not None else recipe.network
        optimizer = torch.optim.AdamW(
            self.own.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
        )
        self.plain = copy.deepcopy(self.own)  # accelerate makes the other cast what goes in and out
        self.net, self.optimizer = accelerator.prepare(self.own, optimizer)
        self.denoiser = Denoiser(self.net, recipe.schedule, recipe.prediction, time=self.time)
        self.kept = [PowerAverage(self.own.state_dict(), w) for w in sorted({recipe.average, *KEPT})]
        self.step, self.seconds, self.saved = 0, 0.0, 0
        self._resume()
        if self.run is not None:
            self.run.cut_log(self.step)

    def close(self) -> None:
        """Let others have the folder."""
        if self.run is not None:
            self.run.close()

    def go(self, save_every: int, picture_every: int, averages: int, progress: bool, callback: Any) -> Checkpoint:
        """Train to the end."""
        recipe, began, before = self.recipe, time.perf_counter(), self.seconds
        keep = {round(i * recipe.steps / averages) for i in range(1, averages + 1)}
        if self.run is not None and self.step == recipe.steps and not (self.folder / "model.safetensors").is_file():
            self._save(*self._held_out())
        shown = bar(progress and self.main, recipe.steps, unit="step", done=self.step, stays=True)
        with shown as steps, ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.batches.at, self.step)
            while self.step < recipe.steps:
                batch, coming = coming.result(), ahead.submit(self.batches.at, self.step + 1)
                loss, norm = self._advance(on(batch, self.accelerator.device))
                self.seconds = before + time.perf_counter() - began
                steps.advance()
                if callback is not None:
                    callback(self.step, loss)
                if self.run is None:
                    continue
                if self.step in keep:
                    self._keep_averages()
                last = self.step == recipe.steps
                if self.step % save_every == 0 or last:
                    mean, error = self._held_out()
                    self._log(loss, norm, held_out=mean, held_out_error=error)
                    self._save(mean, error)
                    steps.note(f"loss {loss:.3g}, held out {mean:.4g}")
                elif self.step % _LOG_EVERY == 0:
                    self._log(loss, norm)
                    steps.note(f"loss {loss:.3g}")
                if picture_every and (self.step % picture_every == 0 or last):
                    self._picture()
        self.accelerator.wait_for_everyone()
        return self._checkpoint()

    def _advance(self, batch: Batch) -> tuple[float, float]:
        """One step; the loss over all processes, and the length of the gradient."""
        recipe = self.recipe
        # for dropout, in each process another
        torch.manual_seed(((recipe.seed << 32) + (self.accelerator.process_index << 48) + self.step) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(self.step)
        with self.accelerator.autocast():
            loss = losses(self.denoiser, recipe, batch).mean()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.net.parameters(), recipe.clip)
        found = float(self.accelerator.reduce(loss.detach(), "mean"))
        # a scaler skips the steps whose gradients overflow by itself
        if not math.isfinite(found) or (self.accelerator.scaler is None and not math.isfinite(float(norm))):
            raise self._lost(f"the loss is {found} and its gradient {float(norm)} long at step {self.step + 1}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        state = self.own.state_dict()
        for mean in self.kept:
            mean.update(state, self.step)
        return found, float(norm)

    def _lost(self, what: str) -> TrainingError:
        kept = f"{self.folder} holds the state of step {self.saved}" if self.saved else "nothing was saved yet"
        lr = self.recipe.lr_at(self.step)
        return TrainingError(f"{what}; {kept}. Begin in a new folder with a lower lr (now {lr:.3g}) or clip")

    # what is kept

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"net/{name}": w for name, w in self.own.state_dict().items()}
        for mean in self.kept:
            found |= {f"average {mean.std}/{name}": w for name, w in mean.weights.items()}
        for i, kept in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer {i}/{name}": w for name, w in kept.items()}
        return {name: w.clone() for name, w in found.items()}

    def _save(self, held_out: float, error: float) -> None:
        assert self.run is not None
        if not math.isfinite(held_out):
            raise self._lost(f"the held-out loss is {held_out} after step {self.step}")
        scaler = None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        # the state last: what is made between the two is made again
        save(self.folder / "model.safetensors", self._checkpoint(held_out_loss=held_out, held_out_error=error))
        self.run.write_state(self._tensors(), {"step": self.step, "seconds": self.seconds, "scaler": scaler})
        self.saved = self.step

    def _resume(self) -> None:
        kept = read_state(self.folder, self.accelerator.device)
        if kept is None:
            return
        tensors, numbers = kept
        try:
            self.own.load_state_dict(_under(tensors, "net"))
        except RuntimeError as error:
            words = " ".join(str(error).split())
            raise ValueError(f"{self.folder} holds a run of another network than net: {words}") from error
        for mean in self.kept:
            found = _under(tensors, f"average {mean.std}")
            if {name: w.shape for name, w in found.items()} != {name: w.shape for name, w in mean.weights.items()}:
                raise ValueError(f"{self.folder} holds a run without the average of width {mean.std} of this network")
            mean.weights = found
        groups = self.optimizer.state_dict()["param_groups"]
        count = sum(len(group["params"]) for group in groups)
        state = {i: _under(tensors, f"optimizer {i}") for i in range(count)}
        self.optimizer.load_state_dict({"state": {i: s for i, s in state.items() if s}, "param_groups": groups})
        if numbers["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(numbers["scaler"])
        self.step = self.saved = numbers["step"]
        self.seconds = numbers["seconds"]

    def _keep_averages(self) -> None:
        assert self.run is not None
        tensors = {
            f"{m.std}/{n}": w.half()
            for m in self.kept
            if m.std in KEPT
            for n, w in m.weights.items()
            if w.is_floating_point()
        }
        self.run.write_tensors(f"averages-{self.step:08d}.safetensors", tensors, {"step": str(self.step)})

    def _averaged(self) -> nn.Module:
        """The network with the averaged weights that the recipe asks for."""
        net = copy.deepcopy(self.plain)
        net.load_state_dict(next(m for m in self.kept if m.std == self.recipe.average).weights)
        return net.to(self.accelerator.device).eval().requires_grad_(False)

    def _checkpoint(self, **measured: float) -> Checkpoint:
        recipe = self.recipe
        card = {
            "recipe": registry.to_dict(recipe),
            "data": self.held_out.title,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            **measured,
        }
        return Checkpoint(
            self._averaged(),
            recipe.schedule,
            recipe.prediction,
            self.data.shape,
            self.network,
            self.classes,
            self.data.names,
            card,
        )

    def _held_out(self) -> tuple[float, float]:
        return held_out_loss(self._checkpoint().denoiser, self.recipe, self.held_out)

    def _log(self, loss: float, norm: float, **more: float) -> None:
        assert self.run is not None
        lr = self.recipe.lr_at(self.step - 1)
        self.run.log(step=self.step, loss=loss, grad_norm=norm, lr=lr, seconds=self.seconds, **more)

    def _picture(self) -> None:
        from scorediff.lab import pictures
        from scorediff.problems import ProbabilityFlow
        from scorediff.sampling import sample
        from scorediff.solvers import DPMSolverPP

        n = 64
        cond = {"label": torch.arange(n, device=self.accelerator.device) % self.classes} if self.classes else {}
        flow = ProbabilityFlow(self._checkpoint().denoiser)
        found = sample(flow, (n, *self.data.shape), DPMSolverPP(2), steps=20, cond=cond, progress=False)
        pictures.save(found, self.folder / f"samples-{self.step:08d}.png")


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): w for key, w in tensors.items() if key.startswith(f"{name}/")}


def _named(net: nn.Module | None) -> str | None:
    return None if net is None else f"{type(net).__module__}.{type(net).__qualname__}"
