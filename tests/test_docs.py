"""Every example runs, and importing the library loads no more than it must."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scorediff as sd
from scorediff import registry
from scorediff.verify.runs import stochastic

ROOT = Path(__file__).parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(sd.__path__, "scorediff.") if not m.name.endswith("__main__")]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("name", ["scorediff", *MODULES])
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is"
    result = doctest.testmod(module, extraglobs={k: getattr(sd, k) for k in sd.__all__}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_readme_examples_run_one_after_another():
    assert BLOCKS
    names = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)


def test_the_readmes_files_exist():
    for path in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", (ROOT / "README.md").read_text()):
        assert (ROOT / (path[0] or path[1])).exists(), path


def orders_of_the_readme():
    table = (ROOT / "README.md").read_text().split("<!-- orders -->")[1].split("<!-- /orders -->")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.strip().splitlines()]
    return {(row[0], row[1]): row[2:] for row in rows[2:]}


def claims():
    for name, solver in registry.names(sd.Solver).items():
        if type(solver).__module__.startswith("scorediff."):
            if sd.ProbabilityFlow in solver.solves:
                # noise on the flow is measured in law
                kind, declared = ("weak order", solver.weak_order) if stochastic(solver) else ("order", solver.order)
                yield name, kind, declared, solver.nfe
            if sd.ReverseSDE in solver.solves:
                yield name, "weak order", solver.weak_order, solver.nfe
                yield name, "strong order", solver.strong_order, solver.nfe


def test_the_readmes_table_has_every_claim_of_every_solver_and_each_holds():
    rows = orders_of_the_readme()
    assert sorted(rows) == sorted((name, kind) for name, kind, *_ in claims()), "run `make orders`"
    for name, kind, declared, nfe in claims():
        shown, _, _, per_step, verdict = rows[name, kind]
        assert shown == ("-" if declared is None else f"{declared:g}"), f"{name}: run `make orders`"
        assert declared is None or nfe is None or per_step == str(nfe), name
        assert verdict.startswith("skipped: it declares none" if declared is None else "OK"), name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_the_examples_of_every_page_run(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), {})


def test_the_face_is_complete_and_literal():
    assert sorted(sd.__all__) == sorted(set(sd.__all__))
    for name in sd.__all__:
        assert getattr(sd, name) is not None


def test_importing_the_library_loads_torch_and_numpy_alone():
    code = "import sys, torch; before = set(sys.modules); import scorediff; print(*sorted(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    roots = {name.split(".")[0] for name in out}
    heavy = {"scipy", "matplotlib", "torchdiffeq", "torchsde", "typer", "click", "rich", "tqdm", "diffusers", "pandas",
             "safetensors", "accelerate", "PIL", "transformers"}  # fmt: skip
    assert not roots & heavy


def test_imports_run_downward_only():
    order = [
        "files", "conditions", "states", "arrays", "registry", "schedules", "predictions", "denoiser", "guidance",
        "problems", "coordinates", "grids", "noise", "solvers", "backends", "data", "exact", "sampling", "nn",
        "checkpoints", "shards", "pictures", "study", "metrics", "training", "verify", "experiments", "interop",
        "testing", "cli", "__main__",
    ]  # fmt: skip
    rank = {name: i for i, name in enumerate(order)}
    for path in (ROOT / "scorediff").rglob("*.py"):
        here = path.relative_to(ROOT / "scorediff").parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for target in re.findall(r"^from scorediff\.(\w+)", path.read_text(), re.MULTILINE):
            assert rank[target] <= rank[here], f"{path.name} imports {target}, which lies above it"
