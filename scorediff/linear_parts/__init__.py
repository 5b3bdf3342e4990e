"""What an exponential integrator takes out exactly, on the flow and on the reverse SDE."""

from scorediff.linear_parts.base import IsotropicPart, LinearPart, NoiseLevel
from scorediff.linear_parts.forms import DataPart, ExponentialKernel, NoisePart
from scorediff.linear_parts.gaussian import GaussianPart
from scorediff.linear_parts.phi import Kernel, phi
from scorediff.linear_parts.preconditioned import Preconditioned, VarianceKernel

__all__ = [
    "DataPart",
    "ExponentialKernel",
    "GaussianPart",
    "IsotropicPart",
    "Kernel",
    "LinearPart",
    "NoiseLevel",
    "NoisePart",
    "Preconditioned",
    "VarianceKernel",
    "phi",
]
