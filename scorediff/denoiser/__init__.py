"""Denoisers, the data and the noise in a noisy state: networks, what is made of them, and user-defined ones."""

from scorediff.denoiser.base import CallableDenoiser, DenoiserBase, Rescheduled, as_denoiser
from scorediff.denoiser.network import Denoiser
from scorediff.denoiser.output import ModelOutput, NetworkOutput, PairOutput

__all__ = [
    "CallableDenoiser",
    "Denoiser",
    "DenoiserBase",
    "ModelOutput",
    "NetworkOutput",
    "PairOutput",
    "Rescheduled",
    "as_denoiser",
]
