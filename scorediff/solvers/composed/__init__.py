"""Solvers made of solvers: each takes any step of the flow, and adds noise."""

from scorediff.solvers.composed.ancestral import Ancestral
from scorediff.solvers.composed.churn import Churn
from scorediff.solvers.composed.langevin import PredictorCorrector
from scorediff.solvers.composed.restart import Restart

__all__ = ["Ancestral", "Churn", "PredictorCorrector", "Restart"]
