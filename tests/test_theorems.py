"""The suite knows what it proves, of what, and what the numbers that it trusts depend on."""

import pytest
from discovery import OURS, SOLVERS
from engines import stand_ins, taken
from mutations import module_text
from sources import depends_on, sources
from theorems import COLLECTED, PAGE, ROOT, of_file, page

import scorediff as sd

AGAIN = "run `python tests/theorems.py`"


def test_the_page_of_theorems_is_that_of_the_suite(pytestconfig):
    found, text = pytestconfig.stash[COLLECTED], PAGE.read_text(encoding="utf-8")
    if any("::" in argument for argument in pytestconfig.args):
        pytest.skip("a part of a file was collected: its theorems are not all there")
    for path in dict.fromkeys(path for path, _ in found):
        assert of_file(text, path) == of_file(page(found), path), f"{path}: {AGAIN}"


def test_the_page_says_where_hypothesis_draws_and_what_the_table_of_orders_holds():
    rows = of_file(PAGE.read_text(encoding="utf-8"), "tests/test_properties.py").splitlines()
    assert "| encoding and sampling come back at the solvers order | some | all, more examples |" in rows
    rows = of_file(PAGE.read_text(encoding="utf-8"), "tests/test_orders.py").splitlines()
    assert "| a solver has the order it declares | some | all, by `make orders` |" in rows


def test_the_page_of_theorems_has_every_file_of_tests_and_no_other():
    files = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("examples/test_*.py")]
    titles = [line[3:] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert sorted(titles) == sorted(path.relative_to(ROOT).as_posix() for path in files), AGAIN


# --- which solvers stand for all


@pytest.mark.parametrize("solvers", [SOLVERS, OURS, [s for s in OURS if not s.adaptive]], ids=["all", "ours", "fixed"])
def test_stand_ins_take_every_branch_of_what_two_classes_share(solvers):
    chosen, runs = stand_ins(solvers), taken()
    assert len(chosen) < len(solvers) / 3
    classes = {}
    for solver in solvers:
        for branch in runs[solver.name]:
            classes.setdefault((branch.file, branch.function), set()).add(type(solver))
    shared = {b for s in solvers for b in runs[s.name] if len(classes[b.file, b.function]) > 1}
    assert shared <= set().union(*(runs[s.name] for s in chosen))


def test_every_way_to_run_is_run_by_a_stand_in():
    def ways(solvers):
        return {(b.file, b.function) for s in solvers for b in taken()[s.name] if b.function.endswith(".run")}

    assert ways(stand_ins(OURS)) == ways(OURS) and len(ways(OURS)) > 10


# --- what the recorded orders depend on


def changed(module, old, new):
    text = module_text(module)
    assert text.count(old) == 1
    return {module: text.replace(old, new)}


DPM = "scorediff.solvers.exponential.dpm_solver"


def test_words_do_not_change_the_hash_and_numbers_do():
    solver = sd.DPMSolverPP(2)
    for old, new in (
        ("# h phi_1: the integral of the kernel", "# another comment"),
        ('"published" starts as the paper does', "other words"),
        ("predictor(self, history: History) -> np.ndarray:", "predictor(self, history: Any) -> Any:"),
        (
            "h_phi_1 = history.kernel.h_phi_1(history.h)",
            "h_phi_1 = history.kernel.h_phi_1(\n            history.h\n        )",
        ),
    ):
        assert sources(solver, changed(DPM, old, new)) == sources(solver)
    for old, new in (
        ("history.h / (2 *", "history.h / (3 *"),
        ("import numpy as np", "import jax.numpy as np"),  # what a name stands for
    ):
        assert sources(solver, changed(DPM, old, new)) != sources(solver)


def test_a_hash_is_that_of_the_solver_alone():
    other = changed(DPM, "history.h / (2 *", "history.h / (3 *")
    for solver in (sd.UniPC(2), sd.Heun(), sd.DDIM(), sd.ExponentialAdams()):
        assert sources(solver, other) == sources(solver)
    # a start, a step or coordinates are parts of the solver; what measures it is always among them
    rk = changed("scorediff.solvers.exponential.singlestep", "{1: 2 * _P(2)}, lower={})", "{1: 3 * _P(2)}, lower={})")
    assert sources(sd.DPMSolverPP(3, start=sd.solvers.RungeKuttaStart()), rk) != sources(
        sd.DPMSolverPP(3, start=sd.solvers.RungeKuttaStart())
    )
    assert sources(sd.DPMSolverPP(3), rk) == sources(sd.DPMSolverPP(3))
    assert {("scorediff.verify.slope", "fit"), ("scorediff.verify.strong", "_distance")} <= depends_on(sd.Heun())
