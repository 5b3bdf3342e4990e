"""Samples by the thousand are the same however they are made: at once, in parts, after a kill."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from leftovers import left_by_a_killed_process

import scorediff as sd
from scorediff._core.files import write_whole
from scorediff.lab.shards import batch_rounding, sample_shards

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


def test_a_full_disk_leaves_no_half_file(tmp_path):
    def full(part):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.npz", full)
    assert files(tmp_path) == {}


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
