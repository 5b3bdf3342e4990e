"""The command line."""

import csv
import dataclasses
import importlib
import inspect
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from discovery import by_day
from matplotlib.image import imread
from typer.testing import CliRunner

import scorediff as sd
from scorediff._core import registry
from scorediff.cli import app, options
from scorediff.cli.fields import with_options_of
from scorediff.lab.data import digits
from scorediff.lab.training import Recipe
from scorediff.targets import Target


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scorediff(line):
    return CliRunner().invoke(app, line.split())


def fails(line, code, *words):
    """Run a line that fails: one line on stderr that holds `words`, and no file left."""
    result = scorediff(line)
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("scorediff: ")
    for word in words:
        assert word in result.stderr, result.stderr
    assert "Traceback" not in result.output
    return result


def test_sample_writes_a_picture_of_digits(here):
    result = scorediff("sample --model digits --solver dpm++2m --steps 6 --n 4 --seed 0 --out a.png")
    assert result.exit_code == 0, result.output
    assert "6 evaluations" in result.stdout
    assert imread(here / "a.png").shape[:2] == (8 * 19, 8 * 19)


def test_sample_writes_the_numbers_that_the_library_makes(here):
    line = "sample --solver dpm++2m --steps 5 --n 3 --seed 7 --spacing karras:rho=5 --dtype float64 --bandwidth 0.3"
    assert (
        scorediff(f"{line} --terminal half-step --t-start 0.9 --t-end 0.01 --batch-size 2 --out a.npz").exit_code == 0
    )
    flow = sd.ProbabilityFlow(sd.targets.Empirical(digits(), 0.3).denoiser(sd.VPLinear()))
    made = sd.sample(
        flow,
        (3, 1, 8, 8),
        sd.DPMSolverPP(2),
        steps=5,
        seed=7,
        spacing=sd.spacings.Karras(rho=5),
        t_start=0.9,
        t_end=0.01,
        terminal=sd.solvers.HalfStep(),
        dtype=torch.float64,
    )
    with np.load(here / "a.npz", allow_pickle=False) as file:
        assert np.allclose(file["samples"], made.x.numpy(), rtol=0, atol=1e-12)
        assert file["status"].tolist() == [0, 0, 0] and file["evaluations"].tolist() == [6, 6, 6]
        settings = json.loads(str(file["settings"]))
    assert settings["model"] == "digits" and settings["bandwidth"] == 0.3 and settings["seed"] == 7
    made_by = {"type": "DPMSolverPP", "k": 2, "start": {"type": "GradedStart"}, "lower_order_final": False}
    made_by["part"] = {"type": "DataPart"}
    assert settings["solver"] == made_by and settings["terminal"] == {"type": "HalfStep"}
    assert settings["grid"] == made.settings["grid"]


@pytest.mark.parametrize("model", sorted(registry.names(Target)))
def test_distributions_in_the_plane_are_drawn_as_points(here, model):
    assert scorediff(f"sample --model {model} --schedule edm --n 50 --steps 5 --out a.png").exit_code == 0
    assert imread(here / "a.png").size


@pytest.mark.parametrize(
    "line, problem, eta",
    [
        ("--solver ddim", "ProbabilityFlow", 0),
        ("--solver ddim --eta 0.5", "ReverseSDE", 0.5),
        ("--solver ddpm", "ReverseSDE", 1),
        ("--solver sde-dpm++2m --eta 2", "ReverseSDE", 2),
        ("--solver rk45:rtol=1e-2 --eta 0", "ProbabilityFlow", 0),
    ],
)
def test_the_problem_is_the_one_that_the_solver_solves(here, line, problem, eta):
    assert scorediff(f"sample --model gaussian --n 2 {line} --out a.npz").exit_code == 0
    with np.load(here / "a.npz") as file:
        assert json.loads(str(file["settings"]))["problem"] == {"type": problem, "eta": eta}


