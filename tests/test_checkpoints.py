"""A checkpoint is a denoiser again, or is refused by name."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from discovery import PREDICTIONS, SCHEDULES, label

import scorediff as sd
from scorediff._core import registry
from scorediff._core.sealed import write_tensors
from scorediff.lab.checkpoints import Checkpoint, load, save, shipped
from scorediff.lab.data import load_data
from scorediff.lab.networks import MLP, UNet
from scorediff.lab.training.loss import held_out_loss


def checkpoint(schedule=None, prediction=None, network=None, shape=(1, 8, 8), classes=3):
    network = network or UNet(width=16, multiples=(1,), blocks=1)
    net = network.build(shape, classes)
    torch.manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    names = tuple("abc"[:classes])
    return Checkpoint(net, schedule or sd.VPLinear(), prediction or sd.VPrediction(), shape, network, classes, names)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=label)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=label)
def test_what_is_saved_is_read_back_the_same_denoiser(tmp_path, schedule, prediction):
    if type(schedule).__name__ == "CustomSchedule":
        pytest.skip("a function is not plain data")
    made = checkpoint(schedule, prediction, MLP(16, 1), (2,), 0)
    found = load(save(tmp_path / "a.safetensors", made))
    assert found.to_dict() == made.to_dict() and found.schedule == schedule and found.prediction == prediction
    t, x = float(schedule.time_at(schedule.log_snr(schedule.t_end) / 2)), torch.randn(4, 2)
    for a, b in zip(made.denoiser(t, x), found.denoiser(t, x), strict=True):
        assert torch.equal(a, b)


def test_half_precision_takes_half_the_space_and_a_folder_is_its_model(tmp_path):
    made = checkpoint()
    whole, half = (
        save(tmp_path / name, made, dtype=d)
        for name, d in (("a.safetensors", None), ("model.safetensors", torch.float16))
    )
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for a, b in zip(load(whole).net.parameters(), load(tmp_path).net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert b.dtype is torch.float32
    assert load(whole, dtype=torch.float64).denoiser.dtype is torch.float64


def test_a_user_defined_module_is_given_again():
    class Own(torch.nn.Module):
        def forward(self, x, t):
            return x

    assert Checkpoint(Own(), sd.VPLinear(), sd.DataPrediction(), (2,)).to_dict()["network"] is None


def test_a_schedule_of_user_defined_functions_is_given_again(tmp_path):
    made = checkpoint(sd.schedules.CustomSchedule(), None, MLP(16, 1), (2,), 0)
    path = save(tmp_path / "a.safetensors", made)
    with pytest.raises(ValueError, match="give it as schedule="):
        load(path)
    assert load(path, schedule=made.schedule).schedule is made.schedule


def test_what_is_not_a_checkpoint_is_refused_by_name(tmp_path):
    path = save(tmp_path / "a.safetensors", checkpoint())
    with pytest.raises(ValueError, match="does not fit _MLPModule"):
        load(path, net=MLP(16, 1).build((1, 8, 8)))
    whole = path.read_bytes()
    for cut in (3, 40, len(whole) - 100):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a.safetensors (is damaged|cannot be read as safetensors)"):
            load(path)
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds weights alone"):
        load(path)
    write_tensors(path, {"w": torch.zeros(2)}, {"scorediff": '{"format": 99}'})
    with pytest.raises(ValueError, match="is of format 99"):
        load(path)
    write_tensors(path, {"w": torch.zeros(2)}, {"scorediff": '{"format": 1}'})
    with pytest.raises(ValueError, match="damaged header: it lacks card, classes"):
        load(path)
    write_tensors(path, {"w": torch.zeros(2)}, {"scorediff": "[1]"})
    with pytest.raises(ValueError, match=r"a.safetensors is damaged: it holds \[1\]"):
        load(path)
    with pytest.raises(FileNotFoundError, match="unknown checkpoint 'nothing'"):
        load("nothing")


@pytest.mark.parametrize("name", shipped())
def test_a_network_of_the_package_is_small_made_by_its_recipe_and_as_good_as_its_card_says(name):
    path = Path(__file__).parents[1] / "recipes" / "make.py"
    spec = importlib.util.spec_from_file_location("make", path)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    found, made = load(name), make.NETWORKS[name]
    assert (Path(sd.__file__).parent / "assets" / f"{name}.safetensors").stat().st_size <= 4 * 2**20
    assert found.card["recipe"] == json.loads(json.dumps(registry.to_dict(made.recipe)))
    try:
        data = load_data(made.data)
    except FileNotFoundError:
        pytest.skip(f"{made.data} is not on this machine")
    _, held_out = data.split(made.recipe.held_out, made.recipe.seed)
    loss, error = held_out_loss(found.denoiser, made.recipe, data.take(held_out))
    # half precision, and another machine's convolutions
    assert loss == pytest.approx(found.card["held_out_loss"], rel=2e-3)
    assert error == pytest.approx(found.card["held_out_error"], rel=2e-2)
