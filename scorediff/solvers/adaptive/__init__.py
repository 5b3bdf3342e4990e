"""Solvers that choose their own steps, for every sample apart."""

from scorediff.solvers.adaptive.adams import ExponentialAdams
from scorediff.solvers.adaptive.controller import Controller, check_budget, check_tolerance
from scorediff.solvers.adaptive.exponential_runge_kutta import ExponentialRungeKutta32, ExponentialRungeKutta43
from scorediff.solvers.adaptive.parts import DataPart, GaussianPart, LinearPart, NoisePart, Preconditioned
from scorediff.solvers.adaptive.runge_kutta import RK23, RK45
from scorediff.solvers.adaptive.sde import AdaptiveSDE

__all__ = [
    "RK23",
    "RK45",
    "AdaptiveSDE",
    "Controller",
    "DataPart",
    "ExponentialAdams",
    "ExponentialRungeKutta32",
    "ExponentialRungeKutta43",
    "GaussianPart",
    "LinearPart",
    "NoisePart",
    "Preconditioned",
    "check_budget",
    "check_tolerance",
]
