"""Our samplers give k-diffusion's and diffusers' numbers, wherever these are the published methods."""

import importlib
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow


def table():
    """The module benchmarks/parity.py, which needs the one beside it."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("parity")
    finally:
        sys.path.remove(folder)


parity = table()


def with_peer(row):
    # beforehand, quietly and without what k-diffusion's package imports besides
    with suppress(ImportError):
        parity.LIBRARIES[row.theirs.library]()
    pytest.importorskip(row.theirs.library.replace("-", "_"), exc_type=ImportError)
    return row


def named(rows):
    return [pytest.param(row, id=" ".join(row.words)) for row in rows]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, parity.DOUBLE), (torch.float32, parity.SINGLE)])
@pytest.mark.parametrize("row", named(row for row in parity.ROWS if not row.differs))
def test_a_peers_published_method_gives_our_numbers(row, dtype, tolerance):
    assert parity.difference(with_peer(row), dtype) <= tolerance


@pytest.mark.parametrize("row", named(row for row in parity.ROWS if row.differs))
def test_a_peer_that_is_said_to_differ_does(row):
    assert parity.difference(with_peer(row), torch.float64) > parity.DOUBLE


def test_diffusers_third_order_of_the_sde_is_of_weak_order_one():
    # where its numbers differ most: the law itself is of another order
    (row,) = (
        row
        for row in parity.ROWS
        if row.theirs.name.startswith("DPMSolverMultistepScheduler sde-dpmsolver++ solver_order=3")
    )
    with_peer(row)
    theirs, ours = (
        parity.verify.order(
            solver, target=parity.verify.GAUSSIAN, schedule="vp-linear", eta=1.0, declared=2, steps=(20, 40, 80, 160)
        ).order
        for solver in (row.theirs, row.solver)
    )
    assert theirs < 1.3
    assert ours > 1.85
