"""What an exponential integrator takes out exactly."""

from scorediff.linear_parts.base import LinearPart
from scorediff.linear_parts.gaussian import GaussianPart
from scorediff.linear_parts.isotropic import DataPart, NoisePart, Preconditioned

__all__ = ["DataPart", "GaussianPart", "LinearPart", "NoisePart", "Preconditioned"]
