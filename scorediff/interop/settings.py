"""The settings of a scheduler of ours: checked, and kept as the plain data of a config of diffusers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from scorediff._core import registry
from scorediff.denoiser import Denoiser
from scorediff.interop.trained import Trained, trained_as
from scorediff.solvers import Solver, Terminal
from scorediff.solvers.solve import problem_for
from scorediff.spacings import Spacing

__all__ = ["NAMES", "Settings"]

T = TypeVar("T")

NAMES = ("solver", "trained", "spacing", "terminal", "eta", "seed")

#: Of these, of which nothing is done here, pipelines take exception to other values.
_UNDISPUTED = {"steps_offset": 1, "clip_sample": False}


@dataclass(frozen=True)
class Settings:
    """The settings of a scheduler: `solver`, `spacing` (None: the solver's), `terminal` (None: none), `eta` (None: what
    the solver is for) and `seed` (None: drawn for every run). `trained` is the configuration of the scheduler that came
    with the network, and `model` what that was trained as (on a flow whose shift is not known yet, with none); `given`
    is what solver, spacing and terminal were made from.
    """

    solver: Solver
    spacing: Spacing | None
    terminal: Terminal | None
    eta: float | None
    seed: int | None
    trained: Mapping[str, Any]
    model: Trained
    given: Mapping[str, Any]

    @classmethod
    def of(
        cls, solver: Any, trained: Any, spacing: Any, *, terminal: Any, eta: Any, seed: Any, name: str
    ) -> "Settings":
        """The settings of a scheduler whose class has this `name`, from objects, their names or their plain data.

        Raises TypeError or ValueError for what cannot be run in a pipeline.
        """
        if trained is None:
            raise TypeError("give trained=, the scheduler that came with the network: it says how that was trained")
        made = _made(Solver, solver)  # type: ignore[type-abstract]
        if made.adaptive:
            raise ValueError(
                f"{made.name} chooses its own steps, and a pipeline calls its network at times known beforehand: take "
                "a solver on a fixed grid, such as 'dpm++2m', or sd.sample with from_diffusers"
            )
        for key, value, kinds in (("eta", eta, (int, float)), ("seed", seed, int)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise TypeError(f"{key} = {value!r}: a number is wanted, which a config can hold")
        data = _plain(trained, name)
        model = trained_as(data, shift=1.0 if data.get("use_dynamic_shifting") else None)
        problem_for(Denoiser(lambda x, t: x, model.schedule, model.prediction), made, eta)
        return cls(
            solver=made,
            spacing=None if spacing is None else _made(Spacing, spacing),  # type: ignore[type-abstract]
            terminal=None if terminal is None else _made(Terminal, terminal),  # type: ignore[type-abstract]
            eta=eta,
            seed=seed,
            trained=data,
            model=model,
            given={"solver": solver, "spacing": spacing, "terminal": terminal},
        )

    def to_config(self) -> dict[str, Any]:
        """Plain data: the settings, and the entries of the network's own config beside them, which pipelines look at
        and which other schedulers can be made from.
        """
        shown = {k: v for k, v in self.trained.items() if k[0] != "_" and _UNDISPUTED.get(k, v) == v}
        given = {key: registry.to_dict(value) for key, value in self.given.items()}
        return {
            "num_train_timesteps": 1000,
            **shown,
            **given,
            "trained": self.trained,
            "eta": self.eta,
            "seed": self.seed,
        }


def _made(base: type[T], value: Any) -> T:
    """An object from itself, its name or its plain data."""
    if isinstance(value, Mapping):
        return registry.from_dict(base, dict(value))
    made = registry.parse(base, value) if isinstance(value, str) else value
    if not isinstance(made, base):
        raise TypeError(f"{value!r} is not a {base.__name__}: give an object, or its name")
    return made


def _plain(trained: Any, name: str) -> dict[str, Any]:
    """The config of a scheduler as plain data, with the name of its class; of one of ours, what that was given."""
    config = getattr(trained, "config", trained)
    if not isinstance(config, Mapping):
        raise TypeError(f"trained must be a scheduler of diffusers or its config, got {type(trained).__name__}")
    if config.get("_class_name") == name:
        return dict(config["trained"])
    said = {} if config is trained else {"_class_name": type(trained).__name__}
    return said | {
        key: registry.to_dict(value)
        for key, value in config.items()
        if key == "_class_name" or not (key in NAMES or key.startswith("_"))
    }
