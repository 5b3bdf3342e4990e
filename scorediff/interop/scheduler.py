"""Our solvers in the pipelines of diffusers: a scheduler that any of them takes in place of another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin, SchedulerOutput
from torch import Tensor

from scorediff._core import registry
from scorediff._core.states import per_sample
from scorediff.interop.inversion import Plan, Run
from scorediff.interop.nodes import Numbers, grid_for, levels, shifted, times_at
from scorediff.interop.settings import NAMES, Settings
from scorediff.solvers import Solution, Solver, Terminal
from scorediff.spacings import Spacing

__all__ = ["ScorediffScheduler"]


class ScorediffScheduler(SchedulerMixin, ConfigMixin):
    """A solver of ours as a scheduler of diffusers.

    `solver`: any on a fixed grid, or its name. `trained`: the scheduler that came with the network, or its config,
    which says schedule, prediction and time; `from_config(pipe.scheduler.config, solver=...)` does the same.
    `spacing`: where the steps lie, the solver's default if left out. `terminal`: the way from the end of the grid to
    sigma = 0, one more evaluation; None for none. `eta`: the fraction of noise of a solver of the reverse SDE, 1 by
    default where it does not solve the flow. `seed`: of the noise of steps; drawn anew from torch's global generator
    for every run by default, as pipelines draw their start. All of them are kept in `config` as plain data, beside the
    entries of `trained`, so that `from_config` of another scheduler leads back.

    `timesteps` has one entry per evaluation of the network, `sigmas` the noise level of each (sigma of a flow,
    sigma/alpha of others) and a last 0, `order` is the number of evaluations per step where all steps have the same,
    else 1. `solution` is the `Solution` of the last run.

    Raises TypeError or ValueError for what cannot be run, an adaptive solver among it.
    """

    # what model_index.json says: importable wherever scorediff.interop is
    __module__ = "scorediff.interop"
    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers] + ["FlowMatchEulerDiscreteScheduler"]

    def __init__(
        self,
        solver: Solver | str | Mapping[str, Any] = "dpm++2m",
        trained: Any = None,
        spacing: Spacing | str | Mapping[str, Any] | None = None,
        terminal: Terminal | str | Mapping[str, Any] | None = "denoise",
        eta: float | None = None,
        seed: int | None = None,
    ) -> None:
        self._settings = Settings.of(
            solver, trained, spacing, terminal=terminal, eta=eta, seed=seed, name=type(self).__name__
        )
        # not by diffusers' decorator, which keeps objects as they are, and takes what is given by position for left out
        self.register_to_config(**self._settings.to_config(), _class_name=type(self).__name__)
        self._model = self._settings.model
        self._plan: Plan | None = None
        self._begin: tuple[int, Plan] | None = None
        self._run: Run | None = None
        self._at = 0
        self.timesteps, self.sigmas, self.num_inference_steps = torch.empty(0), torch.empty(0), 0
        self.solution: Solution | None = None

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler of such a config, or of that of the scheduler that came with the network."""
        unknown = [key for key in kwargs if key not in NAMES]
        if unknown and not return_unused_kwargs:
            raise TypeError(f"{cls.__name__} has no {unknown[0]!r}{registry.nearest(unknown[0], NAMES)}")
        if isinstance(config, Mapping):
            own = config.get("_class_name") == cls.__name__
            config = {k: config[k] for k in NAMES if k in config} if own else {"trained": config}
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def __reduce__(self) -> Any:
        # a copy has the settings, and no run
        return type(self).from_config, (dict(self.config),)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    @property
    def init_noise_sigma(self) -> float:
        """What pipelines multiply their first noise by."""
        schedule = self._model.schedule
        return float(schedule.prior_std(self._plan.grid.start if self._plan else schedule.t_start))

    @property
    def order(self) -> int:
        """Evaluations per step where all have the same: pipelines start image-to-image at a multiple of it."""
        if self._plan is None:
            return 1
        each, rest = divmod(len(self._plan.times) - (self._plan.terminal is not None), self._plan.grid.steps)
        return 1 if rest else each

    @property
    def begin_index(self) -> int | None:
        """The evaluation a run starts at, once it was set."""
        return None if self._begin is None else self._begin[0]

    @property
    def step_index(self) -> int | None:
        """The evaluation that is due, within a run."""
        return None if self._run is None else self._at

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        *,
        timesteps: Numbers | None = None,
        sigmas: Numbers | None = None,
        mu: float | None = None,
    ) -> None:
        """Lay out a run of so many steps, not counting the terminal one, and end the one before.

        Instead of their number the nodes may be given: `timesteps` as the network's numbers, or `sigmas`, of a flow
        before its shift, of others sigma/alpha; a last 0 is the terminal step. The uniform `sigmas` that pipelines of
        flows give by default, 1, 1 - 1/n .. 1/n, are n steps. `mu` is the shift, or its logarithm, where the
        network's config leaves it to the size of the image, and is not looked at elsewhere.

        Raises TypeError or ValueError for what makes no grid, and for nodes beside a `spacing`.
        """
        self._end()
        settings = self._settings
        model = shifted(settings.model, settings.trained, mu)
        grid = grid_for(
            model,
            settings.spacing or settings.solver.spacing,
            num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            spaced=settings.spacing is not None,
            terminal=settings.terminal is not None,
        )
        plan = Plan.of(model, settings.solver, grid, terminal=settings.terminal, eta=settings.eta)
        self._model, self._plan, self._begin, self.solution = model, plan, None, None
        times = np.array(plan.times)
        self._scales = [float(model.prediction.input_scale(model.schedule, t)) for t in plan.times]
        self._numbers = np.asarray(model.time(times), dtype=np.float64)
        self.timesteps = torch.tensor(self._numbers, dtype=torch.float32, device=device)
        # on the host, where pipelines read them
        self.sigmas = torch.tensor([*levels(model, times), 0.0], dtype=torch.float32)
        self.num_inference_steps = grid.steps

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start the next run at this evaluation, from `add_noise` of an image. Raises ValueError where none can."""
        self._begin = (begin_index, self._planned().after(begin_index))

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is to see of the state: itself, or c_in times it."""
        at = self._due if timestep is None else self._position(timestep)
        scale = self._scales[at]
        return sample if scale == 1.0 else sample * scale

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The next state to evaluate, or the samples, of the shape (B, ...) of `sample`.

        `model_output` is the network's at `sample`, which was handed out by the last step, or changed where the solver
        evaluates at a node; of twice as many channels the second half, a learned variance, is dropped. The noise of a
        run is that of the seed of the `generator` its first step is given; of several, one per sample.

        Raises ValueError out of turn, for a state that was changed within a step, and for options that are settings of
        the scheduler; SolverError at the end where a sample is not finite.
        """
        if eta and eta != self._planned().noise_fraction:
            raise ValueError(f"eta = {eta} is a setting of the scheduler: ScorediffScheduler(..., eta={eta})")
        if use_clipped_model_output:
            raise ValueError("use_clipped_model_output = True: outputs are used as they are, leave it")
        at = self._turn(timestep)
        run = self._run or self._started(at, sample, generator)
        try:
            x = run.advance(model_output, sample)
        except BaseException:
            self._end()
            raise
        self._at += 1
        if run.solution is not None:
            self.solution, self._run = run.solution, None
            run.solution.check()
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """`alpha_t x0 + sigma_t eps`, of the shape (B, ...) of the samples, at one or B numbers of the network."""
        numbers = torch.as_tensor(timesteps).reshape(-1).cpu().double().numpy()
        t = times_at(self._model, numbers if numbers.size > 1 else numbers[0])
        schedule, x = self._model.schedule, original_samples
        return x * per_sample(schedule.alpha(t), x) + noise * per_sample(schedule.sigma(t), x)

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """The same, as pipelines of flows call it."""
        return self.add_noise(sample, noise, timestep)

    def _planned(self) -> Plan:
        if self._plan is None:
            raise ValueError("call set_timesteps() first: it lays out the steps")
        return self._plan

    @property
    def _due(self) -> int:
        """The evaluation that is due."""
        self._planned()
        return self._at if self._run else self.begin_index or 0

    def _turn(self, timestep: Any) -> int:
        """The evaluation of a step; ValueError out of turn."""
        at = self._position(timestep)
        if self._run and at != self._due:
            raise ValueError(
                f"step() at evaluation {at} of {len(self._numbers)} where {self._due} is due: go through timesteps in "
                "order, from set_timesteps() on"
            )
        return at

    def _started(self, at: int, x: Tensor, generator: Any) -> Run:
        """A run from evaluation `at` on."""
        plan = self._begin[1] if self._begin and self._begin[0] == at else self._planned().after(at)
        self._run, self._at = Run(plan, x, self._seed_of(plan, len(x), generator)), at
        return self._run

    def _seed_of(self, plan: Plan, batch: int, generator: Any) -> int | list[int]:
        if isinstance(generator, Sequence):
            if len(generator) != batch:
                raise ValueError(f"{len(generator)} generators for {batch} samples: give one, or one per sample")
            return [one.initial_seed() for one in generator]
        if generator is not None:
            return int(generator.initial_seed())
        if self._settings.seed is None and plan.draws:
            return int(torch.randint(2**63 - 1, ()))
        return self._settings.seed or 0

    def _end(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None

    def _position(self, timestep: Any) -> int:
        """Which evaluation a timestep belongs to; the one that is due where only the device could tell."""
        due = self._due
        if isinstance(timestep, Tensor):
            ours = self.timesteps
            if timestep.untyped_storage().data_ptr() == ours.untyped_storage().data_ptr():
                return int(timestep.storage_offset())  # an entry of ours, or a view of it
            if timestep.device.type != "cpu":
                return due
            timestep = timestep.reshape(-1)[0]
        near = np.isclose(self._numbers, float(timestep), rtol=1e-6, atol=1e-6 * np.abs(self._numbers).max())
        if near[min(due, near.size - 1)]:
            return due
        if not near.any():
            raise ValueError(f"timestep {float(timestep)} is none of this run's: go through timesteps in order")
        return int(np.argmax(near))
