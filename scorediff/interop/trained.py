"""What a network of diffusers was trained as, read from the configuration of the scheduler that came with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorediff._core import registry
from scorediff.predictions import (
    DataPrediction,
    EDMPrediction,
    FlowPrediction,
    Negated,
    NoisePrediction,
    Prediction,
    VPrediction,
)
from scorediff.schedules import EDM, RectifiedFlow, Schedule, VPDiscrete, ZeroTerminalSNR

__all__ = ["Trained", "shift_for", "shift_of", "trained_as"]

_PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": NoisePrediction(),
    "sample": DataPrediction(),
    "v_prediction": VPrediction(),
}


@dataclass(frozen=True)
class Trained:
    """The `schedule` of a network, its `prediction`, and the number it wants for a `time` of that schedule."""

    schedule: Schedule
    prediction: Prediction
    time: Callable[[Any], Any]


def trained_as(scheduler: Any, *, shift: float | None = None) -> Trained:
    """What the network beside a `scheduler` of diffusers, or beside its configuration (a mapping), was trained as.

    Betas (`trained_betas`, or `beta_schedule` with its ends), or `alphas_cumprod`, are a `VPDiscrete`; with
    `rescale_betas_zero_snr` a `ZeroTerminalSNR`; a flow-matching scheduler is a `RectifiedFlow`, EDM's an `EDM`. Betas
    are made in float64. `shift` is that of a flow, where the configuration leaves it to the size of the image (see
    `shift_for`), or in place of its own. What concerns sampling alone (its clipping, its spacing) is left out.

    Raises TypeError for anything else, a scheduler of distilled networks among it, ValueError for a configuration that
    lacks a key or has an unknown value.
    """
    config = _config(scheduler)
    kind = _kind(config)
    if kind is _flow:
        return _flow(config, shift)
    if shift is not None:
        raise ValueError(f"shift = {shift}: {_named(config)} is not a scheduler of a flow, drop it")
    return kind(config)


def shift_for(scheduler: Any, tokens: int) -> float:
    """The shift of a flow whose configuration leaves it to the number of `tokens` of an image, as Flux does.

    Raises ValueError where the configuration has a fixed shift.
    """
    config = _config(scheduler)
    if not config.get("use_dynamic_shifting"):
        raise ValueError(f"{_named(config)} has a fixed shift, whatever the image: drop tokens = {tokens}")
    low, high = (_entry(config, f"{end}_image_seq_len") for end in ("base", "max"))
    least, most = (_entry(config, f"{end}_shift") for end in ("base", "max"))
    # mu, on the line through (base length, base shift) and (longest, largest shift)
    return shift_of(config, least + (most - least) * (tokens - low) / (high - low))


def shift_of(config: Mapping[str, Any], mu: float) -> float:
    """The shift of a flow that `mu` stands for, by its configuration."""
    # u = s t / (1 + (s - 1) t) with s = e^mu, or s = mu
    return float(np.exp(mu)) if config.get("time_shift_type", "exponential") == "exponential" else float(mu)


def _config(scheduler: Any) -> Mapping[str, Any]:
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        raise TypeError(f"a scheduler of diffusers or its config is wanted, got {type(scheduler).__name__}")
    if config is scheduler:
        return config
    # one that was just made does not have its name in it, and one of a user's own is what it is made from
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    known = next((name for name in names if any(name in kind for kind in _CLASSES.values())), names[0])
    return {**config, "_class_name": known}


def _kind(config: Mapping[str, Any]) -> Callable[..., Trained]:
    """How a configuration is read: by the class it is of, or, without a name, by what is in it."""
    name = config.get("_class_name")
    if name in _CONTINUOUS and config.get("timestep_type") == "continuous":
        return _continuous
    flow = bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"
    if name is None:
        return _flow if flow or {"shift", "base_shift"} & config.keys() else _edm if "sigma_data" in config else _table
    for kind, names in _CLASSES.items():
        if name in names:
            return _flow if flow else kind
    known = ", ".join(sorted(each for names in _CLASSES.values() for each in names))
    raise TypeError(
        f"{name} is not known to say what a network was trained as: give the scheduler that it was trained with, or "
        f"Denoiser(net, schedule, prediction, time=) yourself; known: {known}"
    )


def _flow(config: Mapping[str, Any], shift: float | None) -> Trained:
    if config.get("invert_sigmas"):
        raise ValueError("invert_sigmas = true: a flow whose time runs from noise to data; see from_flow_matching()")
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise ValueError(f"prediction_type {config['prediction_type']!r} on a flow: 'flow_prediction' is known")
    if shift is None:
        if config.get("use_dynamic_shifting"):
            raise ValueError(
                "use_dynamic_shifting = true: the shift depends on the size of the image; give shift= a number, or "
                "shift=shift_for(scheduler, tokens)"
            )
        shift = _entry(config, "flow_shift" if "flow_shift" in config else "shift")
    schedule, steps = RectifiedFlow(float(shift)), _entry(config, "num_train_timesteps")
    # the network is given N sigma
    return Trained(schedule, FlowPrediction(), lambda t: steps * schedule.sigma(t))


def _edm(config: Mapping[str, Any]) -> Trained:
    return _on_edm(config, EDMPrediction(float(_entry(config, "sigma_data"))))


def _continuous(config: Mapping[str, Any]) -> Trained:
    # x / sqrt(sigma^2 + 1) goes in, and v comes out: EDM's with data of unit variance, and another sign
    if config.get("prediction_type") != "v_prediction":
        raise ValueError(
            f"timestep_type 'continuous' with prediction_type {config.get('prediction_type')!r}: v is known"
        )
    return _on_edm(config, EDMPrediction(1.0))


def _on_edm(config: Mapping[str, Any], raw: Prediction) -> Trained:
    kinds = {"epsilon": raw, "v_prediction": Negated(raw)}
    schedule = EDM(float(_entry(config, "sigma_min")), float(_entry(config, "sigma_max")))
    # c_noise = log(sigma) / 4
    return Trained(schedule, _chosen(config, kinds), lambda t: -schedule.log_snr(t) / 4)


def _table(config: Mapping[str, Any]) -> Trained:
    table = VPDiscrete.from_alphas_cumprod(config["alphas_cumprod"]) if "alphas_cumprod" in config else _betas(config)
    schedule = ZeroTerminalSNR(table.betas) if config.get("rescale_betas_zero_snr") else table
    return Trained(schedule, _chosen(config, _PREDICTIONS), schedule.index)


def _betas(config: Mapping[str, Any]) -> VPDiscrete:
    if config.get("trained_betas") is not None:
        return VPDiscrete(tuple(np.asarray(config["trained_betas"], dtype=np.float64).tolist()))
    kind, n = _entry(config, "beta_schedule"), int(_entry(config, "num_train_timesteps"))
    made = {"linear": _linear, "scaled_linear": _scaled_linear, "squaredcos_cap_v2": _cosine, "sigmoid": _sigmoid}
    if kind not in made:
        raise ValueError(f"unknown beta_schedule {kind!r}{registry.nearest(str(kind), made)}")
    return VPDiscrete(tuple(made[kind](n, config).tolist()))


def _linear(n: int, config: Mapping[str, Any]) -> np.ndarray:
    return np.linspace(_entry(config, "beta_start"), _entry(config, "beta_end"), n)


def _scaled_linear(n: int, config: Mapping[str, Any]) -> np.ndarray:
    # latent diffusion's: sqrt(beta) is linear
    return np.linspace(_entry(config, "beta_start") ** 0.5, _entry(config, "beta_end") ** 0.5, n) ** 2


def _cosine(n: int, config: Mapping[str, Any]) -> np.ndarray:
    # alpha^2 = cos^2((t + 0.008) / 1.008 pi / 2), beta at most 0.999 (arXiv:2102.09672)
    alpha2 = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha2[1:] / alpha2[:-1], 0.999)


def _sigmoid(n: int, config: Mapping[str, Any]) -> np.ndarray:
    first, last = _entry(config, "beta_start"), _entry(config, "beta_end")
    return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, n)))


def _chosen(config: Mapping[str, Any], known: Mapping[str, Prediction]) -> Prediction:
    # diffusers' own default, which some of its configurations leave out
    kind = config.get("prediction_type", "epsilon")
    if kind not in known:
        hint = registry.nearest(str(kind), known) or f"; known: {', '.join(known)}"
        raise ValueError(f"unknown prediction_type {kind!r} of {_named(config)}{hint}")
    return known[kind]


def _entry(config: Mapping[str, Any], key: str) -> Any:
    if config.get(key) is None:
        raise ValueError(f"the configuration of {_named(config)} has no {key!r}: give the scheduler's whole config")
    return config[key]


def _named(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", "a scheduler"))


_CONTINUOUS = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
_TABLES = (
    "DDIM DDIMInverse DDIMParallel DDPM DDPMParallel DEISMultistep DPMSolverMultistep DPMSolverMultistepInverse "
    "DPMSolverSDE DPMSolverSinglestep EulerAncestralDiscrete EulerDiscrete HeunDiscrete KDPM2AncestralDiscrete "
    "KDPM2Discrete LMSDiscrete PNDM RePaint SASolver UniPCMultistep"
)
_CLASSES: Mapping[Callable[..., Trained], frozenset[str]] = {
    _flow: frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}),
    _edm: frozenset({"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"}),
    _table: frozenset(f"{name}Scheduler" for name in _TABLES.split()),
}
