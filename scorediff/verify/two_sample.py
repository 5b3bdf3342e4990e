"""Whether two sets of samples come from one distribution: a permutation test of the energy distance, and of moments."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

__all__ = ["Alternative", "PValue", "TwoSample", "check", "power", "scaled", "shifted", "two_sample", "whole"]

_LEAST = 20  # samples of each: below, a t-test of squares says nothing
_MOST = 2000  # samples of each in the energy distance, which holds the square of their number
_PRODUCTS = 60  # up to so many second moments all are tested, beyond only those of single entries
_ENERGY_FRACTION = 0.5  # of the false-alarm rate; the moments have the rest
_ROUNDING, _TIE = 1e-12, 1e-9  # of the size of an entry, of a distance: what differs by less is equal
_BLOCK = 250  # relabellings at a time
_RELABELLING, _DRAWS = 1, 2  # streams of a seed; numpy's stream 0 is that of the seed alone, which samples come from


@dataclass(frozen=True)
class Alternative:
    """A distribution that a test should distinguish.

    `name`: in words that fit "... would be found". `change`: makes its samples of others, both of shape (n, ...).
    """

    name: str
    change: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """The changed samples, of the same shape (n, ...). Raises ValueError where the change makes something else."""
        changed = self.change(x)
        if not isinstance(changed, Tensor) or changed.shape != x.shape:
            got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise ValueError(f"{self.name!r} makes {got} of samples of shape {tuple(x.shape)}: it must keep the shape")
        return changed


def scaled(factor: float = 1.05) -> Alternative:
    """Deviations from the mean times `factor`. Raises ValueError unless it is positive, finite and not 1.

    >>> scaled(1.05).name
    'a standard deviation 5 % larger'
    """
    if not (math.isfinite(factor) and factor > 0 and factor != 1):
        raise ValueError(f"factor = {factor}: give a positive number other than 1, such as 1.05")
    percent, way = 100 * abs(factor - 1), "larger" if factor > 1 else "smaller"

    def change(x: Tensor) -> Tensor:
        return x.mean(0) + factor * (x - x.mean(0))

    return Alternative(f"a standard deviation {percent:.3g} % {way}", change)


def shifted(by: float = 0.1) -> Alternative:
    """Every entry moved by `by` of its standard deviations. Raises ValueError unless it is finite and not 0."""
    if not (math.isfinite(by) and by != 0):
        raise ValueError(f"by = {by}: give a number other than 0, such as 0.1")
    return Alternative(f"a mean shifted by {by:g} standard deviations", lambda x: x + by * x.std(0))


@dataclass(frozen=True)
class PValue:
    """One of the tests: its `name`, its p-value `p`, and the one `corrected` for all the tests that were made."""

    name: str
    p: float
    corrected: float


@dataclass(frozen=True)
class TwoSample:
    """What `two_sample` found.

    `p_values`: of every test. `energy`: the energy distance, `2 E|x - y| - E|x - x'| - E|y - y'|`. `sizes`: samples of
    each. `alpha`: the false-alarm rate, with which equal distributions are called different at most. `permutations`:
    relabellings behind the energy distance. `power`: the fraction of `replicates` simulated pairs in which a difference
    such as `alternative` is found; None, and no replicates, where that was not simulated.
    """

    p_values: tuple[PValue, ...]
    energy: float
    sizes: tuple[int, int]
    alpha: float
    permutations: int
    alternative: str = ""
    power: float | None = None
    replicates: int = 0

    @property
    def smallest(self) -> PValue:
        """The test that speaks loudest against one distribution."""
        return min(self.p_values, key=lambda test: (test.corrected, test.p))

    @property
    def same(self) -> bool:
        """Whether no difference was found."""
        return self.smallest.corrected > self.alpha

    @property
    def verdict(self) -> str:
        """In words, with what would have been found."""
        test, rate = self.smallest, f"at a false-alarm rate of {self.alpha:g}"
        if not self.same:
            return f"different distributions: corrected p {test.corrected:.2g} ({test.name}), {rate}"
        said = f"no difference found: smallest corrected p {test.corrected:.2g} ({test.name})"
        if self.power is None:
            return f"{said}, {rate}"
        pairs = f"{round(self.power * self.replicates)} of {self.replicates} simulated pairs"
        return f"{said}; {self.alternative} would be found with probability {self.power:.2f} ({pairs}) {rate}"

    def __str__(self) -> str:
        return self.verdict


def two_sample(x: Tensor, y: Tensor, *, alpha: float = 1e-3, seed: int = 0) -> TwoSample:
    """Test whether `x` of shape (n, ...) and `y` of shape (m, ...), independent samples, have one distribution.

    Half of `alpha` goes to the energy distance (of at most 2000 samples of each), whose null distribution is that of
    random relabellings; half, by Bonferroni, to Welch's tests of every mean and second moment about the common mean: of
    all pairs of entries where these are at most 60, else of single entries. `seed` fixes the relabellings.

    Raises TypeError or ValueError for fewer than 20 samples, shapes that differ, numbers that are not finite, and an
    alpha outside [1e-4, 0.5].

    >>> x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 300, 1)))
    >>> two_sample(x[0], x[1]).same, two_sample(x[0], 1.5 * x[1]).smallest.name
    (True, 'variance of entry 1')
    """
    count, seed = _permutations(alpha), whole("seed", seed, 0)
    a, b = _rows("x", x), _rows("y", y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x has samples of shape {tuple(x.shape[1:])}, y of {tuple(y.shape[1:])}: give one shape")
    rng = np.random.default_rng((seed, _RELABELLING))
    some = _for_energy(a, b, rng)
    energy, null = _energy(*some), np.concatenate(list(_relabelled(*some, count, rng)))
    # as many as the observed one count, where sets of few different values make ties
    reached = int((null >= energy - _TIE * float(torch.cat(some).norm(dim=1).mean())).sum())
    names, p_values = _moment_tests(a, b)
    p_energy = (1 + reached) / (1 + count)
    tests = [PValue("energy distance", p_energy, min(1.0, p_energy / _ENERGY_FRACTION))]
    corrected = np.minimum(1.0, p_values * _moment_factor(len(names)))
    tests += [PValue(*test) for test in zip(names, p_values.tolist(), corrected.tolist(), strict=True)]
    return TwoSample(tuple(tests), energy, (len(a), len(b)), alpha, count)


def power(
    draw: Callable[[int, int], Tensor],
    alternative: Alternative,
    n: int,
    *,
    alpha: float = 1e-3,
    seed: int = 0,
    replicates: int = 50,
) -> float:
    """How often `two_sample` finds `n` draws of a distribution and `n` of its `alternative` different.

    `draw(n, seed)` gives samples of shape (n, ...), as `target.sample` does. The quantile of the energy distance is
    that of the relabellings of one pair of draws, shared by the `replicates`: between seeds, the answer moves by some
    hundredths more than the replicates alone would make it.

    Raises TypeError or ValueError as `two_sample` does, and for less than one replicate.
    """
    check(n, alpha, seed)
    count, pairs = _permutations(alpha), whole("replicates", replicates, 1) + 1
    seeds = np.random.SeedSequence((seed, _DRAWS)).generate_state(2 * pairs).reshape(-1, 2).tolist()
    rng = np.random.default_rng((seed, _RELABELLING))

    def pair(k: int) -> tuple[Tensor, Tensor]:
        x, y = (draw(n, s) for s in seeds[k])
        return _rows("a draw", x), _rows("a changed draw", alternative(y) if k else y)

    null = np.concatenate(list(_relabelled(*_for_energy(*pair(0), rng), count, rng)))
    # p = (1 + reached) / (1 + count) is at most that fraction of alpha where fewer than `rank` are reached
    rank = math.floor(alpha * _ENERGY_FRACTION * (1 + count) * (1 + 1e-12))
    quantile = float(np.sort(null)[-rank])

    def found(k: int) -> bool:
        x, y = pair(k)
        names, p_values = _moment_tests(x, y)
        if float(p_values.min()) * _moment_factor(len(names)) <= alpha:
            return True
        return _energy(*_for_energy(x, y, rng)) > quantile

    return sum(map(found, range(1, pairs))) / replicates


def check(n: int, alpha: float, seed: int) -> None:
    """Raise TypeError or ValueError for what neither `two_sample` nor `power` takes: what they do, before any draw."""
    whole("n", n, _LEAST)
    whole("seed", seed, 0)
    _permutations(alpha)


def whole(name: str, value: int, least: int) -> int:
    """`value` as an int. Raises TypeError where it is not a whole number, ValueError where it is below `least`."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} = {value!r}: give a whole number, {least} or more")
    if index(value) < least:
        raise ValueError(f"{name} = {value}: give {least} or more")
    return index(value)


