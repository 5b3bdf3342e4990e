"""Files that are damaged, or come from others, are refused by name, or are what they say; nothing is built before."""

import copy
import gzip
import itertools
import json
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from discovery import BY_NIGHT
from safetensors.torch import save_file
from test_checkpoints import checkpoint

import scorediff as sd
from scorediff._core.files import shipped_tensors
from scorediff._core.sealed import check_arrays, read_arrays, read_tensors, write_arrays, write_tensors
from scorediff.lab import metrics
from scorediff.lab.checkpoints import load, save
from scorediff.lab.data import fashion_mnist, from_file
from scorediff.lab.networks import MLP, DiffusersUNet, UNet

MUTATIONS = 5000 if BY_NIGHT else 200


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    """Files of a test need not outlive a crash of the machine: to see to that takes most of its time."""
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture
def small(tmp_path):
    """The file of a small checkpoint with classes."""
    return save(tmp_path / "model.safetensors", checkpoint(sd.VPCosine(), sd.EDMPrediction(), MLP(16, 2), (3,), 3))


def flipped(raw, bit):
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def header_of(path):
    tensors, said = read_tensors(path, "scorediff")
    return tensors, json.loads(said["scorediff"])


def test_every_flipped_bit_of_weights_is_found_in_the_header_too(small):
    raw = small.read_bytes()
    header = 8 * (8 + int.from_bytes(raw[:8], "little"))
    draw = np.random.default_rng(0)
    bits = [*draw.integers(8 * len(raw), size=60), *draw.integers(header, size=200), *range(64)]
    for bit in range(header) if BY_NIGHT else bits:
        small.write_bytes(flipped(raw, int(bit)))
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load(small)
    small.write_bytes(raw)
    assert load(small).shape == (3,)


def test_every_flipped_bit_of_arrays_is_found(tmp_path):
    path = write_arrays(tmp_path / "a.npz", {"samples": np.arange(40.0), "ids": np.arange(40)})
    raw = path.read_bytes()
    bits = np.random.default_rng(0).integers(8 * len(raw), size=60)
    for bit in range(8 * len(raw)) if BY_NIGHT else bits:
        path.write_bytes(flipped(raw, int(bit)))
        assert not check_arrays(path)
    path.write_bytes(raw)
    assert check_arrays(path) and np.array_equal(read_arrays(path)["samples"], np.arange(40.0))


@pytest.mark.parametrize("path", [*shipped_tensors().values(), *shipped_tensors("classifiers").values()], ids=str)
def test_what_comes_with_the_package_carries_its_checksum(path, tmp_path):
    entry = "classifier" if "classifiers" in str(path) else "scorediff"
    tensors, said = read_tensors(path, entry)  # without a warning
    assert tensors and entry in said and "sha256" not in said
    raw = path.read_bytes()
    copied = tmp_path / "a.safetensors"
    copied.write_bytes(flipped(raw, 8 * (len(raw) - 1000)))
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged: .*its checksum"):
        read_tensors(copied, entry)


def test_a_checkpoint_without_a_checksum_is_read_with_a_warning_and_gets_one_when_it_is_saved(small):
    tensors, said = read_tensors(small, "scorediff")
    save_file(tensors, small, metadata=said)
    with pytest.warns(UserWarning, match=r"model\.safetensors carries no checksum.*save\(path, load\(path\)\)"):
        found = load(small)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load(save(small, found))
    assert again.fingerprint() == found.fingerprint()