@pytest.mark.parametrize(
    "line, words",
    [
        ("sample --solver dpm++2mm", "did you mean 'dpm++2m'"),
        ("sample --solver ddim:sdeps=3", "no option 'sdeps'"),
        ("sample --solver rk45:rtl=1e-3", "did you mean 'rtol'"),
        ("sample --schedule vp-liner", "did you mean 'vp-linear'"),
        ("sample --spacing karas", "did you mean 'karras'"),
        ("sample --model digit", "did you mean 'digits'"),
        ("sample --terminal half", "did you mean 'half-step'"),
        ("sample --dtype float46", "did you mean 'float64'"),
        ("sample --stepps 3", "--steps"),
        ("smaple", "Did you mean 'sample'"),
        ("compare --solvers ddim,dpm++2mm", "did you mean 'dpm++2m'"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(here, line, words):
    fails(line, 2, words)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    "line, words",
    [
        ("sample --solver rk45 --steps 5", "drop --steps 5"),
        ("sample --solver ddim --max-evaluations 5", "adaptive"),
        ("sample --solver rk45 --spacing karras", "chooses its own steps"),
        ("sample --steps 0", "at least 1"),
        ("sample --steps -3", "at least 1"),
        ("sample --n 0", "--n"),
        ("sample --solver ddpm --eta 0", "wants eta above 0"),
        ("sample --solver dpm++2m --eta 1", "probability flow"),
        ("sample --solver ddim --eta 1.5", "eta = 1.5"),
        ("sample --solver ddim --eta -1", "eta = -1"),
        ("sample --model gaussian --bandwidth 0.1", "--model digits"),
        ("sample --bandwidth -1", "bandwidth"),
        ("sample --t-start 2", "t_start = 2"),
        ("sample --t-end 0.5 --t-start 0.2", "t_end < t_start"),
        ("sample --solver rk45:rtol=1e-9,atol=1e-9", "float64"),
        ("sample --out a.gif", ".png or .npz"),
        ("sample --out nowhere/a.png", "make it first"),
        ("sample --out file/a.png", "not a folder"),
        ("compare --nfe 5,x", "whole numbers"),
        ("compare --nfe 0", "whole numbers"),
        ("compare --solvers ,", "--solvers is empty"),
        ("compare --solvers ddim,ddim", "two solvers are called 'ddim'"),
        ("compare --solvers ddpm --eta 0", "wants eta above 0"),
        ("compare --out a.csv", ".png or .pdf or .svg"),
        ("compare --out nowhere/a.png", "make it first"),
        ("demo --out file/demo", "cannot make this folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_2(here, line, words):
    (here / "file").touch()
    fails(line, 2, words)
    assert [p.name for p in here.iterdir()] == ["file"]


#: Every option and argument that takes a path, a line of words each.
PLACES = {
    "sample": "sample --model gaussian --n 4 --steps 2 --out",
    "compare": "compare --model gaussian --n 4 --solvers ddim --nfe 2 --out",
    "demo": "demo --out",
    "train": "train --data digits --network mlp --steps 1 --no-progress --out",
    "average": "average run --std 0.1 --out",
    "experiment": "experiment consistency --out",
    "order": "order ddim --csv",
    "model": "sample --n 1 --steps 1 --model",
    "data": "train --steps 1 --out run --data",
    "run": "average --std 0.1 --out a.safetensors",
}
WRITTEN = sorted(PLACES.keys() - {"model", "data", "run"})


def refused(line, place, *words):
    """Run a line that ends in a path: one line on stderr, which holds `words`, and the code of a wrong request."""
    result = CliRunner().invoke(app, [*line.split(), place])
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("scorediff: ")
    for word in words:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "an empty name is not a path: name a file or a folder"),
        ("x" * 300, "File name too long): name another path"),
        ("~nobody-of-that-name/a", "name another path"),
    ],
)
@pytest.mark.parametrize("line", PLACES.values(), ids=PLACES)
def test_a_path_that_cannot_be_is_refused_wherever_one_is_asked_for(here, line, place, words):
    refused(line, place, words)
    assert not list(here.iterdir())


@pytest.mark.parametrize("place", ["loop", "loop/a", "/dev/null", "/dev/null/a", "file/a"])
@pytest.mark.parametrize("line", [PLACES[name] for name in WRITTEN], ids=WRITTEN)
def test_a_loop_of_links_a_device_and_a_file_are_refused_as_folders(here, line, place):
    (here / "loop").symlink_to("loop")
    (here / "file").touch()
    takes_file = line.split()[0] in ("compare", "average", "order")
    end = {"compare": ".png", "average": ".safetensors", "order": ".csv"}.get(line.split()[0], "")
    refused(line, place + end if takes_file and place.endswith("/a") else place, place.removesuffix("/a"), "name")
    assert sorted(path.name for path in here.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize("place", ["loop", "/dev/null"])
@pytest.mark.parametrize("name", ["model", "data", "run"])
def test_what_is_not_to_be_read_is_unknown(here, name, place):
    (here / "loop").symlink_to("loop")
    refused(PLACES[name], place, place)


@pytest.mark.parametrize("line", [*(PLACES[name] for name in WRITTEN), PLACES["data"]], ids=[*WRITTEN, "data"])
def test_a_working_folder_that_was_removed_is_named(tmp_path, monkeypatch, line):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    end = {"compare": "a.png", "average": "a.safetensors", "order": "a.csv"}.get(line.split()[0], "a")
    refused(line, "." if "--data" in line and "--out run" in line else end, "working folder", "has been removed")


@pytest.mark.parametrize("manifest", ["[]", "{", "null", '{"name": "a web page"}'])
def test_a_folder_with_a_manifest_of_something_else_is_refused_and_left_as_it_is(here, manifest):
    (here / "many").mkdir()
    (here / "many" / "manifest.json").write_text(manifest)
    refused(PLACES["sample"], "many", "many/manifest.json", "name a new")
    assert (here / "many" / "manifest.json").read_text() == manifest


def test_a_full_disk_is_code_1_and_says_how_to_go_on(here, monkeypatch):
    def full(part, **arrays):
        with open("/dev/full", "w") as disk:
            disk.write("x")

    monkeypatch.setattr("numpy.savez", full)
    for out in ("a.npz", "many"):
        fails(f"sample --model gaussian --n 4 --steps 2 --out {out}", 1, "No space left on device", "make room", out)
    assert [path.name for path in here.iterdir()] == ["many"]


def test_an_archive_that_claims_more_than_the_memory_holds_is_code_2(here):
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    words = "{'descr': '<f8', 'fortran_order': False, 'shape': (9007199254740992,), }"  # 2^56 bytes
    with zipfile.ZipFile(here / "a.npz", "w") as archive:
        archive.writestr("images.npy", header + words.ljust(117).encode() + b"\n")
    fails("train --data a.npz --steps 1 --out run", 2, "a.npz cannot be read as arrays")
    assert [path.name for path in here.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("line", ["sample --out nowhere/a.png", "compare --out nowhere/a.png"])
def test_an_output_that_cannot_be_written_is_refused_before_any_computing(here, monkeypatch, line):
    def compute(*args, **kwargs):
        raise AssertionError("computing")

    monkeypatch.setattr("scorediff.sample", compute)
    monkeypatch.setattr("scorediff.study.work_precision", compute)
    fails(line, 2, "nowhere")


def test_a_solver_that_fails_is_code_1_and_names_the_sample(here):
    fails("sample --solver rk45 --max-evaluations 20 --n 3 --out a.png", 1, "sample 0", "t = ", "budget exhausted")
    assert not list(here.iterdir())


@pytest.mark.parametrize("out, writer", [("a.npz", "numpy.savez"), ("a.png", "matplotlib.image.imsave")])
def test_a_write_that_fails_is_code_1_and_leaves_what_was_there(here, monkeypatch, out, writer):
    def fail_halfway(path, *args, **kwargs):
        path.write_text("half")
        raise OSError("disk full")

    (here / out).write_text("old")
    monkeypatch.setattr(writer, fail_halfway)
    fails(f"sample --n 2 --steps 2 --out {out}", 1, "disk full")
    assert (here / out).read_text() == "old" and [p.name for p in here.iterdir()] == [out]


def test_compare_prints_a_table_and_writes_csv_and_plot(here):
    line = "compare --model gaussian --solvers ddim,rk45:rtol=1e-3,atol=1e-3,ddpm --nfe 2,4 --n 20 --out a.png"
    result = scorediff(line)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in here.iterdir()) == ["a.csv", "a.png"]
    assert imread(here / "a.png").size
    with (here / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["solver"] for r in rows] == ["ddim"] * 2 + ["rk45:rtol=1e-3,atol=1e-3"] + ["ddpm"] * 2
    for row in rows:
        assert row["solver"] in result.stdout


def test_compare_runs_every_solver_that_can_on_the_sde_it_is_given(here):
    result = scorediff("compare --model gaussian --solvers ddim --eta 0.5 --nfe 4 --n 20 --out a.svg")
    assert result.exit_code == 0 and "distance in distribution" in result.stdout


def test_solvers_lists_every_name_that_the_registry_knows(here):
    known = registry.names(sd.Solver)
    table = scorediff("solvers").stdout
    made = json.loads(scorediff("solvers --json").stdout)
    assert {row["name"] for row in made["solvers"]} == set(known)
    for kind, base in (
        ("schedules", sd.schedules.Schedule),
        ("spacings", sd.spacings.Spacing),
        ("coordinates", sd.coordinates.Coordinates),
    ):
        assert {row["name"] for row in made[kind]} == set(registry.names(base))
    lines = {line.split()[0]: line.split() for line in table.partition("schedules:")[0].splitlines() if line.strip()}
    assert set(known) <= set(lines)
    assert lines["dpm++2m"][1:6] == ["2", "-", "1", "ODE", "fixed"]
    assert lines["ddim"][1:7] == ["1", "1", "1", "ODE", "and", "SDE"]
    assert "adaptive" in lines["rk45"] and lines["sde-dpm++2m"][1:3] == ["-", "2"]


def test_what_solvers_lists_for_the_command_line_is_understood_there(here):
    text = scorediff("solvers").stdout.split("schedules:")[1]
    blocks = dict(
        zip((sd.schedules.Schedule, sd.spacings.Spacing, sd.coordinates.Coordinates), text.split("\n\n"), strict=True)
    )
    for base, block in blocks.items():
        for line in [line.strip() for line in block.splitlines() if line.startswith("  ")]:
            assert registry.parse(base, line) == registry.parse(base, line.partition(":")[0])


@pytest.mark.parametrize("command", ["", "sample", "compare", "solvers", "demo"])
def test_help_says_what_a_command_does(command):
    result = scorediff(f"{command} --help")
    assert result.exit_code == 0 and "Usage: " in result.stdout
    if command not in ("", "demo"):
        lines = [line.split() for line in result.stdout.partition("Examples:")[2].splitlines()]
        assert sum(line[:2] == ["scorediff", command] for line in lines) >= 2


def test_a_list_of_solvers_keeps_options_with_their_solver():
    assert options.split_solvers("ddim, rk45:rtol=1e-4,atol=1e-4,euler:coordinates=angle:data_std=2,heun") == [
        "ddim",
        "rk45:rtol=1e-4,atol=1e-4",
        "euler:coordinates=angle:data_std=2",
        "heun",
    ]


@pytest.mark.nightly
def test_the_demo_writes_its_pictures_and_tables(here, monkeypatch):
    demo = importlib.import_module("scorediff.cli.demo")
    monkeypatch.setattr(demo, "_BUDGETS", (10, 20))
    monkeypatch.setattr(demo, "_SDE_BUDGETS", (10,))
    monkeypatch.setattr(demo, "_TOLERANCES", (1e-2,))
    result = scorediff("demo --n 16 --out made/demo")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (here / "made" / "demo").iterdir()) == sorted(demo._FILES)
    assert imread(here / "made" / "demo" / "demo.png").shape[1] > 1000
    names = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert len(names & set(registry.names(sd.Solver))) >= 12


def test_the_version_is_that_of_the_package():
    assert scorediff("--version").stdout.strip() == f"scorediff {sd.__version__}"


@pytest.mark.parametrize(
    "line, code, words",
    [
        ("sample --solver dmp++2m", 2, "did you mean 'dpm++2m'"),
        ("sample --solver rk45 --max-evaluations 9 --n 2", 1, "sample 0"),
    ],
)
def test_the_exit_codes_reach_the_shell(here, fresh, line, code, words):
    program = f"import os, runpy, sys; os.chdir({str(here)!r}); sys.argv = ['scorediff', *{line.split()!r}]; "
    done = fresh(program + "runpy.run_module('scorediff', run_name='__main__', alter_sys=True)")
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert not list(here.iterdir())


@pytest.mark.nightly
def test_a_reader_that_goes_away_leaves_no_traceback(here):
    line = f"{sys.executable} -m scorediff solvers --json | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


# weak and strong orders take their time, and so does every process
@pytest.mark.parametrize(("first", "jobs"), by_day([("euler", 1), ("ddim", 2)], [("euler", 1)]))
def test_order_prints_declared_beside_measured_and_writes_both_files(here, first, jobs):
    page = here / "page.md"
    page.write_text("# Mine\n<!-- orders -->\n<!-- /orders -->\n")
    names = f"{first} heun:coordinates=log-snr scipy-lsoda"
    result = scorediff(f"order {names} --jobs {jobs} --csv o.csv --markdown page.md --points")
    assert result.exit_code == 0, result.output
    claims = {"euler": 1, "ddim": 3}[first] + 1
    assert f"{claims} of {claims} declared orders are the measured ones, 1 skipped" in result.output
    assert "heun:coordinates=log-snr" in result.output and "fitted" in result.output
    with (here / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = {"euler": {"order"}, "ddim": {"order", "weak order", "strong order"}}[first]
    assert {row["kind"] for row in rows if row["solver"] == first} == kinds
    assert page.read_text().startswith("# Mine\n<!-- orders -->\n| solver | kind | declared |")


def test_order_exits_with_1_where_a_solver_is_not_what_it_declares(here):
    class Pretender(sd.Solver):
        order = 2

        def run(self, problem, x, grid, noise):
            for t, s in grid.pairs():
                x = x + (s - t) * problem.drift(t, x)
                yield s, x

    result = scorediff("order pretender --csv o.csv")
    assert result.exit_code == 1
    assert "mismatches: pretender (order)" in result.output and "declared 2" in result.output
    assert (here / "o.csv").exists()


def test_order_says_what_is_wrong_with_what_was_asked(here):
    fails("order", 2, "--all")
    fails("order ddim --all", 2, "--all")
    fails("order dimm", 2, "did you mean 'ddim'")
    fails("order ddim --csv no/where.csv", 2, "no")
    fails("order ddim --markdown orders.txt", 2, ".md")
    (here / "page.md").write_text("no marks")
    fails("order ddpm-large --markdown page.md", 2, "<!-- orders -->")
    assert (here / "page.md").read_text() == "no marks"


TRAIN = "train --network mlp:width=16,depth=1 --steps 12 --batch 8 --held-out 9 --no-progress"


def test_a_network_is_trained_averaged_and_sampled_by_commands(here):
    result = scorediff(f"{TRAIN} --data digits --out run --prediction v --times log-normal:std=2 --weighting min-snr")
    assert result.exit_code == 0, result.output
    assert "model.safetensors: 12 steps in" in result.stdout
    assert scorediff("average run --std 0.2 --out wide.safetensors").exit_code == 0
    for line in (
        "--model run --label 3 --out a.png",
        "--model wide.safetensors --schedule edm --label none --out b.png",
    ):
        result = scorediff(f"sample {line} --steps 3 --n 4")
        assert result.exit_code == 0, result.output
    result = scorediff("sample --model run --steps 3 --n 10 --shard 4 --batch 3 --out many --no-progress")
    assert result.exit_code == 0 and "10 samples in 3 files" in result.stdout, result.output
    assert json.loads((here / "many" / "manifest.json").read_text())["step"] == 12
    with np.load(here / "many" / "samples-000002.npz") as file:
        assert file["samples"].shape == (2, 1, 8, 8) and list(file["labels"]) == [8, 9]
    fails("sample --model run --steps 4 --n 10 --shard 4 --out many", 2, "options.steps was 3, now 4")
    fails("sample --model run --label 11 --steps 3", 2, "unknown label '11'")
    fails("sample --model run --bandwidth 0.1", 2, "--model digits")
    fails(f"{TRAIN} --data digits --out run --lr 0.5", 2, "recipe.lr was 0.001, now 0.5")


def test_every_field_of_a_recipe_is_an_option_of_train_with_its_help_and_its_default():
    result = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"})
    shown = " ".join(result.stdout.replace("│", " ").split())
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name.replace('_', '-')} " in shown and field.metadata["help"] in shown
    for default in ("vp-linear", "noise", "unet", "continuous", "simple", 10_000, 64, 0.001, 200, 0.3, 1.0, 0.1, "no"):
        assert f"[default: {default}]" in shown


def test_options_left_out_make_the_default_recipe():
    made = []
    command = with_options_of(Recipe, "recipe")(lambda recipe: made.append(recipe))
    command(**{name: option.default for name, option in inspect.signature(command).parameters.items()})
    assert made == [Recipe()]


@pytest.mark.parametrize(
    "line, words",
    [
        (f"{TRAIN} --data nothing --out run", "known: digits, fashion-mnist"),
        (f"{TRAIN} --data digits --size 4 --out run", "for folders of images"),
        (f"{TRAIN} --data digits --prediction nose --out run", "did you mean 'noise'"),
        (f"{TRAIN} --data digits --weighting min-snr:gamma=-1 --out run", "gamma = -1"),
        (f"{TRAIN} --data digits --precision fp8 --out run", "'no', 'bf16' or 'fp16'"),
        ("sample --label 3 --n 2", "takes no classes"),
        ("sample --model nowhere/model.safetensors", "unknown model"),
        ("average nowhere --std 0.1 --out a.safetensors", "keeps no averages"),
        ("experiment consistency --model nothing", "unknown checkpoint"),
        ("experiment consistency --steps 5,x", "whole numbers"),
    ],
)
def test_what_cannot_be_trained_or_sampled_is_one_line_and_nothing_is_left(here, line, words):
    result = scorediff(line)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and words in result.stderr, result.output
    assert not list(here.iterdir())


def test_inspect_says_what_a_network_is_and_exits_with_1_where_it_looks_wrong(here, monkeypatch):
    right = scorediff("inspect digits-unet --data digits --n 4")
    assert right.exit_code == 0 and "nothing looks wrong" in right.stdout and "EDMPrediction" in right.stdout
    trained = sd.load("digits-unet")
    wrong = dataclasses.replace(trained, prediction=sd.NoisePrediction())
    monkeypatch.setattr("scorediff.cli.subjects.load", lambda name: wrong)
    said = scorediff("inspect digits-unet --data digits --n 4")
    assert said.exit_code == 1 and "it looks like EDMPrediction" in said.stdout


def test_guidance_is_the_scale_of_a_network_that_knows_classes(here):
    line = "sample --model digits-unet --label 3 --solver ddim --steps 3 --n 2 --seed 1"
    assert scorediff(f"{line} --guidance 3 --out guided.npz").exit_code == 0
    trained = sd.load("digits-unet")
    flow = sd.ProbabilityFlow(sd.ClassifierFree(trained.denoiser, 3.0, trained.null))
    made = sd.sample(flow, (2, *trained.shape), "ddim", steps=3, seed=1, cond={"label": torch.tensor([3, 3])}).x
    with np.load("guided.npz") as file:
        np.testing.assert_allclose(file["samples"], made.numpy(), atol=1e-5)
        assert json.loads(str(file["settings"]))["guidance"] == 3.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("inspect digits", "a target whose denoiser is exact"),
        ("inspect nothing-of-that-name", "unknown model"),
        ("inspect fashion-unet --data digits", "data of shape"),
        ("inspect fashion-unet --prompt cat", "not a pipeline of diffusers"),
        ("sample --guidance 2", "not a pipeline of diffusers"),
        ("sample --model fashion-unet --prompt cat", "not a pipeline of diffusers"),
    ],
)
def test_what_cannot_be_inspected_or_guided_is_one_line(here, line, words):
    fails(line, 2, words)
