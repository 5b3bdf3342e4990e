"""Denoisers with a known truth: Gaussian, Gaussian mixture, and the distribution of a data set."""

from scorediff.targets.empirical import Empirical
from scorediff.targets.mixture import GaussianMixture
from scorediff.targets.parameters import Spectrum
from scorediff.targets.targets import ExactDenoiser, Gaussian, Target

__all__ = ["Empirical", "ExactDenoiser", "Gaussian", "GaussianMixture", "Spectrum", "Target"]
