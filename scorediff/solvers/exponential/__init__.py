"""Exponential integrators, whose linear part is exact: the DDPM, DDIM, DPM-Solver, UniPC, DEIS and SA-Solver families.

Numbers are data: a family states the coefficients of every step of a grid, on the host; `engine` applies them.
"""

from scorediff.solvers.exponential.adams import (
    DEIS,
    LMS,
    ExponentialAdamsBashforth,
    ExponentialAdamsMoulton,
    ExponentialAdamsPECE,
    SASolver,
)
from scorediff.solvers.exponential.dpm_solver import DPMSolver, DPMSolverPP, SDEDPMSolver, SDEDPMSolverPP
from scorediff.solvers.exponential.er_sde import ERSDE, ERNoise
from scorediff.solvers.exponential.first_order import DDIM, DDPM, DDPMLargeVariance
from scorediff.solvers.exponential.forms import DataForm, Form, NoiseForm
from scorediff.solvers.exponential.pndm import PNDM
from scorediff.solvers.exponential.runge_kutta import (
    DPM2,
    ETD3RK,
    RES,
    CoxMatthews,
    DPMSolverSinglestep,
    ExpRK5s8,
    HochbruckOstermann,
    Krogstad,
    StrehmelWeiner,
)
from scorediff.solvers.exponential.seeds import SEEDS, SDEDPMSolverPPSinglestep
from scorediff.solvers.exponential.starts import PseudoRungeKutta, Ramp, RungeKutta, Start, Substeps
from scorediff.solvers.exponential.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "DPM2",
    "ERSDE",
    "ETD3RK",
    "LMS",
    "PNDM",
    "RES",
    "SEEDS",
    "CoxMatthews",
    "DDPMLargeVariance",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverSinglestep",
    "DataForm",
    "ERNoise",
    "ExpRK5s8",
    "ExponentialAdamsBashforth",
    "ExponentialAdamsMoulton",
    "ExponentialAdamsPECE",
    "Form",
    "HochbruckOstermann",
    "Krogstad",
    "NoiseForm",
    "PseudoRungeKutta",
    "Ramp",
    "RungeKutta",
    "SASolver",
    "SDEDPMSolver",
    "SDEDPMSolverPP",
    "SDEDPMSolverPPSinglestep",
    "Start",
    "StrehmelWeiner",
    "Substeps",
    "UniPC",
]
