"""Training a network as a denoiser: what is drawn, how errors weigh, what is averaged, and the run itself."""

from scorediff.lab.training.ema import PowerAverage, reconstruct
from scorediff.lab.training.loop import TrainingError, train
from scorediff.lab.training.recipe import Recipe
from scorediff.lab.training.times import (
    ContinuousTimes,
    DiscreteTimes,
    LogitNormalTimes,
    LogNormalTimes,
    LogSNRTimes,
    TrainingTimes,
)
from scorediff.lab.training.weighting import (
    LikelihoodWeighting,
    MinSNRWeighting,
    OutputWeighting,
    SimpleWeighting,
    Weighting,
)

__all__ = [
    "ContinuousTimes",
    "DiscreteTimes",
    "LikelihoodWeighting",
    "LogNormalTimes",
    "LogSNRTimes",
    "LogitNormalTimes",
    "MinSNRWeighting",
    "OutputWeighting",
    "PowerAverage",
    "Recipe",
    "SimpleWeighting",
    "TrainingError",
    "TrainingTimes",
    "Weighting",
    "reconstruct",
    "train",
]