HUGE = 2**40
BLOCKS = {"block_out_channels": [32], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
DIFFUSERS = (DiffusersUNet({**BLOCKS, "layers_per_block": 1}), (1, 8, 8))


@pytest.mark.parametrize(
    ("network", "shape", "change"),
    [
        (MLP(16, 2), (3,), {"network.depth": HUGE}),
        (MLP(16, 2), (3,), {"network.width": HUGE}),
        (MLP(16, 2), (3,), {"network.width": 2**80}),
        (MLP(16, 2), (3,), {"shape": [HUGE]}),
        (MLP(16, 2), (3,), {"shape": [HUGE, HUGE]}),
        (MLP(16, 2), (3,), {"classes": HUGE}),
        (UNet(16, (1,), 1), (1, 8, 8), {"network.blocks": HUGE}),
        (UNet(16, (1,), 1), (1, 8, 8), {"network.width": HUGE}),
        (UNet(16, (1,), 1), (1, 8, 8), {"network.width": 16 * (2**31 - 1)}),
        (UNet(16, (1,), 1), (1, 8, 8), {"network.multiples": [HUGE]}),
        (UNet(16, (1,), 1), (1, 8, 8), {"network.patch": HUGE}),
        (UNet(16, (1,), 1), (1, 8, 8), {"shape": [HUGE, 8, 8]}),
        pytest.param(*DIFFUSERS, {"network.options.layers_per_block": HUGE}, marks=pytest.mark.nightly),
        pytest.param(*DIFFUSERS, {"network.options.layers_per_block": "x"}, marks=pytest.mark.nightly),
        pytest.param(*DIFFUSERS, {"network.options.block_out_channels": [HUGE]}, marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_numbers_of_a_header_can_neither_fill_the_memory_nor_loop_for_ever(tmp_path, network, shape, change):
    path = save(tmp_path / "a.safetensors", checkpoint(network=network, shape=shape, classes=0))
    tensors, said = header_of(path)
    for place, value in change.items():
        *outer, last = place.split(".")
        holder = said
        for key in outer:
            holder = holder[key]
        holder[last] = value
    write_tensors(path, tensors, {"scorediff": json.dumps(said)})
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        load(path)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": True}, "is of format True"),
        ({"network": None}, "give it as net="),
        ({"network": {"type": "MLP", "width": "16"}}, "MLP.width = '16': a whole number is wanted"),
        ({"network": {"type": "MLP", "width": True}}, "MLP.width = True: a whole number is wanted"),
        ({"network": {"type": "MLP", "width": 16.0}}, "MLP.width = 16.0: a whole number is wanted"),
        ({"network": {"type": "MLP", "width": HUGE}}, "numbers, and its largest weight has 1024"),
        ({"network": {"type": "MLP", "width": 16, "depth": HUGE}}, "more layers than its 17 weights are for"),
        ({"network": {"type": "MPL"}}, "unknown Network type 'MPL'; did you mean 'MLP'"),
        ({"network": [16, 2]}, r"network = .16, 2.: an object"),
        ({"schedule": {"type": "VPLinear", "beta_max": float("nan")}}, "VPLinear.beta_max = nan: a number is wanted"),
        ({"schedule": {"type": "VPLinear", "beta_max": 10**400}}, "below 1.8e308"),
        (
            {"prediction": {"type": "EDMPrediction", "data_std": "x"}},
            "data_std = 'x': a number is wanted",
        ),
        ({"shape": 3}, "shape = 3: a list is wanted"),
        ({"shape": [0]}, "samples of shape .0."),
        ({"shape": [HUGE, HUGE]}, "samples of shape"),
        ({"classes": -1}, "-1 classes, 3 names of them"),
        ({"names": ["a", "b", "c", "d"]}, "3 classes, 4 names of them"),
        ({"names": ["a", 2]}, r"names.1. = 2: a text is wanted"),
        ({"card": []}, r"card = ..: an object"),
        ({"more": 1}, "unknown entries .'more'."),
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_is_refused_in_words(small, change, words):
    tensors, said = header_of(small)
    write_tensors(small, tensors, {"scorediff": json.dumps(said | change)})
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{words}"):
        load(small)


VALUES = [
    None, True, False, -1, 0, 1, 2, 16, 1.5, 2**40, 2**63, 10**400, float("nan"), float("inf"), "", "x", "MLP", [], {},
    [1], [None], ["a"], {"type": "MLP"}, {"type": None}, {"type": ["MLP"]}, {"type": "VE"}, [1, 8, 8], "DEEP LIST",
    "DEEP OBJECT", "LONG NUMBER",
]  # fmt: skip
RAW = {
    "DEEP LIST": "[" * 100_000 + "]" * 100_000,
    "DEEP OBJECT": '{"type":' * 900 + "1" + "}" * 900,
    "LONG NUMBER": "1" * 5000,
}


def places(value, path=()):
    """The paths to all entries of plain data."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inner:
        yield (*path, key)
        yield from places(entry, (*path, key))


def mutated(data, draw):
    """Plain data with an entry replaced, left out, added or put elsewhere, as JSON."""
    data = copy.deepcopy(data)
    every = list(places(data))
    path = every[draw.integers(len(every))]
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    kind = draw.integers(10)
    if kind < 7:
        holder[path[-1]] = VALUES[draw.integers(len(VALUES))]
    elif kind == 7:
        del holder[path[-1]]
    elif kind == 8:
        holder[path[-1]] = {"type": holder[path[-1]]} if draw.integers(2) else [holder[path[-1]]]
    elif isinstance(holder, dict):
        holder["more"] = 1
    text = json.dumps(data)
    for word, raw in RAW.items():
        text = text.replace(json.dumps(word), raw)
    return text


def holds(found, said):
    """Whether plain data `found` hold all that was `said`."""
    if isinstance(said, dict):
        return isinstance(found, dict) and all(key in found and holds(found[key], said[key]) for key in said)
    if isinstance(said, list):
        return isinstance(found, list) and len(found) == len(said) and all(map(holds, found, said))
    return type(found) is type(said) and (found == said or found != found)


@pytest.mark.parametrize(
    "network", [MLP(16, 2), pytest.param(UNet(16, (1,), 1), marks=pytest.mark.nightly)], ids=["mlp", "unet"]
)
def test_a_header_that_was_changed_at_random_is_refused_by_name_or_is_what_it_says(tmp_path, network):
    shape = (3,) if isinstance(network, MLP) else (1, 8, 8)
    made = checkpoint(sd.VPLinear(), sd.EDMPrediction(), network, shape, 3)
    card = {"recipe": {"lr": 1e-3, "steps": 7}, "data": "digits", "step": 7}
    path = save(tmp_path / "a.safetensors", sd.lab.checkpoints.Checkpoint(**{**vars(made), "card": card}))
    tensors, said = header_of(path)
    draw, refused = np.random.default_rng(0), 0
    for _ in range(MUTATIONS):
        text = mutated(said, draw)
        write_tensors(path, tensors, {"scorediff": text})
        try:
            found = load(path)
        except ValueError as error:
            assert "a.safetensors" in str(error) and len(str(error)) < 600, text[:300]
            refused += 1
        else:
            assert holds(json.loads(json.dumps(found.to_dict())), json.loads(text)), text[:300]
    assert refused > 0.5 * MUTATIONS


def test_the_header_of_a_classifier_is_checked_before_it_is_built(tmp_path):
    net = metrics.Classifier((1, 8, 8), 4)
    path = metrics.save_classifier(tmp_path / "a.safetensors", net, data="digits")
    tensors, said = read_tensors(path, "classifier")
    card, draw = json.loads(said["classifier"]), np.random.default_rng(0)
    for _ in range(MUTATIONS // 4):
        text = mutated(card, draw)
        write_tensors(path, tensors, {"classifier": text})
        try:
            found = metrics.classifier(path)
        except ValueError as error:
            assert "a.safetensors" in str(error), text[:300]
        else:
            assert [list(found.shape), found.classes] == [json.loads(text)[name] for name in ("shape", "classes")]


def bent(raw, draw):
    """Bytes with some of them changed, cut off, or repeated."""
    changed = bytearray(raw)
    for _ in range(draw.integers(1, 4)):
        at = int(draw.integers(min(len(changed), 400) if draw.integers(2) else len(changed)))
        kind = draw.integers(4)
        if kind < 2:
            changed[at] = int(draw.choice([0, 1, 8, 127, 255, changed[at] ^ (1 << int(draw.integers(8)))]))
        elif kind == 2 and len(changed) > 8:
            del changed[at : at + int(draw.integers(1, 9))]
        else:
            changed[at:at] = changed[at : at + int(draw.integers(1, 9))]
    return bytes(changed)


@pytest.mark.parametrize("name", ["a.npz", "packed.npz", "a.npy"])
def test_arrays_that_were_changed_at_random_are_refused_by_name_or_are_data(tmp_path, name):
    path, values = tmp_path / name, np.arange(24, dtype=np.float32).reshape(6, 4)
    writer = {"a.npz": np.savez, "packed.npz": np.savez_compressed}.get(name, lambda p, **arrays: np.save(p, values))
    writer(path, images=values, labels=np.arange(6))
    raw, draw = path.read_bytes(), np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy says what it thinks of an old or a strange header
        for _ in range(MUTATIONS):
            path.unlink()  # the array of the file before may still be mapped
            path.write_bytes(bent(raw, draw))
            try:
                assert from_file(path).values.size
            except (ValueError, TypeError) as error:
                assert name in str(error)


def idx_bytes(shape, numbers):
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes() + bytes(numbers)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_that_were_changed_at_random_are_refused_by_name_or_are_data(tmp_path, end):
    pack = gzip.compress if end else bytes
    raw = [pack(idx_bytes((3, 4, 4), range(48))), pack(idx_bytes((3,), range(3)))]
    paths = [tmp_path / f"train-{name}-ubyte{end}" for name in ("images-idx3", "labels-idx1")]
    draw = np.random.default_rng(0)
    for k in range(MUTATIONS):
        for i, path in enumerate(paths):
            path.write_bytes(bent(raw[i], draw) if k % 2 == i else raw[i])
        try:
            assert fashion_mnist(tmp_path).values.size
        except ValueError as error:
            assert str(tmp_path) in str(error) or tmp_path.name in str(error)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1,) * 255, "claims 255 axes: images have 3, labels 1"),
        ((2**16,) * 4, "is cut short"),  # 2^64 numbers, which 64 bits count as none
    ],
)
def test_an_idx_file_of_many_axes_is_refused(tmp_path, shape, words):
    numbers = [0] if len(shape) == 255 else []
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(shape, numbers))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes((1,), [0]))
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte {words}"):
        fashion_mnist(tmp_path)


def test_an_archive_that_claims_more_than_it_holds_is_refused(tmp_path):
    path, values = tmp_path / "a.npz", np.zeros((4, 2))
    np.savez(path, images=values)
    with zipfile.ZipFile(path) as archive:
        member = archive.read("images.npy")
    # 2^56 bytes, as many spaces fewer
    larger = member.replace(b"'shape': (4, 2), }               ", b"'shape': (4503599627370496, 2), }")
    assert larger != member and len(larger) == len(member)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", larger)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as arrays"):
        from_file(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02") + 24
    raw[at : at + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as arrays: images\.npy claims 2147483648 bytes"):
        from_file(path)


@pytest.mark.parametrize("written", [lambda path: path.write_bytes(b""), lambda path: path.mkdir()])
def test_what_is_not_a_file_of_arrays_is_not_one(tmp_path, written):
    written(tmp_path / "a.npz")
    with pytest.raises((ValueError, FileNotFoundError), match=r"a\.npz"):
        from_file(tmp_path / "a.npz")


@pytest.mark.parametrize("base", [sd.Solver, sd.schedules.Schedule, sd.predictions.Prediction])
def test_plain_data_of_any_kind_are_refused_in_words_or_made(base):
    from scorediff._core import registry

    every = [registry.to_dict(made) for made in registry.names(base).values()]
    cases = list(itertools.product(every, VALUES))
    for data, value in cases if BY_NIGHT else cases[:: len(cases) // 100]:
        for field in data:
            try:
                registry.from_dict(base, {**data, field: value})
            except ValueError as error:
                assert str(error)


def test_a_tensor_of_no_known_kind_is_refused_by_name(small):
    raw = small.read_bytes().replace(b'"F32"', b'"F4z"', 1)
    small.write_bytes(raw)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load(small)
    save_file({"w": torch.zeros(2)}, small)
    with pytest.raises(ValueError, match="holds weights alone"):
        load(small)
