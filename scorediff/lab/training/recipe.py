"""Everything that decides what a training run makes of its data, as plain numbers."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from scorediff.lab.networks import Network, UNet
from scorediff.lab.training.ema import power
from scorediff.lab.training.times import ContinuousTimes, TrainingTimes
from scorediff.lab.training.weighting import SimpleWeighting, Weighting
from scorediff.predictions import NoisePrediction, Prediction
from scorediff.schedules import Schedule, VPLinear

__all__ = ["DATA", "Recipe"]

DATA, NETWORK, LEARNING, RUN = "What to learn", "What learns it", "How it learns", "The run"


def _option(default: Any, help: str, panel: str, **bounds: float) -> Any:
    """A field with what the command line says of it."""
    return dataclasses.field(default=default, metadata={"help": help, "panel": panel, **bounds})


@dataclass(frozen=True)
class Recipe:
    """DDPM's algorithm 1 (arXiv:2006.11239) for any schedule and prediction; the defaults learn small images on a CPU.

    What is learned. `schedule`: VP-linear, DDPM's, by default. `prediction`: what the network outputs; the noise, as in
    DDPM. `network`: what is built, a small U-Net. `times`: where the loss is taken; everywhere, so that any grid may be
    run on it later. `weighting`: of the loss over times; that of DDPM's L_simple.

    How. `steps` of the optimizer, of `batch` samples each: minutes for small images. `lr`: AdamW's learning rate, which
    rises over the first `warmup` steps and falls to 0 over the fraction `cooldown` of the last ones. `clip`: gradients
    longer than that are cut. `weight_decay`: AdamW's, none by default, since the average over steps regularizes.
    `average`: the width of that average, as a fraction of the run (see `PowerAverage`); 0.1, the middle of what EDM2
    found good. `precision`: "no" (float32), "bf16" or "fp16".

    Of what. `drop_labels`: the fraction of samples whose label is withheld, for classifier-free guidance; 0.1, as in
    its paper (arXiv:2207.12598). `flip`: whether half of all images are mirrored; not by default, since digits have a
    side. `held_out`: so many samples are kept aside for the held-out loss. `seed`: all that is drawn follows from it.

    Raises ValueError for numbers that cannot be.
    """

    schedule: Schedule = _option(VPLinear(), "Noise schedule; see 'scorediff solvers'.", NETWORK)
    prediction: Prediction = _option(NoisePrediction(), "noise, data, v, score, flow, edm:data_std=0.5.", NETWORK)
    network: Network = _option(UNet(), "unet:width=32,blocks=2,patch=1, mlp:width=128, diffusers-unet.", NETWORK)
    times: TrainingTimes = _option(
        ContinuousTimes(),
        "Times to train at: continuous, discrete:count=1000, log-normal, logit-normal, log-snr.",
        LEARNING,
    )
    weighting: Weighting = _option(SimpleWeighting(), "simple, min-snr:gamma=5, likelihood, output.", LEARNING)
    steps: int = _option(10_000, "Steps of the optimizer.", LEARNING, min=1)
    batch: int = _option(64, "Samples a step.", LEARNING, min=1)
    lr: float = _option(1e-3, "Learning rate of AdamW.", LEARNING)
    warmup: int = _option(200, "Steps until it is reached.", LEARNING, min=0)
    cooldown: float = _option(0.3, "Fraction of the steps in which it falls to 0.", LEARNING, min=0, max=1)
    clip: float = _option(1.0, "Longest gradient.", LEARNING)
    weight_decay: float = _option(0.0, "Weight decay of AdamW.", LEARNING, min=0)
    drop_labels: float = _option(0.1, "Fraction of labels withheld, for guidance.", DATA, min=0, max=1)
    flip: bool = _option(False, "Mirror half of all images.", DATA)
    average: float = _option(0.1, "Width of the average over steps, a fraction of the run.", LEARNING)
    held_out: int = _option(256, "Samples kept aside for the held-out loss.", DATA, min=1)
    precision: str = _option("no", "no, bf16 or fp16.", LEARNING)
    seed: int = _option(0, "Seed of weights, batches, times and noise.", RUN, min=0)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least, most = getattr(self, field.name), field.metadata.get("min", 0), field.metadata.get("max")
            if field.type is int and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{field.name} = {value!r}: a whole number from {least} on")
            if most is not None and not least <= value <= most:
                raise ValueError(f"{field.name} = {value!r}: a fraction from {least} to {most}")
        if self.seed >= 2**63:
            raise ValueError(f"seed = {self.seed}: below 2^63")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)!r}: above 0 and finite")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay = {self.weight_decay!r}: 0 or more")
        power(self.average)
        if self.precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"precision = {self.precision!r}: 'no', 'bf16' or 'fp16'")

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        rise = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        last = self.cooldown * self.steps
        fall = min((self.steps - step) / last, 1.0) if last else 1.0
        return self.lr * rise * fall
