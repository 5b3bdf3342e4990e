"""Distances between two sets of features, arrays of shape (N, D) and (M, D); images go through `features` first."""

import numpy as np

from scorediff.lab.metrics.estimate import Estimate, jackknife

__all__ = ["frechet_distance", "kernel_distance", "precision_and_recall", "sliced_wasserstein"]


def frechet_distance(
    real: np.ndarray, made: np.ndarray, *, groups: int = 10, strata: np.ndarray | None = None
) -> Estimate:
    """Between the Gaussians of the same means and covariances, squared: FID where the features are Inception's
    (arXiv:1706.08500).

    It is too large, by the more the fewer the samples: compare sets of one size, and look at `bias`. Where so many of
    each class were `made` as were asked for, `strata` are their classes: error and bias are smaller than of as many
    drawn at random.
    """

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # |m - n|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2
        first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
        root = _root(first)
        cross = np.linalg.eigvalsh(root @ second @ root)
        traces = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum()
        means = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
        return np.array([means + traces - 2 * np.sqrt(np.maximum(cross, 0)).sum()])

    return jackknife(statistic, *_checked(real, made), groups, strata)[0]


def kernel_distance(real: np.ndarray, made: np.ndarray, *, groups: int = 10) -> Estimate:
    """The squared maximum mean discrepancy with the kernel `(x.y / D + 1)^3`, without bias: KID where the features are
    Inception's (arXiv:1801.01401). For some thousands of each: it holds an array of N by M.
    """

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return (x @ y.T / x.shape[1] + 1) ** 3

        def within(x: np.ndarray) -> float:
            k = kernel(x, x)
            return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

        return np.array([within(a) + within(b) - 2 * kernel(a, b).mean()])

    return jackknife(statistic, *_checked(real, made), groups)[0]


def precision_and_recall(
    real: np.ndarray, made: np.ndarray, *, k: int = 3, groups: int = 10
) -> tuple[Estimate, Estimate]:
    """The fraction of samples that lie among the data, and of data that lie among the samples: nearer to one of them
    than its k-th neighbour is (arXiv:1904.06991). For some thousands of each: it holds an array of N by M. The errors
    are upper estimates, since with samples left out the neighbours are farther too.
    """

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        across = _squares(a, b)
        return np.array([np.any(across <= _reach(a, k)[:, None], 0).mean(), np.any(across <= _reach(b, k), 1).mean()])

    a, b = _checked(real, made)
    if k < 1 or min(len(a), len(b)) <= 2 * k:
        raise ValueError(
            f"{len(a)} and {len(b)} samples have no {k} neighbours to speak of: take more samples, or a smaller k"
        )
    precision, recall = jackknife(statistic, a, b, groups)
    return precision, recall


def sliced_wasserstein(
    real: np.ndarray, made: np.ndarray, *, directions: int = 256, seed: int = 0, groups: int = 10
) -> Estimate:
    """The root mean square over `directions` of the Wasserstein-2 distance of the projections, times sqrt(D): in
    units of the features. The error is that of the samples and that of the directions together.
    """
    if directions < 2:
        raise ValueError(f"directions = {directions}: at least 2 are needed")
    a, b = _checked(real, made)
    turns = np.random.default_rng(seed).standard_normal((a.shape[1], directions))
    turns /= np.linalg.norm(turns, axis=0)

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([np.sqrt(squares(a, b).mean() * a.shape[1])])

    def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # INT_0^1 (P^-1(u) - Q^-1(u))^2 du; both inverses are steps, that change at i / n and j / m: in units of 1 / nm
        n, m = len(a), len(b)
        ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
        p, q = np.sort(a @ turns, axis=0)[(ends - 1) // m], np.sort(b @ turns, axis=0)[(ends - 1) // n]
        return np.diff(ends, prepend=0) @ np.square(p - q) / (n * m)

    found = jackknife(statistic, a, b, groups)[0]
    # of a root: that of what is under it, over twice the root
    each = a.shape[1] * squares(a, b)
    turned = each.std(ddof=1) / directions**0.5 / (2 * found.value) if found.value else 0.0
    return Estimate(found.value, float(np.hypot(found.error, turned)), found.bias)


def _checked(real: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(x, dtype=np.float64) for x in (real, made))
    for name, x in (("real", a), ("made", b)):
        if x.ndim != 2:
            raise ValueError(f"{name} has shape {x.shape}: features of shape (N, D) are wanted, see features()")
        if not np.all(np.isfinite(x)):
            raise ValueError(f"{name}[{int(np.argmin(np.isfinite(x).all(1)))}] holds NaN or infinity")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and of {b.shape[1]} numbers: take both from one extractor")
    return a, b


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.atleast_2d(matrix))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def _reach(x: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each to its k-th neighbour."""
    within = _squares(x, x)
    np.fill_diagonal(within, 0)
    return np.partition(within, k, axis=1)[:, k]
