"""Standard normals as a pure function of (seed, sample id, interval, tag)."""

from scorediff.noise.base import Noise
from scorediff.noise.brownian import BrownianPath
from scorediff.noise.independent import IndependentNoise, start_noise

__all__ = ["BrownianPath", "IndependentNoise", "Noise", "start_noise"]
