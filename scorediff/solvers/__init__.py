"""Solvers: each is a frozen dataclass whose `run` yields states."""

from scorediff.solvers.adaptive.adams import ExponentialAdams
from scorediff.solvers.adaptive.controller import Controller, IController, PIController, PIDController
from scorediff.solvers.adaptive.exponential_runge_kutta import ExponentialRungeKutta32, ExponentialRungeKutta43
from scorediff.solvers.adaptive.runge_kutta import RK23, RK45
from scorediff.solvers.adaptive.sde import AdaptiveSDE
from scorediff.solvers.base import AdaptiveSolver, Exact, Solver, Status, Step
from scorediff.solvers.composed.ancestral import Ancestral
from scorediff.solvers.composed.churn import Churn
from scorediff.solvers.composed.langevin import PredictorCorrector
from scorediff.solvers.composed.restart import Restart
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
from scorediff.solvers.exponential.etd import (
    ETD3RK,
    CoxMatthews,
    ExpRK5s8,
    HochbruckOstermann,
    Krogstad,
    StrehmelWeiner,
)
from scorediff.solvers.exponential.first_order import DDIM, DDPM, DDPMLargeVariance
from scorediff.solvers.exponential.pndm import PNDM
from scorediff.solvers.exponential.seeds import SEEDS, SDEDPMSolverPPSinglestep
from scorediff.solvers.exponential.singlestep import DPM2, RES, DPMSolverSinglestep
from scorediff.solvers.exponential.starts import (
    GradedStart,
    LowerOrderStart,
    PseudoRungeKuttaStart,
    RungeKuttaStart,
    StartingProcedure,
)
from scorediff.solvers.exponential.unipc import UniPC
from scorediff.solvers.gain import GainWarning
from scorediff.solvers.runge_kutta import RK2, RK4, Euler, Heun, Kutta3
from scorediff.solvers.solution import Solution, SolverError
from scorediff.solvers.solve import solve
from scorediff.solvers.stochastic import EulerMaruyama, StochasticHeun
from scorediff.solvers.terminal import Denoise, HalfStep, Terminal

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
    "RK2",
    "RK4",
    "RK23",
    "RK45",
    "SEEDS",
    "AdaptiveSDE",
    "AdaptiveSolver",
    "Ancestral",
    "Churn",
    "Controller",
    "CoxMatthews",
    "DDPMLargeVariance",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverSinglestep",
    "Denoise",
    "ERNoise",
    "Euler",
    "EulerMaruyama",
    "Exact",
    "ExpRK5s8",
    "ExponentialAdams",
    "ExponentialAdamsBashforth",
    "ExponentialAdamsMoulton",
    "ExponentialAdamsPECE",
    "ExponentialRungeKutta32",
    "ExponentialRungeKutta43",
    "GainWarning",
    "GradedStart",
    "HalfStep",
    "Heun",
    "HochbruckOstermann",
    "IController",
    "Krogstad",
    "Kutta3",
    "LowerOrderStart",
    "PIController",
    "PIDController",
    "PredictorCorrector",
    "PseudoRungeKuttaStart",
    "Restart",
    "RungeKuttaStart",
    "SASolver",
    "SDEDPMSolver",
    "SDEDPMSolverPP",
    "SDEDPMSolverPPSinglestep",
    "Solution",
    "Solver",
    "SolverError",
    "StartingProcedure",
    "Status",
    "Step",
    "StochasticHeun",
    "StrehmelWeiner",
    "Terminal",
    "UniPC",
    "solve",
]
