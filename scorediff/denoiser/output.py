"""What one evaluation of a denoiser gives: the pair `(data, noise)`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, final, overload

from torch import Tensor, add

from scorediff._core.states import own_memory, per_sample
from scorediff.predictions import Pair, VPrediction
from scorediff.schedules import Schedule

__all__ = ["ModelOutput", "NetworkOutput", "PairOutput"]

_V = VPrediction()


class ModelOutput(Sequence[Tensor], ABC):
    """The pair `(data, noise)` at a state `x` of shape (B, ...), both of that shape: `x = alpha data + sigma noise`.

    `rows` is how many rows went through networks for it, one a sample by default, and `vjps` how many times a batch was
    led back through one, 0 by default.
    """

    __slots__ = ("rows", "vjps", "x")

    def __init__(self, x: Tensor, *, rows: int | None = None, vjps: int = 0) -> None:
        self.x, self.rows, self.vjps = x, x.shape[0] if rows is None else rows, vjps

    @property
    @abstractmethod
    def computed(self) -> Sequence[Tensor]:
        """The tensors that were computed for it: what is not finite shows in them."""

    @abstractmethod
    def terms(self, to_data: Any, to_noise: Any) -> list[tuple[Any, Tensor]]:
        """`to_data data + to_noise noise` as two `(coefficient, tensor)` terms, for floats or for arrays of shape (B,).

        What a step adds up need then never be computed on its own.
        """

    @abstractmethod
    def in_own_memory(self) -> Self:
        """Itself, once what was computed for it is copied wherever somebody else holds its memory, such as a network
        that will fill it again.
        """

    @abstractmethod
    def as_network(self, schedule: Schedule, t: Any, x: Tensor) -> "NetworkOutput":
        """The same as the output of one network at `x`, with its counts."""

    def in_v(self, schedule: Schedule, t: Any, x: Tensor) -> "NetworkOutput":
        """The same as the output of a v-prediction at `x`, with its counts."""
        # v = alpha eps - sigma x0: the combination from which both come back without a division by alpha or sigma
        v = self[1] * per_sample(schedule.alpha(t), x) - self[0] * per_sample(schedule.sigma(t), x)
        return NetworkOutput(x, v, _V.solve(schedule, t), rows=self.rows, vjps=self.vjps)

    @abstractmethod
    def part(self, index: int) -> Tensor:
        """The data (0) or the noise (1)."""

    def __len__(self) -> int:
        return 2

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self.part(i) for i in range(2)[index]]
        return self.part(index)


@final
class NetworkOutput(ModelOutput):
    """Data and noise that are linear in the state and a network's `output`, each computed when asked for, once.

    `data = p x + q output` and `noise = r x + s output` with `coefficients` ((p, q), (r, s)), floats or float64 arrays
    of shape (B,), as `Prediction.solve` gives them. `output` may also be made of those of several networks that predict
    the same. `x`, `rows` and `vjps` are those of `ModelOutput`.
    """

    __slots__ = ("_parts", "coefficients", "output")

    def __init__(
        self, x: Tensor, output: Tensor, coefficients: tuple[Pair, Pair], *, rows: int | None = None, vjps: int = 0
    ) -> None:
        super().__init__(x, rows=rows, vjps=vjps)
        self.output, self.coefficients = output, coefficients
        self._parts: list[Tensor | None] = [None, None]

    @property
    def computed(self) -> Sequence[Tensor]:
        return (self.output,)

    def terms(self, to_data: Any, to_noise: Any) -> list[tuple[Any, Tensor]]:
        (p, q), (r, s) = self.coefficients
        return [(to_data * p + to_noise * r, self.x), (to_data * q + to_noise * s, self.output)]

    def in_own_memory(self) -> Self:
        box = [self.output]
        del self.output  # with the parts, which may be views of it
        self._parts = [None, None]
        self.output = own_memory(box)
        return self

    def as_network(self, schedule: Schedule, t: Any, x: Tensor) -> "NetworkOutput":
        return self

    def with_output(self, output: Tensor, *, rows: int = 0, vjps: int = 0) -> "NetworkOutput":
        """Another output in place of this one, for which so many more `rows` and `vjps` were needed."""
        return NetworkOutput(self.x, output, self.coefficients, rows=self.rows + rows, vjps=self.vjps + vjps)

    def part(self, index: int) -> Tensor:
        part = self._parts[index]
        if part is None:
            p, q = (per_sample(c, self.x) for c in self.coefficients[index])
            part = self._parts[index] = _linear(p, self.x, q, self.output)
        return part


@final
class PairOutput(ModelOutput):
    """Data and noise that were both computed, by a closed form or by a user-defined denoiser.

    `x`, `rows` and `vjps` are those of `ModelOutput`, and `data` and `noise` are as `x`. Raises ValueError unless they
    are of the shape and dtype of the state `x`.
    """

    __slots__ = ("_pair",)

    def __init__(self, x: Tensor, data: Tensor, noise: Tensor, *, rows: int | None = None, vjps: int = 0) -> None:
        super().__init__(x, rows=rows, vjps=vjps)
        self._pair = (data, noise)
        # a state that is not a tensor is a symbol of who looks into a solver, and so is what is made of it
        if isinstance(x, Tensor):
            _check_like(x, self._pair)

    @property
    def computed(self) -> Sequence[Tensor]:
        return self._pair

    def terms(self, to_data: Any, to_noise: Any) -> list[tuple[Any, Tensor]]:
        return [(to_data, self._pair[0]), (to_noise, self._pair[1])]

    def in_own_memory(self) -> Self:
        data, noise = ([v] for v in self._pair)
        del self._pair
        self._pair = (own_memory(data), own_memory(noise))
        return self

    def as_network(self, schedule: Schedule, t: Any, x: Tensor) -> NetworkOutput:
        return self.in_v(schedule, t, x)

    def part(self, index: int) -> Tensor:
        return self._pair[index]


def _linear(p: Any, x: Tensor, q: Any, output: Tensor) -> Tensor:
    if isinstance(p, float) and isinstance(q, float):
        if p == 0.0:
            return output if q == 1.0 else output * q
        return add(x * p, output, alpha=q)
    return x * p + output * q


def _check_like(x: Tensor, pair: Sequence[Any]) -> None:
    for part in pair:
        if not isinstance(part, Tensor) or part.shape != x.shape or part.dtype != x.dtype:
            what = f"{part.dtype} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"the denoiser returned {what} for a state of {x.dtype} of shape {tuple(x.shape)}")
