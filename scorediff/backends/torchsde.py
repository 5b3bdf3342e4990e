"""torchsde's solvers as a back end: the reverse SDE on exactly our grid, driven by our noise."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorediff.backends._third_party import RunTimes, check_method, working
from scorediff.coordinates import Coordinates, Field, Time
from scorediff.noise import Noise
from scorediff.problems import Problem, ReverseSDE
from scorediff.solvers.base import Solver
from scorediff.spacings import Grid, Spacing, UniformIn

__all__ = ["TorchSDE"]

# Which calculus each wants (the noise is additive, so they agree), its weak order, its evaluations per step.
_METHODS: dict[str, tuple[str, int, int | None]] = {
    "euler": ("ito", 1, 1),
    "milstein": ("ito", 1, 1),
    "srk": ("ito", 2, 2),
    "euler_heun": ("stratonovich", 1, 1),
    "heun": ("stratonovich", 2, 2),
    "midpoint": ("stratonovich", 1, 2),
    "log_ode": ("stratonovich", 1, 2),
    "reversible_heun": ("stratonovich", 2, None),  # one, and one more at the start
}


@dataclass(frozen=True)
class TorchSDE(Solver):
    """torchsde's methods for additive noise, a step per interval of the grid, in time or any other coordinates.

    `method`: euler, milstein, srk, euler_heun, heun, midpoint, log_ode or reversible_heun; srk by default, torchsde's
    own for additive noise, and of strong order 1.5. `coordinates`: what is integrated in; time, as torchsde does.

    torchsde runs in a variable that grows, the integration variable or its negative, on states of shape (B, D); its
    Brownian path is that of our seed. The noise is declared additive where that saves evaluations: `srk` is then
    Roessler's SRA1, of two evaluations (doi:10.1137/09076636X), in place of ten for diagonal noise. `reversible_heun`
    is barely stable: on the digits it wants several hundred steps, and gives noise with fewer. Half-precision states
    are carried in float32.
    """

    method: str = "srk"
    coordinates: Coordinates = field(default_factory=Time)

    solves: ClassVar[tuple[type, ...]] = (ReverseSDE,)
    linear = False
    source: ClassVar[str] = "arXiv:2001.01328"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"torchsde-{method.replace('_', '-')}": {"method": method} for method in _METHODS
    }

    def __post_init__(self) -> None:
        check_method(self, self.method, _METHODS)

    @property
    def weak_order(self) -> int:
        return _METHODS[self.method][1]

    @property
    def strong_order(self) -> float:
        return 1.5 if self.method == "srk" else 1.0

    @property
    def nfe(self) -> int | None:
        return _METHODS[self.method][2]

    @property
    def one_step(self) -> bool:
        return self.method != "reversible_heun"

    @property
    def spacing(self) -> Spacing:
        return UniformIn(self.coordinates)

    def check(self, problem: Problem, grid: Grid, dtype: torch.dtype) -> None:
        super().check(problem, grid, dtype)  # the noise of the SDE is singular where the log-SNR is
        self.coordinates.check(problem.schedule, grid.start, grid.end)

    def run(self, problem: Any, x: Any, grid: Grid, noise: Noise) -> Iterator[Any]:
        import torchsde

        calculus = _METHODS[self.method][0]
        sde = (_AdditiveSDE if self.method == "srk" else _DiagonalSDE)(problem, self.coordinates, x, grid, calculus)
        path = _Path(noise, sde)
        y, extra = sde.start, None
        for (_, s), ends in zip(grid.pairs(), sde.ends(), strict=True):
            sde.stepping = extra is None and not self.one_step
            # without a bound on dt, the one step of a call ends on the end of its interval, exactly
            states, extra = torchsde.sdeint(
                sde, y, ends, path, self.method, float("inf"), extra=True, extra_solver_state=extra
            )
            y = states[-1]
            yield s, sde.leave(s, y)


class _SDE:
    """The reverse SDE as torchsde calls it: `u`, the integration variable or its negative, grows; states have shape (B,
    D).

    torchsde asks for a slope at the start of every call, to see its shape. `stepping` tells this from an evaluation:
    before the call's first increment the answer is the state, of the same shape. Only at the start of a method with a
    history is a slope wanted before an increment; a second request for the same slope is answered from memory.
    """

    noise_type: ClassVar[str]

    def __init__(self, problem: Any, coordinates: Coordinates, x: Tensor, grid: Grid, calculus: str) -> None:
        self.moved, self.shape, self._dtype = Field(problem, coordinates), x.shape, x.dtype
        self.times = RunTimes(self.moved, grid.times.tolist(), torch.float64)
        self.sign = 1.0 if self.times.values[-1] > self.times.values[0] else -1.0
        self.start = self.moved.enter(grid.start, working(x)).reshape(x.shape[0], -1)
        self.sde_type, self.stepping = calculus, False
        self._known: tuple[float, Tensor, Tensor] | None = None

    def ends(self) -> Tensor:
        """The ends of every step in `u`, of shape (steps, 2), float64 on the host."""
        return (self.sign * torch.tensor(self.times.values, dtype=torch.float64)).unfold(0, 2, 1)

    def leave(self, t: float, y: Tensor) -> Tensor:
        return self.moved.leave(t, y.reshape(self.shape)).to(self._dtype)

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        """`dy/du` without the noise."""
        if not self.stepping:
            return y
        at = float(u)
        if self._known is None or self._known[0] != at or self._known[1] is not y:
            slope = self.moved.drift_at(self._time(at), y.reshape(self.shape)).reshape(y.shape)
            self._known = (at, y, slope if self.sign > 0 else -slope)
        return self._known[2]

    def _time(self, u: float) -> float:
        return self.times.at(self.sign * u)


class _DiagonalSDE(_SDE):
    noise_type = "diagonal"

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        """The coefficient of the noise, the same for every entry."""
        return y.new_full((), float(self.moved.diffusion_at(self._time(float(u))))).expand(y.shape)


class _AdditiveSDE(_SDE):
    noise_type = "additive"
    _fork: AbstractContextManager[Any]

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        if not self.stepping:
            # next torchsde draws from the global generator, which is the user's, to see the shape of `g_prod`
            self._fork = torch.random.fork_rng([y.device] if y.device.type == "cuda" else [])
            self._fork.__enter__()
        return super().f(u, y)

    def g_prod(self, u: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The coefficient of the noise times `v`: as a matrix it would have D^2 entries a sample."""
        if not self.stepping:
            self._fork.__exit__(None, None, None)
        return v * float(self.moved.diffusion_at(self._time(float(u))))


class _Path:
    """The Brownian path of a run as torchsde asks for it: increments W in `u`, and U, the integral of W."""

    levy_area_approximation = "foster"  # every method's demands are met: what is not asked for is not drawn

    def __init__(self, noise: Noise, sde: _SDE) -> None:
        self._noise, self._sde, self._like = noise, sde, sde.start
        self.shape = sde.start.shape

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Any:
        self._sde.stepping = True
        a, b = (self._sde.sign * float(u) for u in (ta, tb))
        h = abs(b - a)
        w = self._state(self._noise(a, b)) * h**0.5
        asked = [w]
        if return_U:
            # U = h (W / 2 + H), H the mean of the path less its chord
            asked.append((w / 2 + self._state(self._noise.area(a, b)) * (h / 12) ** 0.5) * h)
        if return_A:
            asked.append(w.new_zeros(()))  # only where the noise depends on the state
        return w if len(asked) == 1 else tuple(asked)

    def _state(self, draw: Tensor) -> Tensor:
        return draw.reshape(self.shape).to(self._like.dtype)
