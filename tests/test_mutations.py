"""Proof that the proofs can fail: every planted slip is seen, by the proofs that docs/mutations.md names."""

import dataclasses
import functools
import gc
import sys

import numpy as np
import pytest
from discovery import by_day
from mutations import (
    BIRTH,
    PAGE,
    PROOFS,
    SAMPLERS,
    SHAPE,
    SLIPS,
    caught,
    first,
    module_text,
    outcomes_of,
    page,
    planted,
)
from sources import sources

import scorediff as sd
from scorediff._core import registry

ON_PAGE = outcomes_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
AGAIN = "run `python tests/mutations.py`"
REFUSED = [slip for slip in SLIPS if ON_PAGE.get(slip.name, {}).get(BIRTH)]


@functools.cache
def holds_unslipped(proof, sampler):
    return PROOFS[proof].passes(SAMPLERS[sampler].solver, SAMPLERS[sampler])


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.name)
def test_a_planted_slip_is_seen_by_the_first_proof_that_the_page_names(slip):
    # the cheapest, which the solver goes through without the slip
    assert slip.name in ON_PAGE, f"docs/mutations.md is not up to date: {AGAIN}"
    proof = first(ON_PAGE[slip.name])
    if proof == BIRTH:
        with pytest.raises(ValueError), planted(slip):
            pass
        return
    assert holds_unslipped(proof, slip.sampler)
    with planted(slip) as mutant:
        assert not PROOFS[proof].passes(mutant, SAMPLERS[slip.sampler]), f"{slip.sampler} may have {slip.wrong}"


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.name)
def test_a_planted_slip_changes_the_hash_that_the_recorded_order_depends_on(slip):
    text = module_text(slip.module)
    solver = SAMPLERS[slip.sampler].solver
    assert sources(solver, {slip.module: text.replace(slip.old, slip.new)}) != sources(solver)


@pytest.mark.nightly
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=lambda sampler: sampler.name)
def test_a_true_sampler_passes_every_proof(sampler):
    applicable = [p for p in PROOFS.values() if p.applies(sampler)]
    assert [p.name for p in applicable if not p.passes(sampler.solver, sampler)] == []


@pytest.mark.nightly
@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.name)
def test_a_planted_slip_is_seen_by_the_proofs_that_the_page_names(slip):
    seen = caught(slip)
    assert any(yes for name, yes in seen.items() if name != SHAPE), (
        f"no proof sees that {slip.sampler} has {slip.wrong}"
    )
    assert seen == ON_PAGE.get(slip.name), f"docs/mutations.md is not up to date: {AGAIN}"


def test_the_page_is_what_its_outcomes_make_of_it():
    # the outcomes themselves are compared slip by slip, above
    assert list(ON_PAGE) == [slip.name for slip in SLIPS], AGAIN
    assert page(ON_PAGE) == PAGE.read_text(encoding="utf-8"), AGAIN


def test_slips_have_names_of_their_own_and_every_sampler_has_one():
    assert len({slip.name for slip in SLIPS}) == len(SLIPS)
    assert {slip.sampler for slip in SLIPS} == set(SAMPLERS)


OF_EACH_MODULE = list({slip.module: slip for slip in SLIPS if slip not in REFUSED}.values())


@pytest.mark.parametrize("slip", by_day(OF_EACH_MODULE, OF_EACH_MODULE[:2]), ids=lambda slip: slip.module)
def test_a_mutant_goes_and_leaves_classes_registry_and_modules_as_they_were(slip):
    def known():
        gc.collect()
        return {base: registry.concrete(base) for base in (sd.Solver, sd.coordinates.Coordinates, sd.spacings.Spacing)}

    before, modules = known(), dict(sys.modules)
    assert not [cls for cls in before[sd.Solver] if cls.__module__.startswith("mutant.")]
    with planted(slip) as mutant:
        assert type(mutant).__module__.startswith("mutant.")
        assert type(mutant) in registry.concrete(sd.Solver)
        assert type(mutant) not in [type(solver) for solver in registry.names(sd.Solver).values()]
        assert sys.modules == modules
    del mutant
    assert known() == before


def test_a_slip_reaches_all_that_is_made_of_its_module():
    with planted(next(slip for slip in SLIPS if slip.name == "kappa's sign")) as mutant:
        part, true, eta = type(mutant.part), SAMPLERS["Krogstad"].solver.part, np.zeros(1)
        assert part.__module__ == "mutant.scorediff.linear_parts.forms"
        assert part().kernel(None, eta).kappa == -true.kernel(None, eta).kappa
        # every module that it was made through is a mutant too; what a solver is, is not
        parents = {cls.__name__: cls.__module__ for cls in type(mutant).__mro__}
        assert parents["ExponentialRungeKutta"] == "mutant.scorediff.solvers.exponential.runge_kutta"
        assert parents["Solver"] == "scorediff.solvers.base"


def test_a_mutant_that_is_refused_at_birth_goes_as_well():
    with pytest.raises(ValueError, match="row 4 of the tableau sums to"):
        with planted(next(slip for slip in SLIPS if slip.name == "a weight forgotten")):
            pass
    gc.collect()
    assert not [cls for cls in registry.concrete(sd.Solver) if cls.__module__.startswith("mutant.")]


def test_a_slip_whose_line_has_gone_says_so():
    gone = dataclasses.replace(SLIPS[0], old="a line that nobody wrote")
    with pytest.raises(LookupError, match=r"no longer applies: .* stands 0 times in scorediff\.solvers\.exponential"):
        with planted(gone):
            pass
