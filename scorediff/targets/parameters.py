"""Covariances of the exact targets, by their eigenvalues and eigenvectors."""

from dataclasses import dataclass, field
from math import prod
from typing import final

import torch
from torch import Tensor

from scorediff._core.arrays import ArrayLike, no_less, parameter

__all__ = ["Spectrum"]

# Asymmetry and negative eigenvalues up to this fraction of the largest entry are rounding of a float32 estimate.
_ROUNDING = 1e-6


@final
@dataclass(frozen=True, eq=False)
class Spectrum:
    """A covariance by its eigenvalues and eigenvectors: `V diag(values) V^T`, V = `basis`.

    `values` of shape (..., D), or (..., 1) where all are equal; `basis` of shape (..., D, D) with orthonormal columns,
    or None, the default, for the identity. Leading dimensions are components of a mixture. By default one variance of
    1.
    """

    values: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    basis: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", no_less("values", parameter("values", self.values), 0.0))
        if self.basis is not None:
            object.__setattr__(self, "basis", parameter("basis", self.basis))
            wanted, got = (*self.values.shape, self.values.shape[-1]), tuple(self.basis.shape)
            if got != wanted:
                raise ValueError(f"basis has shape {got}; it wants {wanted}, an eigenvector per value")

    @classmethod
    def of(cls, name: str, covariance: ArrayLike, batch: tuple[int, ...], event: tuple[int, ...]) -> "Spectrum":
        """The spectrum of a covariance: isotropic (shape `batch`), diagonal (`batch + event`), full (`batch + (D, D)`).

        D is the number of entries of `event`. The three shapes coincide only where D = 1, and there they mean the same.
        Raises ValueError for any other shape, an asymmetric matrix or a negative variance.
        """
        tensor, size = parameter(name, covariance), prod(event)
        if tensor.shape == batch:
            return cls(no_less(name, tensor, 0.0).unsqueeze(-1))
        if tensor.shape == (*batch, *event):
            return cls(no_less(name, tensor, 0.0).reshape(*batch, size))
        if tensor.shape == (*batch, size, size):
            return cls(*_eigen(name, tensor))
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; it wants {batch} (isotropic), {(*batch, *event)} (diagonal) "
            f"or {(*batch, size, size)} (full)"
        )

    def check_fits(self, name: str, batch: tuple[int, ...], event: tuple[int, ...]) -> None:
        """Raises ValueError where these are not the eigenvalues of distributions of that shape."""
        if self.values.shape not in ((*batch, 1), (*batch, prod(event))):
            raise ValueError(
                f"{name} has eigenvalues of shape {tuple(self.values.shape)}; it wants {(*batch, prod(event))}, "
                f"or {(*batch, 1)} where they are equal"
            )

    def at(self, alpha_t: float, sigma_t: float) -> "Spectrum":
        """The spectrum of the noised distribution, `alpha^2 C + sigma^2 I`."""
        return Spectrum(alpha_t * alpha_t * self.values + sigma_t * sigma_t, self.basis)

    def parts(self) -> tuple[Tensor, ...]:
        """The eigenvalues, and the basis where there is one."""
        return (self.values,) if self.basis is None else (self.values, self.basis)

    def matrix(self, size: int) -> Tensor:
        """The covariance itself, of shape (..., D, D) with D = `size`."""
        values = self.values.expand(*self.values.shape[:-1], size)
        return torch.diag_embed(values) if self.basis is None else (self.basis * values.unsqueeze(-2)) @ self.basis.mT


def _eigen(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    slack = _ROUNDING * matrix.abs().amax((-2, -1))
    skew = (matrix - matrix.mT).abs().amax((-2, -1))
    if (skew > slack).any():
        by = skew.max().item()
        raise ValueError(f"{name} is not symmetric: it differs from its transpose by {by:g}; pass (C + C^T) / 2")
    values, basis = torch.linalg.eigh((matrix + matrix.mT) / 2)
    if (values.amin(-1) < -slack).any():
        raise ValueError(f"{name} has the eigenvalue {values.min().item():g}; a covariance has none below 0")
    return values.clamp(min=0.0), basis
