"""Every experiment runs on a small network, says what it measured, and draws it."""

import csv

import numpy as np
import pytest
import torch
from discovery import by_day
from test_checkpoints import checkpoint
from typer.testing import CliRunner

import scorediff as sd
from scorediff.cli import app
from scorediff.lab.checkpoints import load, save
from scorediff.lab.data import Data, load_data
from scorediff.lab.experiments import consistency, interpolation, quality, reconstruction, splitting, switching
from scorediff.lab.experiments.interpolation import slerp
from scorediff.lab.metrics import classifier, frechet_distance
from scorediff.lab.networks import UNet

NET = checkpoint(sd.VPLinear(), sd.EDMPrediction(0.75), UNet(width=16, multiples=(1,), blocks=1), (1, 8, 8), 10)
DIGITS = load_data("digits")


def written(found, folder):
    table, picture = found.write(folder, "a")
    assert picture.stat().st_size > 1000
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.rows) and set(rows[0]) == set(found.columns)
    assert found.words in found.table()
    return rows


def test_more_steps_bring_the_same_start_nearer_to_the_true_flow(tmp_path):
    rows = written(consistency(NET, steps=(5, 10, 20, 40), n=4), tmp_path)
    errors = [float(row["median"]) for row in rows]
    assert errors == sorted(errors, reverse=True) and errors[-2] / errors[-1] == pytest.approx(2, rel=0.4)


def test_images_change_little_by_little_between_two_starts(tmp_path):
    free, conditioned = (
        interpolation(NET, rows=2, places=9, steps=8),
        interpolation(NET, rows=2, places=9, steps=8, label=3),
    )
    assert free.rows != conditioned.rows
    rows = written(free, tmp_path)
    assert len(rows) == 16 and {float(row["fraction"]) for row in rows} == {j / 8 for j in range(1, 9)}
    a, b = torch.randn(2, 3, 4, dtype=torch.float64)
    points = slerp(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(points[[0, -1]], torch.stack([a, b]))
    directions = slerp(a / a.norm(), b / b.norm(), torch.linspace(0, 1, 5))
    torch.testing.assert_close(directions.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))
    angles = [(directions[i] * directions[i + 1]).sum().acos() for i in range(4)]
    assert max(angles) - min(angles) < 1e-9
    torch.testing.assert_close(slerp(a, a, torch.linspace(0, 1, 3)), a.expand(3, 3, 4))


def test_what_goes_to_noise_and_back_is_lost_at_the_rate_of_the_solvers_order(tmp_path):
    rows = written(reconstruction(NET, DIGITS, solvers=("ddim", "heun"), steps=(20, 40, 80), n=4), tmp_path)
    # the same by hand: images at alpha x0, there and back, and pixels from 0 to 1
    flow, chosen = sd.ProbabilityFlow(NET.denoiser), np.sort(np.random.default_rng(0).choice(1797, 4, replace=False))
    x = DIGITS.batch(chosen) * float(NET.schedule.alpha(NET.schedule.t_end))
    cond = {"label": torch.from_numpy(DIGITS.labels[chosen])}
    latent = sd.encode(flow, x, "ddim", steps=20, cond=cond).x
    back = sd.sample(flow, solver="ddim", x=latent, steps=20, cond=cond).x
    assert float(rows[0]["error"]) == pytest.approx(float(((back - x) / 2).square().mean()), rel=1e-5)
    # squared errors: by 2^2p
    falls = {
        name: float(next(r for r in rows if r["solver"] == name and r["steps"] == "80")["fell by"])
        for name in ("ddim", "heun")
    }
    assert falls["ddim"] > 2 and falls["heun"] > 10


def test_one_checkpoint_runs_with_every_solver_that_is_asked_for(tmp_path):
    names = ("ddim", "ddpm", "rk45", "torchdiffeq-dopri5", "exponential-adams")
    rows = written(switching(NET, solvers=names, n=2, progress=False), tmp_path)
    assert [row["solver"] for row in rows] == ["true flow", *names]
    assert all(row["status"] == "success" for row in rows)
    near = {row["solver"]: float(row["distance"]) for row in rows}
    rows = written(switching(NET, solvers=("ddim", "scipy-radau"), n=2, budget=4, progress=False), tmp_path)
    assert [row["status"] for row in rows] == ["success", "success", "stopped after 160 calls of the network"]
    assert near["exponential-adams"] < near["ddim"] < 1 and np.isnan(near["ddpm"])


def test_the_error_is_split_into_its_parts(tmp_path):
    rows = written(splitting(NET, DIGITS, steps=(10, 20, 40), n=4), tmp_path)
    # noised data and noise alone have the same noise: what they differ by is alpha at t_start
    assert 0 < next(float(row["rms"]) for row in rows if row["part"] == "start") < 0.02
    parts = {row["part"] for row in rows}
    assert parts == {"steps", "start", "end", "network", "data"}
    steps = [float(row["rms"]) for row in rows if row["part"] == "steps"]
    assert steps[0] > 2 * steps[1] > 4 * steps[2]
    kept, denoised = (float(row["rms"]) for row in rows if row["part"] == "end")
    assert denoised < kept < 0.05
    # with little noise the exact denoiser of a data set finds the image again
    assert float(next(row for row in rows if row["part"] == "data" and row["at"] == "log-SNR 3")["rms"]) < 1e-3


