"""Denoisers with a known truth: Gaussian, Gaussian mixture, and a data set's own law."""

from scorediff.exact.empirical import Empirical
from scorediff.exact.mixture import GaussianMixture
from scorediff.exact.parameters import Spectrum
from scorediff.exact.targets import ExactDenoiser, Gaussian, Target

__all__ = ["Empirical", "ExactDenoiser", "Gaussian", "GaussianMixture", "Spectrum", "Target"]