def _permutations(alpha: float) -> int:
    """How many relabellings it takes for the energy distance to be found too large at its fraction of `alpha`."""
    if not 1e-4 <= alpha <= 0.5:
        raise ValueError(f"alpha = {alpha}: give a false-alarm rate between 1e-4 and 0.5, such as 1e-3")
    return max(999, math.ceil(1 / (_ENERGY_FRACTION * alpha)) - 1)


def _rows(name: str, x: Tensor) -> Tensor:
    """`x` as float64 of shape (n, D) on the CPU, checked."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} wants a floating tensor of shape (n, ...), got {what}")
    if len(x) < _LEAST or x[0].numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: give at least {_LEAST} samples, each with an entry")
    rows = x.detach().to("cpu", torch.float64).reshape(len(x), -1)
    bad = (~torch.isfinite(rows)).any(1).nonzero()
    if len(bad):
        raise ValueError(f"sample {int(bad[0])} of {name} is not finite: look at the run it comes from")
    return rows


def _for_energy(x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """At most `_MOST` of each, about their common mean, where distances keep the most digits."""
    x, y = (v if len(v) <= _MOST else v[torch.from_numpy(rng.permutation(len(v))[:_MOST])] for v in (x, y))
    centre = torch.cat((x, y)).mean(0)
    return x - centre, y - centre


def _energy(x: Tensor, y: Tensor) -> float:
    """`2 E|x - y| - E|x - x'| - E|y - y'|`."""
    across, among_x, among_y = (float(torch.cdist(a, b).mean()) for a, b in ((x, y), (x, x), (y, y)))
    return 2 * across - among_x - among_y


def _relabelled(x: Tensor, y: Tensor, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The energy distances of `count` random relabellings of the pooled samples, a block at a time."""
    pooled = torch.cat((x, y))
    distances = torch.cdist(pooled, pooled)
    # with labels l of 1/n and -1/m the energy distance is -l^T distances l; they sum to 0, so centring changes nothing
    middle = distances.mean(0)
    distances -= middle + (middle - middle.mean())[:, None]
    labels = np.repeat((1 / len(x), -1 / len(y)), (len(x), len(y)))
    for first in range(0, count, _BLOCK):
        shuffled = rng.permuted(np.tile(labels, (min(_BLOCK, count - first), 1)), axis=1)
        rows = torch.from_numpy(shuffled)
        yield -((rows @ distances) * rows).sum(1).numpy()


