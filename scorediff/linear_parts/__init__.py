"""What an exponential integrator takes out exactly, on the flow and on the reverse SDE."""

from scorediff.linear_parts.base import IsotropicPart, LinearPart
from scorediff.linear_parts.forms import DataPart, NoisePart
from scorediff.linear_parts.gaussian import GaussianPart
from scorediff.linear_parts.kernels import ExponentialKernel, Kernel, VarianceKernel, phi
from scorediff.linear_parts.level import NoiseLevel
from scorediff.linear_parts.preconditioned import Preconditioned

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
