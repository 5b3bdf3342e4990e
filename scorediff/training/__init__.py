"""Training a network as a denoiser: what is drawn, what a mistake costs, what is averaged, and the run that does it."""

from scorediff.training.ema import PowerAverage, reconstruct
from scorediff.training.loop import TrainingError, train
from scorediff.training.recipe import Recipe
from scorediff.training.times import (
    ContinuousTimes,
    DiscreteTimes,
    LogitNormalTimes,
    LogNormalTimes,
    LogSNRTimes,
    TrainingTimes,
)
from scorediff.training.weighting import (
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
