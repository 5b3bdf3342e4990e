"""A solver's run turned inside out: the network is with the caller, who learns where to evaluate it next."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorediff._core.conditions import Conditions
from scorediff._core.states import version
from scorediff.denoiser import Denoiser, DenoiserBase, NetworkOutput
from scorediff.interop.handover import Handover
from scorediff.interop.trained import Trained
from scorediff.noise import BrownianPath, IndependentNoise, Noise
from scorediff.problems import Problem
from scorediff.solvers import Solution, Solver, Step, Terminal, solve
from scorediff.solvers.solve import problem_for
from scorediff.spacings import Grid

__all__ = ["Plan", "Run"]

#: An entry that changed by less than this part of itself was rounded to half precision.
_ROUNDING = 2.0**-7


@final
class _Remote(DenoiserBase):
    """A denoiser around a network that is elsewhere: `ask(t, x)` gives its output."""

    def __init__(self, trained: Trained, ask: Callable[[float, Tensor], Tensor]) -> None:
        self.schedule, self.prediction = trained.schedule, trained.prediction
        self._ask, self._output = ask, torch.empty(0)
        self._denoiser = Denoiser(lambda x, t: self._output, trained.schedule, trained.prediction, time=trained.time)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "Remote", "prediction": repr(self.prediction)}

    def evaluate(self, t: Any, x: Tensor, cond: Conditions) -> NetworkOutput:
        # before anything is made of the state: the answer may bring another one, see _Exchange
        self._output = self._ask(float(t), x)
        return self._denoiser.evaluate(t, x, cond)


@dataclass(frozen=True)
class Plan:
    """A run of `solver` on `grid`, and the `times` at which it will ask for the network, one per evaluation.

    They do not depend on the state, and are found by a rehearsal on one number. `trained` says what the network is,
    `eta` the fraction of noise (None for what the solver is for), `terminal` the way from the end of the grid to
    sigma = 0 (None for none), and `draws` whether noise is drawn.
    Raises TypeError or ValueError as `solve` does, and for a solver whose first evaluation is not at the start.
    """

    trained: Trained
    solver: Solver
    eta: float | None
    terminal: Terminal | None
    grid: Grid
    times: tuple[float, ...] = ()
    draws: bool = False

    @classmethod
    def of(
        cls, trained: Trained, solver: Solver, grid: Grid, *, terminal: Terminal | None, eta: float | None
    ) -> "Plan":
        """The plan of a run, rehearsed."""
        bare = cls(trained, solver, eta, terminal, grid)
        times, draws = bare._rehearse(lambda n: 0.0)
        # where the number is not declared it may iterate: so give answers that never settle
        if solver.nfe is None and bare._rehearse(lambda n: (-1.0) ** n)[0] != times:
            raise ValueError(
                f"{solver.name} evaluates as often as the state asks for, and a pipeline calls its network at times "
                "known beforehand: take another solver, such as 'dpm++2m', or sd.sample with from_diffusers"
            )
        return cls(trained, solver, eta, terminal, grid, times, draws)

    def _rehearse(self, answer: Callable[[int], float]) -> tuple[tuple[float, ...], bool]:
        """When the network is asked for, its n-th output being `answer(n)`, and whether noise is drawn."""
        times: list[float] = []
        drawn: list[tuple[int, int, int]] = []

        class Watched(IndependentNoise):
            def _draw(self, words: tuple[int, int, int]) -> np.ndarray:
                drawn.append(words)
                return super()._draw(words)

        def ask(t: float, x: Tensor) -> Tensor:
            if not times and abs(float(x) - 1) > 1e-3:
                raise ValueError(
                    f"{self.solver.name} moves the state before its first evaluation, and a pipeline evaluates the "
                    "start: use sd.sample with from_diffusers"
                )
            times.append(t)
            return torch.full_like(x, answer(len(times)))

        options: dict[str, Any] = {"noise": Watched, "terminal": self.terminal, "progress": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a state that is nobody's
            solve(self.problem(ask), torch.ones(1, 1), self.solver, grid=self.grid, **options)
        return tuple(times), bool(drawn)

    @property
    def noise_fraction(self) -> float:
        """Eta at the start of the run: 0 on the flow."""
        return self.problem(lambda t, x: x).eta_at(self.grid.start)

    def problem(self, ask: Callable[[float, Tensor], Tensor]) -> Problem:
        """What is solved, where `ask(t, x)` gives the network's output."""
        return problem_for(_Remote(self.trained, ask), self.solver, self.eta)

    def after(self, evaluations: int) -> "Plan":
        """The rest of it. Raises ValueError where a run that starts there does not evaluate where this one does."""
        if evaluations == 0:
            return self
        nodes = self.grid.times
        times = self.times[evaluations:] if evaluations > 0 else ()
        here = np.flatnonzero(np.isclose(nodes[:-1], times[:1] or np.nan, rtol=1e-6, atol=0))
        if here.size:
            grid = self.grid[int(here[0]) :]
            rest = Plan.of(self.trained, self.solver, grid, terminal=self.terminal, eta=self.eta)
            if rest.agrees(times):
                return rest
        lower = f", or '{self.solver.name}:start=lower-order'" if "start" in self.solver.to_dict() else ""
        raise ValueError(
            f"{self.solver.name} cannot start at evaluation {evaluations} of {len(self.times)}: it is within a step, "
            f"or the starting procedure makes more; take another one, or another solver, such as 'dpm++2m'{lower}"
        )

    def agrees(self, times: Sequence[float]) -> bool:
        """Whether the network is asked for at these times, to the rounding of float32."""
        slack = 1e-5 * abs(self.grid.start - self.grid.end)
        return len(times) == len(self.times) and bool(np.allclose(times, self.times, rtol=0, atol=slack))


