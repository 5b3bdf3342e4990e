"""Our samplers give k-diffusion's and diffusers' numbers, wherever these are the published methods."""

import importlib
import inspect
import sys
import textwrap
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

import pytest
import torch

pytestmark = pytest.mark.nightly


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


# peers by the start of their names: functions of theirs, with what is written there and what would make them ours
THIRD, FACTOR = "multistep_dpm_solver_third_order_update", ("D2 = (1.0 /", "D2 = 2 * (1.0 /")
SINGLESTEP = (
    ("- 0.5 * (alpha_t * (torch.exp(-h) - 1.0)) * D1", "+ alpha_t * ((torch.exp(-h) - 1.0) / h + 1.0) * D1"),
    ("- 0.5 * (sigma_t * (torch.exp(h) - 1.0)) * D1", "- sigma_t * ((torch.exp(h) - 1.0) / h - 1.0) * D1"),
)
NO_TERM = (("order == 2", "False"),)
UNDONE = {
    "sample_dpmpp_3m_sde": {
        "sample_dpmpp_3m_sde": (("- phi_3 * d2", "- 2 * phi_3 * d2"), ("phi_2 * d\n", "(-h_eta).expm1() * d / -2\n"))
    },
    "DPMSolverMultistepScheduler dpmsolver": {THIRD: (FACTOR,)},
    "DPMSolverMultistepScheduler sde": {THIRD: (FACTOR, ("(2.0 * h) ** 2 - 0.5", "(2.0 * h) ** 2 + 0.5"))},
    "EDMDPMSolverMultistepScheduler": {THIRD: (FACTOR,)},
    "DPMSolverSinglestepScheduler dpmsolver": {"singlestep_dpm_solver_second_order_update": SINGLESTEP},
    "PNDMScheduler skip_prk_steps": {"step_plms": (("(model_output + self.ets[-1]) / 2", "self.ets[-1]"),)},
    "SASolverScheduler": {
        "stochastic_adams_bashforth_update": NO_TERM,
        "stochastic_adams_moulton_update": NO_TERM,
    },
}
SAID = [row for row in parity.ROWS if row.differs and row.theirs.name.startswith(tuple(UNDONE))]


def rewritten(owner, name, changes):
    """A function of theirs, with changes in its source."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(owner, name))))
    for theirs, ours in changes:
        assert theirs in source
        source = source.replace(theirs, ours)
    module = owner if inspect.ismodule(owner) else sys.modules[owner.__module__]
    made = {}
    exec(source, vars(module), made)
    return made[name]


@pytest.mark.parametrize("row", named(SAID))
def test_what_is_said_to_differ_is_all_that_does(row):
    # the other rows that differ have a row beside them that shows the same: the noises, or the method, exchanged
    library = parity.LIBRARIES[with_peer(row).theirs.library]()
    owner = getattr(library, row.theirs.call)
    owner = owner if inspect.isclass(owner) else library
    (changed,) = (functions for start, functions in UNDONE.items() if row.theirs.name.startswith(start))
    with ExitStack() as stack:
        for name, changes in changed.items():
            stack.enter_context(mock.patch.object(owner, name, rewritten(owner, name, changes)))
        assert parity.difference(row, torch.float64) <= parity.DOUBLE


def test_the_page_has_every_row():
    lines = (Path(__file__).parents[1] / "docs" / "parity.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| k-diffusion", "| diffusers"))]
    assert [tuple(row[:3]) for row in rows] == [row.words for row in parity.ROWS]
    for row, (*_, verdict) in zip(parity.ROWS, rows, strict=True):
        assert verdict.startswith(f"differs: {row.differs}" if row.differs else "same")


def test_diffusers_third_order_of_the_sde_is_of_weak_order_one():
    # where its numbers differ most: the distribution itself is of another order
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
