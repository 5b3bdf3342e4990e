"""Every diffusion sampler is an ODE or SDE solver: this library says which one, runs it, and knows its order."""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scorediff import (
        backends,
        coordinates,
        guidance,
        interop,
        lab,
        linear_parts,
        noise,
        predictions,
        schedules,
        solvers,
        spacings,
        study,
        targets,
        verify,
    )
    from scorediff.denoiser import Denoiser, DenoiserBase
    from scorediff.guidance import ClassifierFree
    from scorediff.lab.checkpoints import load
    from scorediff.predictions import DataPrediction, EDMPrediction, FlowPrediction, NoisePrediction, VPrediction
    from scorediff.problems import ProbabilityFlow, ReverseSDE
    from scorediff.sampling import add_noise, encode, prior, sample
    from scorediff.schedules import EDM, VE, RectifiedFlow, VPCosine, VPDiscrete, VPLinear
    from scorediff.solvers import (
        DDIM,
        DDPM,
        RK45,
        DPMSolverPP,
        ExponentialAdams,
        Heun,
        SDEDPMSolverPP,
        Solution,
        Solver,
        SolverError,
        Status,
        Step,
        UniPC,
    )
    from scorediff.solvers.solve import solve
    from scorediff.spacings import Grid

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "RK45",
    "VE",
    "ClassifierFree",
    "DPMSolverPP",
    "DataPrediction",
    "Denoiser",
    "DenoiserBase",
    "EDMPrediction",
    "ExponentialAdams",
    "FlowPrediction",
    "Grid",
    "Heun",
    "NoisePrediction",
    "ProbabilityFlow",
    "RectifiedFlow",
    "ReverseSDE",
    "SDEDPMSolverPP",
    "Solution",
    "Solver",
    "SolverError",
    "Status",
    "Step",
    "UniPC",
    "VPCosine",
    "VPDiscrete",
    "VPLinear",
    "VPrediction",
    "add_noise",
    "backends",
    "coordinates",
    "encode",
    "guidance",
    "interop",
    "lab",
    "linear_parts",
    "load",
    "noise",
    "predictions",
    "prior",
    "sample",
    "schedules",
    "solve",
    "solvers",
    "spacings",
    "study",
    "targets",
    "verify",
]

# Every name is imported when it is first asked for. Where the names are that are not modules themselves, those first
# that import least:
_HOMES = (
    "schedules",
    "predictions",
    "denoiser",
    "problems",
    "spacings",
    "guidance",
    "solvers",
    "sampling",
    "lab.checkpoints",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec(f"scorediff.{name}") is not None:
        return importlib.import_module(f"scorediff.{name}")
    homes = (importlib.import_module(f"scorediff.{home}") for home in _HOMES)
    found = globals()[name] = getattr(next(home for home in homes if name in home.__all__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
