"""How far samples are from data, each number with its sampling error."""

from scorediff.lab.metrics.clip import clip_score
from scorediff.lab.metrics.distances import (
    frechet_distance,
    kernel_distance,
    precision_and_recall,
    sliced_wasserstein,
)
from scorediff.lab.metrics.estimate import Estimate
from scorediff.lab.metrics.features import (
    Classifier,
    Extractor,
    classifier,
    features,
    fit_classifier,
    inception,
    save_classifier,
)

__all__ = [
    "Classifier",
    "Estimate",
    "Extractor",
    "classifier",
    "clip_score",
    "features",
    "fit_classifier",
    "frechet_distance",
    "inception",
    "kernel_distance",
    "precision_and_recall",
    "save_classifier",
    "sliced_wasserstein",
]
