"""Every diffusion sampler is an ODE or SDE solver: this library says which one, runs it, and knows its order.

What most programs need is here. The rest lies in namespaces: `schedules`, `predictions` and `guidance` make denoisers,
`solvers` and `backends` carry them along the times that `spacings` make, with `noise`, in `coordinates` or after taking
out `linear_parts`; `targets` are denoisers with a known truth, `verify` and `study` measure solvers on them; `interop`
takes networks of other libraries, and `lab` trains, loads and looks at yours.

>>> digits = load("digits-unet")
>>> sample(digits.denoiser, (4, *digits.shape), "unipc-3", evaluations=12)
Solution by unipc-3: 4 samples of shape (1, 8, 8), torch.float32, all arrived
  evaluations: 12 each; 12 calls
  error, estimated: none
"""

import importlib
from typing import TYPE_CHECKING, Any

from scorediff import coordinates, guidance, linear_parts, noise, predictions, schedules, solvers, spacings, targets
from scorediff._core.conditions import shared
from scorediff.denoiser import Denoiser, DenoiserBase
from scorediff.guidance import ClassifierFree
from scorediff.predictions import DataPrediction, EDMPrediction, FlowPrediction, NoisePrediction, VPrediction
from scorediff.problems import ProbabilityFlow, ReverseSDE
from scorediff.sampling import add_noise, encode, prior, sample
from scorediff.schedules import EDM, VE, RectifiedFlow, VPCosine, VPDiscrete, VPLinear
from scorediff.solvers import (
    DDIM,
    DDPM,
    RK45,
    AdaptiveSolver,
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
    solve,
)
from scorediff.spacings import Grid

if TYPE_CHECKING:
    from scorediff import backends, interop, lab, study, verify
    from scorediff.lab.checkpoints import load

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "RK45",
    "VE",
    "AdaptiveSolver",
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
    "shared",
    "solve",
    "solvers",
    "spacings",
    "study",
    "targets",
    "verify",
]

#: What a sampling run can do without is imported when it is asked for.
_LATER = {name: f"scorediff.{name}" for name in ("backends", "interop", "lab", "study", "verify")}


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("scorediff.lab.checkpoints").load
    if name in _LATER:
        return importlib.import_module(_LATER[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
