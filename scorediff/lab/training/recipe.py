"""Everything that decides what a training run makes of its data, as plain numbers."""

from dataclasses import dataclass

from scorediff.lab.networks import Network, UNet
from scorediff.lab.training.ema import power
from scorediff.lab.training.times import ContinuousTimes, TrainingTimes
from scorediff.lab.training.weighting import SimpleWeighting, Weighting
from scorediff.predictions import NoisePrediction, Prediction
from scorediff.schedules import Schedule, VPLinear

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """DDPM's algorithm 1 (arXiv:2006.11239) for any schedule and prediction.

    `steps` of `batch` samples. AdamW at the learning rate `lr`, which rises over the first `warmup` steps and falls
    to 0 over the share `cooldown` of the last ones; gradients longer than `clip` are cut. `drop_labels` is the share of
    samples whose label is withheld, for classifier-free guidance; `flip` mirrors half of all images. `average` is the
    width, as a share of the run, of the average over steps that is kept (see `PowerAverage`). `held_out` samples are
    kept aside for the held-out loss. `precision` is "no", "bf16" or "fp16". All that is drawn follows from `seed`.

    Raises ValueError for numbers that cannot be.
    """

    schedule: Schedule = VPLinear()
    prediction: Prediction = NoisePrediction()
    network: Network = UNet()
    times: TrainingTimes = ContinuousTimes()
    weighting: Weighting = SimpleWeighting()
    steps: int = 10_000
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.3
    clip: float = 1.0
    weight_decay: float = 0.0
    drop_labels: float = 0.1
    flip: bool = False
    average: float = 0.1
    held_out: int = 256
    precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("held_out", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} = {value!r}: a whole number from {least} on")
        if self.seed >= 2**63:
            raise ValueError(f"seed = {self.seed}: below 2^63")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)!r}: above 0 and finite")
        for name in ("cooldown", "drop_labels"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)!r}: a share from 0 to 1")
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
