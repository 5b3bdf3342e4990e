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
    from scorediff._core.conditions import shared
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
    "_core.conditions",
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
    return sorted([*__all__, "__version__"])