class Run:
    """A `plan` carried out, evaluation by evaluation: `advance(output, x)` of the network at `x` gives the next state.

    `x` of shape (B, ...) is the start; the first answer is that of the network there. The solver works in float32 at
    least; states come back in the dtype of `x`. `seed` is one number, or one per sample, each then drawing what sample
    0 of its seed draws. At the end `solution` is there, and its states are the last to come back.
    """

    def __init__(self, plan: Plan, x: Tensor, seed: int | Sequence[int]) -> None:
        self.solution: Solution | None = None
        self._plan, self._dtype = plan, x.dtype
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        body = partial(_carry, plan, wide, x.dtype, seed, torch.is_grad_enabled(), _stream(x))
        self._handover = Handover(body)
        self._handover.listen()

    def advance(self, output: Tensor, x: Tensor) -> Tensor:
        """The state to evaluate next, or the samples. Raises what the solver raises; ValueError for a state that was
        changed within a step.
        """
        if output.shape == (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
            output = output[:, : x.shape[1]]  # beside it a learned variance
        done, said = self._handover.answer((output, x, _stream(x)))
        if done:
            self.solution, said = said, said.x.to(self._dtype)
        return said

    def close(self) -> None:
        """End a run that nobody will finish."""
        self._handover.close()


def _carry(
    plan: Plan,
    x: Tensor,
    dtype: torch.dtype,
    seed: int | Sequence[int],
    grad: bool,
    stream: Any,
    ask: Callable[[Any], Any],
) -> Solution:
    """The body of a run, in its thread."""
    _follow(stream)
    exchange = _Exchange(plan, dtype, ask)
    path = BrownianPath if plan.solver.needs_path else IndependentNoise
    solution = solve(
        plan.problem(exchange),
        x,
        plan.solver,
        grid=plan.grid,
        terminal=plan.terminal,
        seed=seed if isinstance(seed, int) else 0,
        noise=None if isinstance(seed, int) else partial(_Rows, path, seed),  # type: ignore[arg-type]
        callback=exchange.reached,
        progress=False,
        grad=grad,
    )
    exchange.finish()
    return solution


class _Exchange:
    """Hands states over and takes outputs in; honours or refuses a state that came back changed.

    Where the state is that of a node, the step goes on from what came back: it is written into the solver's own.
    Within a step it must be what was handed over, or a copy of it; on an accelerator this is found out at the end.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, ask: Callable[[Any], Any]) -> None:
        self._plan, self._dtype, self._ask = plan, dtype, ask
        self._slack = 1e-5 * abs(plan.grid.start - plan.grid.end)
        self._node: Any = None
        self._asked = 0
        self._changed: list[tuple[int, Tensor]] = []

    def reached(self, step: Step) -> None:
        self._node = step.x

    def __call__(self, t: float, x: Tensor) -> Tensor:
        n, times = self._asked, self._plan.times
        if n == len(times) or abs(t - times[n]) > self._slack:
            raise RuntimeError(f"{self._plan.solver!r} asked for t = {t} at evaluation {n}, unlike in its rehearsal")
        self._asked += 1
        handed = x.to(self._dtype)
        written = version(handed)
        output, back, stream = self._ask(handed)
        _follow(stream)
        if n and (back is not handed or version(handed) != written):
            self._take(n, x, handed, back, version(handed) != written)
        return output

    def _take(self, n: int, x: Tensor, handed: Tensor, back: Tensor, written: bool) -> None:
        if back.shape != x.shape:
            raise ValueError(f"a state of shape {tuple(x.shape)} came back in shape {tuple(back.shape)}")
        if x is self._node:
            if back is not x:
                x.copy_(back)
            return
        if written:
            raise self._refusal(n)
        far = ((back - handed).abs() > _ROUNDING * (handed.abs() + _ROUNDING**2 * handed.abs().amax())).any()
        if not _readable(far):
            self._changed.append((n, far))
        elif far:
            raise self._refusal(n)

    def finish(self) -> None:
        """Raise ValueError for a state that was changed within a step."""
        if self._asked != len(self._plan.times):
            raise RuntimeError(f"{self._plan.solver!r} ended at evaluation {self._asked}, unlike in its rehearsal")
        if self._changed:
            evaluations, flags = zip(*self._changed, strict=True)
            for n in np.extract(torch.stack(flags).cpu().numpy(), evaluations):
                raise self._refusal(n)

    def _refusal(self, n: int) -> ValueError:
        return ValueError(
            f"the state was changed before evaluation {n} of {len(self._plan.times)}, which {self._plan.solver.name} "
            "makes within a step, from states that nobody else sees: take a solver that evaluates at its nodes alone, "
            "such as 'dpm++2m', or leave the state as it is"
        )


class _Rows(Noise):
    """The noise of samples each of which is sample 0 of a seed."""

    def __init__(self, kind: type[Noise], seeds: Sequence[int], seed: int, x: Tensor, ids: Any = None) -> None:
        super().__init__(seed, x, ids)
        self._parts = [kind(seed, x[i : i + 1], [0]) for i, seed in enumerate(seeds)]

    def __call__(self, a: float, b: float, tag: int = 0) -> Tensor:
        return torch.cat([part(a, b, tag) for part in self._parts])

    def area(self, a: float, b: float, tag: int = 0) -> Tensor:
        return torch.cat([part.area(a, b, tag) for part in self._parts])


def _readable(x: Tensor) -> bool:
    """Whether it can be looked at without waiting for a device."""
    return x.device.type == "cpu"


def _stream(x: Tensor) -> Any:
    """The queue of work of the caller on the device of `x`: kept per thread, so it must be carried over."""
    return torch.cuda.current_stream(x.device) if x.is_cuda else None


def _follow(stream: Any) -> None:
    if stream is not None:
        torch.cuda.set_stream(stream)
