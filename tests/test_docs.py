"""Every example runs, and importing the library loads no more than it must."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from statistics import median

import pytest
from discovery import UNRECORDED
from orders import moved, recorded, solvers, stale
from sources import sources

import scorediff as sd
from scorediff.verify.runs import stochastic

ROOT = Path(__file__).parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(sd.__path__, "scorediff.") if not m.name.endswith("__main__")]
#: What an example may name without an import.
SPACES = [sd, sd.guidance, sd.schedules, sd.solvers, sd.spacings, sd.targets]
NAMES = {name: getattr(space, name) for space in SPACES for name in space.__all__}
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("name", ["scorediff", *MODULES])
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is"
    result = doctest.testmod(module, extraglobs=NAMES, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_readme_examples_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert BLOCKS
    names = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)


def test_the_first_example_of_the_readme_is_five_lines_that_make_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 5
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    (picture,) = tmp_path.iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_readme_is_short_and_its_files_exist():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 12_000
    for path in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", text):
        assert (ROOT / (path[0] or path[1])).exists(), path


def claims():
    for name, solver in solvers().items():
        if sd.ProbabilityFlow in solver.solves:
            # noise on the flow is measured in distribution
            kind, declared = ("weak order", solver.weak_order) if stochastic(solver) else ("order", solver.order)
            yield name, kind, declared, solver.nfe
        if sd.ReverseSDE in solver.solves:
            yield name, "weak order", solver.weak_order, solver.nfe
            yield name, "strong order", solver.strong_order, solver.nfe


def test_the_recorded_table_has_every_claim_of_every_solver_and_each_holds():
    rows = {row[:2]: row[2:] for lines in recorded().values() for row in lines}
    missing = {(name, kind) for name, kind, *_ in claims()} ^ rows.keys()
    # those that are new are measured in test_orders.py
    assert not [name for name, _ in missing if name not in {solver.name for solver in UNRECORDED}], "run `make orders`"
    for name, kind, declared, nfe in claims():
        if (name, kind) in rows:
            shown, _, _, per_step, verdict, _ = rows[name, kind]
            assert shown == ("-" if declared is None else f"{declared:g}"), f"{name}: run `make orders`"
            assert declared is None or nfe is None or per_step == str(nfe), name
            assert verdict.startswith("skipped: it declares none" if declared is None else "OK"), name


def test_a_solver_is_measured_again_where_its_hash_is_another_or_it_has_no_line():
    record = recorded()
    assert set(stale({})) == set(solvers())
    fresh = {name: [(*rows[0][:-1], sources(solvers()[name]))] for name, rows in record.items() if name in solvers()}
    assert not [name for name in stale(fresh) if name in record]
    fresh["ddim"] = [(*fresh["ddim"][0][:-1], "0" * 12)]
    assert "ddim" in stale(fresh)
    # and an order that is no longer the recorded one is named
    other = {"ddim": [tuple("0.50" if n == 3 else cell for n, cell in enumerate(row)) for row in record["ddim"]]}
    assert len(moved(record, other)) == len(record["ddim"]) and not moved(record, record)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_the_examples_of_every_page_run(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), {})


def test_the_lines_that_a_page_quotes_are_those_of_the_solver():
    (quoted,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs/how-a-step-is-made.md").read_text(), re.DOTALL)
    source = inspect.getsource(sd.DPMSolverPP.predictor)
    assert all(line in source for line in quoted.splitlines())


NAMESPACES = ["backends", "coordinates", "guidance", "interop", "lab", "linear_parts", "noise", "predictions",
              "schedules", "solvers", "spacings", "study", "targets", "verify"]  # fmt: skip


def test_the_face_is_forty_names_at_most_and_the_namespaces():
    assert len(sd.__all__) == len(set(sd.__all__)) and dir(sd) == sorted([*sd.__all__, "__version__"])
    assert [name for name in sd.__all__ if inspect.ismodule(getattr(sd, name))] == NAMESPACES
    names = set(sd.__all__) - set(NAMESPACES)
    assert 30 <= len(names) <= 40
    # words that say nothing without their namespace
    assert not names & {"Beta", "Controller", "Exponential", "Form", "Mask", "Matrix", "Noise", "RungeKutta", "Start",
                        "Time", "Times"}  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'RungeKutta'"):
        _ = sd.RungeKutta


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_namespace_is_there_without_an_import_of_its_own(name, fresh):
    done = fresh(f"import scorediff as sd; assert sd.{name}.__doc__ and sd.{name}.__name__ == 'scorediff.{name}'")
    assert done.returncode == 0, done.stderr


def test_importing_the_library_imports_none_of_it_until_a_name_is_asked_for(fresh):
    code = "import sys, scorediff; print(*(n for n in sys.modules if n.startswith('scorediff.')))"
    assert fresh(code).stdout.split() == []


def test_a_sampling_run_loads_torch_and_numpy_alone(fresh):
    code = """import sys, torch; before = set(sys.modules)
from scorediff import ClassifierFree, Denoiser, sample, solvers
print(*sorted(set(sys.modules) - before))"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    roots = {name.split(".")[0] for name in done.stdout.split()}
    heavy = {"scipy", "matplotlib", "torchdiffeq", "torchsde", "typer", "click", "rich", "tqdm", "diffusers", "pandas",
             "safetensors", "accelerate", "PIL", "transformers"}  # fmt: skip
    assert not roots & heavy


def test_files_are_small():
    sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / "scorediff").rglob("*.py")}
    assert median(sizes.values()) < 130
    assert not [path for path, size in sizes.items() if size > 320]


def test_no_module_imports_itself_by_a_detour():
    imports = {}
    for name in MODULES:
        tree = ast.parse(Path(importlib.import_module(name).__file__).read_text())
        lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        imports[name] = {
            full if (full := f"{line.module}.{alias.name}") in MODULES else line.module
            for line in lines
            for alias in line.names
        }
    while leaves := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in leaves:
            del imports[name]
    assert not imports, f"these import each other: {', '.join(imports)}"


def test_imports_run_downward_only():
    order = [
        "_core", "schedules", "predictions", "denoiser", "guidance", "problems", "coordinates", "linear_parts",
        "spacings", "noise", "solvers", "backends", "targets", "sampling", "verify", "lab", "study", "interop",
        "testing", "cli", "__main__",
    ]  # fmt: skip
    rank = {name: i for i, name in enumerate(order)}
    for path in (ROOT / "scorediff").rglob("*.py"):
        here = path.relative_to(ROOT / "scorediff").parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for target in re.findall(r"^from scorediff\.(\w+)", path.read_text(), re.MULTILINE):
            assert rank[target] <= rank[here], f"{path.name} imports {target}, which lies above it"
