"""Third-party back ends: other libraries' solvers, one file each, imported on first use."""

from scorediff.backends.scipy import SciPy
from scorediff.backends.torchdiffeq import (
    TorchDiffEq,
    TorchDiffEqAdamsBashforth,
    TorchDiffEqAdamsMoulton,
    TorchDiffEqFixed,
    TorchDiffEqSciPy,
)
from scorediff.backends.torchsde import TorchSDE

__all__ = [
    "SciPy",
    "TorchDiffEq",
    "TorchDiffEqAdamsBashforth",
    "TorchDiffEqAdamsMoulton",
    "TorchDiffEqFixed",
    "TorchDiffEqSciPy",
    "TorchSDE",
]
