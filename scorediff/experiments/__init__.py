"""The classic experiments, on a trained network: each returns a table and draws a picture."""

from scorediff.experiments.interpolation import consistency, interpolation
from scorediff.experiments.quality import quality
from scorediff.experiments.reconstruction import reconstruction
from scorediff.experiments.splitting import splitting
from scorediff.experiments.switching import switching
from scorediff.experiments.table import Experiment

__all__ = [
    "Experiment",
    "consistency",
    "interpolation",
    "quality",
    "reconstruction",
    "splitting",
    "switching",
]
