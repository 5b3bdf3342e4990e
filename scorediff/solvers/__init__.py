"""Solvers: each is a frozen dataclass whose `run` yields states."""

from scorediff.solvers.adaptive import RK45
from scorediff.solvers.base import Exact, Solver, Status, Step
from scorediff.solvers.exponential import (
    DDIM,
    DDPM,
    DDPMLargeVariance,
    DPMSolver,
    DPMSolverPP,
    SDEDPMSolver,
    SDEDPMSolverPP,
)
from scorediff.solvers.runge_kutta import RK4, Euler, Heun
from scorediff.solvers.solution import Solution, SolverError
from scorediff.solvers.solve import solve
from scorediff.solvers.stochastic import EulerMaruyama, StochasticHeun
from scorediff.solvers.terminal import Denoise, HalfStep, Terminal

__all__ = [
    "DDIM",
    "DDPM",
    "RK4",
    "RK45",
    "DDPMLargeVariance",
    "DPMSolver",
    "DPMSolverPP",
    "Denoise",
    "Euler",
    "EulerMaruyama",
    "Exact",
    "HalfStep",
    "Heun",
    "SDEDPMSolver",
    "SDEDPMSolverPP",
    "Solution",
    "Solver",
    "SolverError",
    "Status",
    "Step",
    "StochasticHeun",
    "Terminal",
    "solve",
]
