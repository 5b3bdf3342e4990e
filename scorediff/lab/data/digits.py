"""Data that come with the package."""

from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

__all__ = ["digits", "digits_labels"]


@cache
def _archive() -> tuple[np.ndarray, np.ndarray]:
    path = files("scorediff") / "assets" / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return archive["images"], archive["labels"]


def digits() -> Tensor:
    """1797 handwritten digits of 8x8 pixels, ink 1 on paper -1: shape (1797, 1, 8, 8), float32.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998, https://doi.org/10.24432/C50P49 (CC BY 4.0).
    """
    # 0 .. 16 to -1 .. 1, exact in float32
    return torch.from_numpy(_archive()[0].astype(np.float32) / 8 - 1).unsqueeze(1)


def digits_labels() -> Tensor:
    """Which digit each of `digits()` is: shape (1797,), int64."""
    return torch.from_numpy(_archive()[1].astype(np.int64))
