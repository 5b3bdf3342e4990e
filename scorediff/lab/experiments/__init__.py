"""The classic experiments, on a trained network: each returns a table and draws a picture."""

from scorediff.lab.experiments.interpolation import consistency, interpolation
from scorediff.lab.experiments.quality import quality
from scorediff.lab.experiments.reconstruction import reconstruction
from scorediff.lab.experiments.splitting import splitting
from scorediff.lab.experiments.switching import switching
from scorediff.lab.experiments.table import Experiment

__all__ = [
    "Experiment",
    "consistency",
    "interpolation",
    "quality",
    "reconstruction",
    "splitting",
    "switching",
]
