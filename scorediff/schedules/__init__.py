"""Noise schedules, `x_t = alpha(t) x0 + sigma(t) eps`: two functions and a time domain, the rest derived from them."""

from scorediff.schedules.base import Schedule
from scorediff.schedules.custom import CustomSchedule
from scorediff.schedules.flow import RectifiedFlow
from scorediff.schedules.ve import EDM, VE
from scorediff.schedules.vp import SubVP, VPCosine, VPDiscrete, VPLinear
from scorediff.schedules.zero_terminal import ZeroTerminalSNR

__all__ = [
    "EDM",
    "VE",
    "CustomSchedule",
    "RectifiedFlow",
    "Schedule",
    "SubVP",
    "VPCosine",
    "VPDiscrete",
    "VPLinear",
    "ZeroTerminalSNR",
]