def test_an_exact_network_has_no_network_error(tmp_path):
    exact = sd.targets.Empirical(DIGITS.batch(slice(None)), 0.0).denoiser(sd.VPLinear())

    class Exact(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t, label=None):
            return exact(t.double().numpy(), x)[0]

    import dataclasses

    net = dataclasses.replace(NET, net=Exact(), network=None, prediction=sd.DataPrediction(), classes=0)
    found = splitting(net, DIGITS, steps=(20,), n=3)
    assert max(row[3] for row in found.rows if row[0] == "network" and row[1].startswith("log-SNR")) < 1e-4


@pytest.mark.filterwarnings("ignore::scorediff.solvers.GainWarning")
def test_quality_is_the_distance_of_what_each_solver_makes_and_counts_evaluations(tmp_path):
    found = quality(
        NET,
        DIGITS,
        lambda x: x.flatten(1)[:, ::4],
        n=60,
        steps=(2, 10),
        etas=(0.0, 1.0, "larger"),
        solvers=("edm-heun", "exponential-adams"),
        budgets=(4,),
        progress=False,
    )
    rows = written(found, tmp_path)
    assert [(r["solver"], r["eta"], r["steps"], r["evaluations"]) for r in rows] == [
        ("ddim", "0", "2", "2"), ("ddim", "0", "10", "10"), ("ddim", "1", "2", "2"), ("ddim", "1", "10", "10"),
        ("ddpm-large", "larger", "2", "2"), ("ddpm-large", "larger", "10", "10"), ("edm-heun", "0", "2", "4"),
        *(("exponential-adams", "0", f"rtol {tolerance}", found.rows[i][3] and rows[i]["evaluations"])
          for i, tolerance in ((7, 0.3), (8, 0.1), (9, 0.03), (10, 0.01))),
    ]  # fmt: skip
    assert all(float(r["error"]) > 0 for r in rows)
    spent = [float(r["evaluations"]) for r in rows[7:]]
    assert spent == sorted(spent) and spent[0] < spent[-1]
    # a row again, by hand
    given = {"x": sd.prior(NET.schedule, (60, 1, 8, 8)), "cond": {"label": torch.arange(60) % 10}}
    made = sd.sample(sd.ReverseSDE(NET.denoiser, 1.0), solver="ddim", **given, steps=10, batch_size=250).x
    real = DIGITS.batch(slice(None))
    by_hand = frechet_distance(real.flatten(1)[:, ::4].numpy(), made.flatten(1)[:, ::4].numpy())
    assert float(rows[3]["distance"]) == pytest.approx(by_hand.value, rel=1e-4)


@pytest.mark.nightly
def test_a_network_that_does_what_it_should_is_better_with_more_steps(tmp_path):
    net = load("digits-unet")
    found = quality(
        net,
        DIGITS,
        classifier("digits").features,
        n=200,
        steps=(3, 20),
        etas=(0.0, 1.0),
        solvers=(),
        progress=False,
    )
    distance = {(row[1], row[2]): row[4] for row in found.rows}
    assert distance[0.0, 20] < distance[0.0, 3] < distance[1.0, 3] and distance[1.0, 20] < distance[1.0, 3] / 4


def test_data_that_a_network_does_not_take_are_refused(tmp_path):
    small = Data(np.zeros((50, 1, 4, 4)))
    many = Data(DIGITS.values, DIGITS.labels + 5)
    for run in (splitting, reconstruction, lambda *a, **b: quality(*a, lambda x: x, **b)):
        with pytest.raises(ValueError, match=r"samples of shape \(1, 4, 4\), and the network takes \(1, 8, 8\)"):
            run(NET, small)
        with pytest.raises(ValueError, match="15 classes, and the network takes 10"):
            run(NET, many)
    with pytest.raises(ValueError, match="n = 5000: digits has 1797"):
        reconstruction(NET, DIGITS, n=5000)


COMMANDS = [
    "consistency --steps 2,4 --n 2",
    "interpolation --steps 3 --rows 2",
    "switching --solvers ddim,ddpm --n 2",
    "reconstruction --data digits --solvers ddim --steps 3,6 --n 2",
    "splitting --data digits --steps 4 --n 2",
    "quality --data digits --classifier digits --steps 2 --solvers ddim --nfe 2 --n 40",
]


@pytest.mark.parametrize("line", by_day(COMMANDS, COMMANDS[:4]))
def test_a_command_writes_table_and_picture(tmp_path, line):
    net, out = save(tmp_path / "net.safetensors", NET), tmp_path / "out"
    result = CliRunner().invoke(app, ["experiment", *line.split(), "--model", str(net), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", ".png"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("splitting --n 2", "trained on None, which does not come with the package: give --data"),
        ("quality --data digits --classifier fashion-mnist", "the classifier takes (1, 28, 28), and the network makes"),
        ("consistency --steps 5,x", "whole numbers above 0"),
        ("switching --out net.safetensors", "is a file: name a folder"),
    ],
)
def test_a_command_that_cannot_be_done_is_refused_in_one_line(tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    net = save(tmp_path / "net.safetensors", NET)
    result = CliRunner().invoke(app, ["experiment", *line.split(), "--model", str(net)])
    assert result.exit_code == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
