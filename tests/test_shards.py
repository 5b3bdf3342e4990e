"""Samples by the thousand are the same however they are made: at once, in parts, after a kill."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from discovery import SOLVERS, engines_by_day, label
from leftovers import left_by_a_killed_process

import scorediff as sd
from scorediff._core import registry
from scorediff._core.files import write_whole
from scorediff.lab.shards import Shards, batch_rounding, sample_shards

LAW = sd.targets.GaussianMixture((0.3, 0.7), ((1.0, -0.5), (-0.6, 0.8)), (0.1, 0.3))
FLOW = sd.ProbabilityFlow(LAW.denoiser(sd.VPLinear()))
HOW = {"n": 50, "size": 12, "steps": 4, "progress": False}


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_any_batch_size_and_any_number_of_processes_make_the_same_files(tmp_path):
    whole = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path / "whole", **HOW)
    assert len(whole) == 5 and not whole.missing() and list(whole.ids(4)) == [48, 49]
    for rank in (2, 0, 1):
        parts = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path / "parts", rank=rank, parts=3, batch_size=5, **HOW)
    assert not parts.missing() and files(tmp_path / "parts") == files(tmp_path / "whole")
    one = sd.sample(FLOW, (50, 2), sd.DDIM(), steps=4).x
    assert np.array_equal(np.concatenate(list(whole)), one.numpy())
    assert batch_rounding(FLOW, sd.DDIM(), whole, steps=4) == 0  # an exact denoiser's rows do not know of one another


def test_what_was_cut_off_goes_on_and_what_is_there_is_left_alone(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    sample_shards(FLOW, sd.DPMSolverPP(2), (2,), whole, **HOW)
    sample_shards(FLOW, sd.DPMSolverPP(2), (2,), parts, **HOW)
    before = (parts / "samples-000003.npz").stat().st_mtime_ns
    for k in (0, 2):
        (parts / f"samples-{k:06d}.npz").unlink()
    sample_shards(FLOW, sd.DPMSolverPP(2), (2,), parts, **HOW)
    assert files(parts) == files(whole) and (parts / "samples-000003.npz").stat().st_mtime_ns == before


def test_a_damaged_file_is_made_again_and_half_ones_are_removed(tmp_path):
    whole = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    before = files(tmp_path)
    whole.path(0).write_bytes(b"")
    whole.path(1).write_bytes(before["samples-000001.npz"][:-50])
    whole.path(2).write_bytes(before["samples-000003.npz"])
    left_by_a_killed_process(whole.path(2)).write_bytes(b"half")
    assert whole.missing() == [0, 1, 2]
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert files(tmp_path) == before


def test_a_folder_without_samples_takes_another_call(tmp_path):
    with pytest.raises(ValueError, match="steps = 0"):
        sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW | {"steps": 0})
    assert not sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW).missing()


def test_another_network_under_the_same_name_is_refused(tmp_path):
    from test_checkpoints import checkpoint
    from typer.testing import CliRunner

    from scorediff.cli import app
    from scorediff.lab.checkpoints import save

    made, path = checkpoint(), tmp_path / "net.safetensors"
    line = ["sample", "--model", str(path), "--n", "6", "--shard", "4", "--steps", "2", "--out", str(tmp_path / "out")]
    save(path, made)
    assert CliRunner().invoke(app, line).exit_code == 0
    (tmp_path / "out" / "samples-000001.npz").unlink()
    for more, words in ((["--batch", "3"], "batch was 256, now 3"), (["--threads", "2"], "threads was 1, now 2")):
        result = CliRunner().invoke(app, [*line, *more])
        assert result.exit_code == 2 and words in result.stderr
    next(made.net.parameters()).data.mul_(1.5)
    save(path, made)
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 2 and "weights was" in result.stderr


def test_samples_of_another_make_are_never_mixed_in(tmp_path):
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    before = files(tmp_path)
    for change, words in (
        ({"steps": 5}, "options.steps was 4, now 5"),
        ({"n": 60}, "n was 50, now 60"),
        ({"seed": 1}, "seed was 0, now 1"),
    ):
        with pytest.raises(ValueError, match=words):
            sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW | change)
    with pytest.raises(ValueError, match="solver was DDIM, now DPMSolverPP"):
        sample_shards(FLOW, sd.DPMSolverPP(2), (2,), tmp_path, **HOW)
    assert files(tmp_path) == before


def test_a_file_of_another_make_is_refused_by_name_and_nothing_is_overwritten(tmp_path):
    made = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    (tmp_path / "manifest.json").unlink()
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"samples-000000.npz holds another set of samples \(.*seed was 0, now 7"):
        sample_shards(FLOW, sd.DPMSolverPP(2), (2,), tmp_path, **HOW | {"seed": 7})
    assert files(tmp_path) == before
    other = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path / "other", **HOW | {"seed": 7})
    other.path(2).write_bytes(made.path(2).read_bytes())
    before = files(other.folder)
    with pytest.raises(ValueError, match=r"samples-000002.npz holds another set of samples \(seed was 0, now 7\)"):
        sample_shards(FLOW, sd.DDIM(), (2,), other.folder, **HOW | {"seed": 7})
    assert files(other.folder) == before


def test_a_file_that_does_not_say_what_made_it_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "samples-000001.npz", samples=np.zeros((12, 2)), ids=np.arange(12, 24))
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"samples-000001.npz does not say what made it: move it away, or name a new"):
        sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert files(tmp_path) == before


def test_a_folder_that_has_lost_its_manifest_gets_it_again(tmp_path):
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    before = files(tmp_path)
    (tmp_path / "manifest.json").unlink()
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert files(tmp_path) == before
    with np.load(tmp_path / "samples-000003.npz") as archive:
        assert json.loads(archive["manifest"].item()) == json.loads(before["manifest.json"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", r"manifest.json is damaged: it holds \[\], and an object"),
        ("{", "manifest.json is damaged"),
        ("null", "it holds null"),
        ('{"n": ' * 100 + "1" + "}" * 100, "nested more than 64 deep"),
        ("[" * 100_000, "manifest.json is damaged"),
        ('{"name": "a web page", "version": "1"}', "is not of a set of samples, and would be overwritten"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_manifest_of_something_else_is_refused_by_name(tmp_path, text, words, there):
    if there:
        sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    (tmp_path / "manifest.json").write_text(text)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=words):
        sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert files(tmp_path) == before


def test_each_flipped_bit_of_a_file_of_samples_is_found_and_the_file_made_again(tmp_path):
    made = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    before = files(tmp_path)
    raw, draw = before["samples-000002.npz"], np.random.default_rng(0)
    for bit in draw.integers(8 * len(raw), size=60):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << int(bit) % 8
        made.path(2).write_bytes(changed)
        assert made.missing() == [2]
        with pytest.raises(ValueError, match=r"samples-000002.npz is missing or damaged"):
            list(made)
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert files(tmp_path) == before


class Labelled:
    """A denoiser that takes labels, and does not look at them."""

    schedule = FLOW.schedule

    def __call__(self, t, x, label):
        return FLOW.denoiser(t, x)


def test_two_processes_in_one_folder_share_the_work_and_leave_it_whole(tmp_path):
    shared, how = tmp_path / "shared", {"n": 400, "size": 10, "steps": 4, "progress": False}
    whole = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path / "whole", **how)

    def work(name):
        def made(ids):
            (tmp_path / f"{name}-{ids[0]}").touch()
            return torch.zeros(len(ids))

        sample_shards(sd.ProbabilityFlow(Labelled()), sd.DDIM(), (2,), shared, labels=made, **how)

    for _ in range(2):
        both = [multiprocessing.get_context("fork").Process(target=work, args=(name,)) for name in "ab"]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        found = Shards(shared, 400, 10)
        assert not found.missing() and sorted(files(shared)) == sorted(files(whole.folder))
        assert np.array_equal(np.concatenate(list(found)), np.concatenate(list(whole)))
        # a file is made twice where both begin it at once, or where one has only those of the other left
        assert 40 <= len(list(tmp_path.glob("[ab]-*"))) <= 50
        for path in [*shared.iterdir(), *tmp_path.glob("[ab]-*")]:
            path.unlink()


def test_what_a_living_process_writes_stays_and_what_killed_ones_left_goes(tmp_path):
    killed = [left_by_a_killed_process(tmp_path / name) for name in ("manifest.json", "samples-000001.npz")]
    assert all(path.name.startswith(".") and path.exists() for path in killed)
    started, ended = (multiprocessing.get_context("fork").Event() for _ in range(2))

    def slow(part):
        part.write_bytes(b"half")
        started.set()
        ended.wait(60)

    writer = multiprocessing.get_context("fork").Process(
        target=write_whole, args=(tmp_path / "samples-000002.npz", slow)
    )
    writer.start()
    started.wait(60)
    (living,) = tmp_path.glob(".samples-000002*")
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert living.exists() and not any(path.exists() for path in killed)
    ended.set()
    writer.join(60)
    assert writer.exitcode == 0 and (tmp_path / "samples-000002.npz").read_bytes() == b"half"
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("solver", engines_by_day(SOLVERS), ids=label)
def test_a_sample_depends_on_those_beside_it_where_the_solver_says_so_and_nowhere_else(solver):
    problem = (sd.ProbabilityFlow if sd.ProbabilityFlow in solver.solves else sd.ReverseSDE)(FLOW.denoiser)
    how = {"seed": 1, "dtype": torch.float64, "progress": False}
    solver, how = (solver.at(1e-2), how) if solver.adaptive else (solver, how | {"steps": 24})
    together, alone = (sd.sample(problem, (4, 2), solver, batch_size=size, **how).x for size in (None, 1))
    assert torch.equal(together, alone) != solver.depends_on_batch


def test_a_solver_that_depends_on_the_batch_goes_on_with_the_same_batch_alone(tmp_path):
    solver = registry.parse(sd.Solver, "torchdiffeq-dopri5")
    how = {"n": 12, "size": 6, "progress": False}
    made = sample_shards(FLOW, solver, (2,), tmp_path, batch_size=3, **how)
    before = files(tmp_path)
    made.path(1).unlink()
    for size, now in ((2, "now 2"), (None, "now 6")):
        with pytest.raises(ValueError, match=f"batch was 3, {now}"):
            sample_shards(FLOW, solver, (2,), tmp_path, batch_size=size, **how)
    sample_shards(FLOW, solver, (2,), tmp_path, batch_size=3, **how)
    assert files(tmp_path) == before


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/a", "loop", "loop/a", "", "file/a", "~nobody-of-that-name"])
def test_what_cannot_be_a_folder_is_refused_by_name(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"{re.escape(folder) or 'an empty name'}.*name a(nother)?"):
        sample_shards(FLOW, sd.DDIM(), (2,), folder, **HOW)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_labels_go_by_the_sample(tmp_path):
    class Net:
        schedule = sd.VPLinear()

        def __call__(self, t, x, label):
            return torch.zeros_like(x) + label[:, None], x / self.schedule.sigma(t)

    flow = sd.ProbabilityFlow(Net())
    made = [
        sample_shards(
            flow,
            sd.DDIM(),
            (1,),
            tmp_path / str(size),
            labels=lambda i: torch.tensor(list(i)) % 3,
            **HOW | {"batch_size": size},
        )
        for size in (4, 50)
    ]
    assert files(tmp_path / "4") == files(tmp_path / "50")
    with np.load(made[0].path(1)) as archive:
        assert np.array_equal(archive["labels"], archive["ids"] % 3) and np.array_equal(
            archive["ids"], np.arange(12, 24)
        )


def test_a_sample_that_fails_is_named_and_what_was_written_stays(tmp_path):
    class Breaks:
        schedule = sd.VPLinear()
        calls = 0

        def __call__(self, t, x, **cond):
            Breaks.calls += 1
            bad = float("nan") if Breaks.calls > 6 else 1.0
            return x * bad, x / self.schedule.sigma(t)

    with pytest.raises(sd.SolverError, match="finite"):
        sample_shards(sd.ProbabilityFlow(Breaks()), sd.DDIM(), (2,), tmp_path, **HOW)
    assert sorted(files(tmp_path)) == ["manifest.json", "samples-000000.npz"]


def fill(part):
    part.write_bytes(b"half")
    with open("/dev/full", "w") as disk:  # raises as a full disk does
        disk.write("x")


def test_a_full_disk_leaves_no_half_file(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*a.npz: No space left on device; nothing is lost: make room"):
        write_whole(tmp_path / "a.npz", fill)
    assert files(tmp_path) == {}


def test_a_full_disk_leaves_the_files_of_samples_that_were_written(tmp_path, monkeypatch):
    made = sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    before = files(tmp_path)
    made.path(3).unlink()
    monkeypatch.setattr(np, "savez", lambda part, **arrays: fill(part))
    with pytest.raises(OSError, match=r"cannot write .*samples-000003.npz: No space left on device"):
        sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert files(tmp_path) == {name: raw for name, raw in before.items() if name != "samples-000003.npz"}
    monkeypatch.undo()
    sample_shards(FLOW, sd.DDIM(), (2,), tmp_path, **HOW)
    assert files(tmp_path) == before


@pytest.mark.nightly
def test_a_command_that_is_killed_three_times_and_shared_by_two_processes_makes_the_same_files(tmp_path):
    def command(out, *start):
        line = "sample --model digits --solver dpm++2m --steps 40 --count 400 --shard 40 --batch 20 --no-progress"
        return [*start, "scorediff", *line.split(), "--out", str(out)]

    python = (sys.executable, "-m")
    subprocess.run(command(tmp_path / "whole", *python), check=True, timeout=300)
    for wanted in (1, 3, 6):
        process = subprocess.Popen(command(tmp_path / "parts", *python))
        while len(list((tmp_path / "parts").glob("samples-*.npz"))) < wanted:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command(tmp_path / "parts", *python), check=True, timeout=300)
    shared = (*python, "torch.distributed.run", "--nproc-per-node", "2", "-m")
    subprocess.run(command(tmp_path / "shared", *shared), check=True, timeout=300)
    assert files(tmp_path / "whole") == files(tmp_path / "parts") == files(tmp_path / "shared")
    both = [subprocess.Popen(command(tmp_path / "both", *python)) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert files(tmp_path / "both") == files(tmp_path / "whole")
