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


def test_the_face_is_complete_and_literal():
    assert sorted(sd.__all__) == sorted(set(sd.__all__))
    for name in sd.__all__:
        assert getattr(sd, name) is not None


def test_importing_the_library_loads_torch_and_numpy_alone():
    code = "import sys, torch; before = set(sys.modules); import scorediff; print(*sorted(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    roots = {name.split(".")[0] for name in out}
    heavy = {"scipy", "matplotlib", "torchdiffeq", "torchsde", "typer", "click", "rich", "tqdm", "diffusers", "pandas"}
    assert not roots & heavy


def test_imports_run_downward_only():
    order = [
        "states", "registry", "schedules", "predictions", "denoiser", "problems", "coordinates", "grids", "noise",
        "solvers", "backends", "data", "exact", "sampling", "pictures", "study", "verify", "testing", "cli", "__main__",
    ]  # fmt: skip
    rank = {name: i for i, name in enumerate(order)}
    for path in (ROOT / "scorediff").rglob("*.py"):
        here = path.relative_to(ROOT / "scorediff").parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for target in re.findall(r"^from scorediff\.(\w+)", path.read_text(), re.MULTILINE):
            assert rank[target] <= rank[here], f"{path.name} imports {target}, which lies above it"