def _moment_factor(tests: int) -> float:
    """What a p-value is multiplied by for there being so many `tests` of moments."""
    return tests / (1 - _ENERGY_FRACTION)


def _moment_tests(x: Tensor, y: Tensor) -> tuple[list[str], np.ndarray]:
    """Names and p-values: means, then second moments about the common mean."""
    a, b = x.numpy(), y.numpy()
    size, pooled = a.shape[1], np.concatenate((a, b))
    centre, scale = pooled.mean(0), np.sqrt(np.square(pooled).mean(0))
    i, j = np.triu_indices(size) if size * (size + 1) / 2 <= _PRODUCTS else (np.arange(size), np.arange(size))
    a, b = a - centre, b - centre
    names = [f"mean of entry {k + 1}" for k in range(size)]
    names += [
        f"variance of entry {k + 1}" if k == r else f"covariance of entries {k + 1} and {r + 1}"
        for k, r in zip(i.tolist(), j.tolist(), strict=True)
    ]
    means = _welch(a, b, scale)
    return names, np.concatenate((means, _welch(a[:, i] * a[:, j], b[:, i] * b[:, j], scale[i] * scale[j])))


def _welch(a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """p-values of equal means of the columns of `a` and `b`; what is below the rounding of `scale` is equal."""
    from scipy.stats import t

    v, w = a.var(0, ddof=1) / len(a), b.var(0, ddof=1) / len(b)
    least = np.maximum(_ROUNDING * scale, np.finfo(float).tiny ** 0.5)
    # nu = (v + w)^2 / (v^2 / (n - 1) + w^2 / (m - 1)), by fractions so that nothing overflows
    fraction = v / np.maximum(v + w, least**2)
    freedom = 1 / np.maximum(fraction**2 / (len(a) - 1) + (1 - fraction) ** 2 / (len(b) - 1), 1 / (len(a) + len(b) - 2))
    z = (a.mean(0) - b.mean(0)) / np.maximum(np.sqrt(v + w), least)
    return np.asarray(2 * t.sf(np.abs(z), freedom))
