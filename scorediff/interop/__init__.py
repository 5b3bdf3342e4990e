"""Other people's networks as denoisers, and our solvers in their pipelines; a library is imported on first use."""

import importlib
from typing import TYPE_CHECKING, Any

from scorediff.interop.diffusers import from_diffusers
from scorediff.interop.edm import Rounded, from_edm
from scorediff.interop.exported import from_exported
from scorediff.interop.flow_matching import from_flow_matching
from scorediff.interop.inspection import Inspection, inspect
from scorediff.interop.k_diffusion import from_k_diffusion
from scorediff.interop.pipelines import DiffusersPipeline
from scorediff.interop.score_sde import from_score_sde
from scorediff.interop.trained import Trained, shift_for, trained_as
from scorediff.interop.wrapping import Wrapped

if TYPE_CHECKING:
    from scorediff.interop.scheduler import ScorediffScheduler

__all__ = [
    "DiffusersPipeline",
    "Inspection",
    "Rounded",
    "ScorediffScheduler",
    "Trained",
    "Wrapped",
    "from_diffusers",
    "from_edm",
    "from_exported",
    "from_flow_matching",
    "from_k_diffusion",
    "from_score_sde",
    "inspect",
    "shift_for",
    "trained_as",
]


def __getattr__(name: str) -> Any:
    # diffusers, which loads a pipeline's parts from where they say they are, looks for their base class there as well
    if name in ("ScorediffScheduler", "SchedulerMixin"):
        return getattr(importlib.import_module("scorediff.interop.scheduler"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
