"""Data are read whole and as they are, or refused by name."""

import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from scorediff.lab.data import Data, digits, fashion_mnist, from_file, from_folder, load_data


def picture(path, size=(8, 6), color=(255, 0, 128), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)
    return path


def idx(path, array, cut=0):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    raw = (head + array.tobytes())[: len(head) + array.size - cut]
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def fashion(folder, count=12):
    draw = np.random.default_rng(0)
    for part in ("train", "t10k"):
        idx(folder / f"{part}-images-idx3-ubyte.gz", draw.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        idx(folder / f"{part}-labels-idx1-ubyte.gz", draw.integers(0, 10, count, dtype=np.uint8))
    return folder


def test_bytes_are_read_from_minus_1_to_1_and_floats_as_they_are():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    found = Data(pixels).batch([0]).flatten()
    assert found[0] == -1 and found[255] == 1 and found.dtype is torch.float32
    assert torch.equal(((found + 1) * 127.5).round().to(torch.uint8), torch.arange(256, dtype=torch.uint8))
    assert torch.equal(Data(np.full((1, 2), 7.5)).batch(slice(None)), torch.full((1, 2), 7.5))


def test_the_digits_are_there_by_name():
    data = load_data("digits")
    assert len(data) == 1797 and data.shape == (1, 8, 8) and data.classes == 10
    assert torch.equal(data.batch(slice(None)), digits())


def test_held_out_samples_are_drawn_by_the_seed_and_nothing_is_lost():
    data = Data(np.arange(20.0).reshape(10, 2), np.arange(10) % 2)
    rest, held_out = (data.take(rows) for rows in data.split(3, seed=1))
    assert len(rest) == 7 and len(held_out) == 3 and held_out.classes == 2
    assert sorted([*rest.values[:, 0], *held_out.values[:, 0]]) == list(data.values[:, 0])
    assert np.array_equal(data.split(3, seed=1)[1], np.flatnonzero(np.isin(data.values[:, 0], held_out.values[:, 0])))
    assert not np.array_equal(data.split(3, seed=2)[1], data.split(3, seed=1)[1])
    assert data.summary() != Data(data.values, np.arange(10) % 3).summary()


def test_a_folder_of_folders_has_classes(tmp_path):
    for name, color in (
        ("cats/a.png", (255, 255, 255)),
        ("cats/deep/b.jpg", (255, 255, 255)),
        ("dogs/c.png", (0, 0, 0)),
    ):
        picture(tmp_path / name, color=color)
    picture(tmp_path / "dogs" / "d.png", color=(0, 0, 0), mode="P")
    data = from_folder(tmp_path)
    assert data.values.shape == (4, 3, 6, 8) and data.names == ("cats", "dogs")
    assert [int(x) for x in data.labels] == [0, 0, 1, 1]
    assert [float(x.mean()) for x in data.batch(slice(None))] == [1, 1, -1, -1]
    assert from_folder(tmp_path, gray=True).shape == (1, 6, 8)
    assert load_data(tmp_path, size=4).shape == (3, 4, 4)
    picture(tmp_path / "loose.png")
    assert from_folder(tmp_path).classes == 0


def test_a_folder_that_cannot_be_read_is_refused_naming_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no images in it; known are"):
        from_folder(tmp_path)
    for name in "abcde":
        picture(tmp_path / f"{name}.png", size=(40, 40))
    broken = tmp_path / "c.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "d.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"2 of 5 images cannot be read: c.png \(.*\), d.png"):
        from_folder(tmp_path)
    for name in "cd":
        picture(tmp_path / f"{name}.png", size=(40, 40))
    picture(tmp_path / "wide.png", size=(30, 20))
    with pytest.raises(ValueError, match=r"2 sizes \(a.png has 40x40 pixels, wide.png has 30x20 pixels\); give size="):
        from_folder(tmp_path)


def test_a_file_of_arrays_is_read_with_channels_first_or_last_and_with_its_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(5))
    data = load_data(tmp_path / "a.npz")
    assert data.shape == (3, 4, 6) and data.classes == 5
    assert np.array_equal(data.values[2, 1], images[2, :, :, 1])
    np.save(tmp_path / "b.npy", images[..., 0])
    assert load_data(tmp_path / "b.npy").shape == (1, 4, 6)
    np.save(tmp_path / "c.npy", np.zeros((7, 2), dtype=np.float32))
    assert isinstance(from_file(tmp_path / "c.npy").values, np.memmap)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.array([[0.0, np.nan]])}, "sample 0 holds NaN"),
        (
            {"images": np.zeros((3, 2)), "labels": np.zeros(2, dtype=int)},
            "labels of int64 and shape .2,. for 3 samples",
        ),
        ({"images": np.zeros((3, 2)), "labels": np.zeros(3)}, "one whole number each"),
        ({"images": np.zeros((3, 2)), "labels": np.array([0, 1, -1])}, "classes count from 0"),
        ({"images": np.zeros((3, 2), dtype=np.int32)}, "samples of int32; give bytes 0 .. 255"),
        ({"images": np.zeros((0, 2))}, "at least one"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "name the array of samples 'images'"),
        ({"images": np.array([{}], dtype=object)}, "cannot be read as arrays"),
    ],
)
def test_arrays_that_are_not_data_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises((ValueError, TypeError), match=words):
        load_data(tmp_path / "a.npz")


def test_a_truncated_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((30, 2)))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:200])
    with pytest.raises(ValueError, match="cannot be read as arrays"):
        load_data(tmp_path / "a.npz")


def test_idx_files_are_read_and_damaged_ones_named(tmp_path):
    data = load_data(fashion(tmp_path))
    assert len(data) == 12 and data.shape == (1, 28, 28) and len(fashion_mnist(tmp_path, "test")) == 12
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        load_data(tmp_path)
    idx(images, np.zeros((12, 28, 28), dtype=np.uint8), cut=5)
    with pytest.raises(ValueError, match="is cut short: 9403 numbers"):
        load_data(tmp_path)
    images.write_bytes(gzip.compress(b"nothing of the kind"))
    with pytest.raises(ValueError, match="is not an idx file"):
        load_data(tmp_path)
    idx(images, np.zeros((11, 28, 28), dtype=np.uint8))
    with pytest.raises(ValueError, match="do not fit"):
        load_data(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        load_data(tmp_path)


def test_a_name_that_is_nothing_is_refused_with_the_nearest_that_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'digits'"):
        load_data("digts")
    with pytest.raises(FileNotFoundError, match="known: digits, fashion-mnist, a folder"):
        load_data("x")
    with pytest.raises(ValueError, match="for folders of images; digits is not one"):
        load_data("digits", size=8)
    with pytest.raises(FileNotFoundError, match=r"the file .* does not exist"):
        load_data(tmp_path / "a.npz")


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    gradient = np.linspace(0, 65535, 16).round().astype(np.uint16).reshape(4, 4)
    Image.fromarray(gradient).save(tmp_path / "a.png")
    assert from_folder(tmp_path, gray=True, progress=False).values.ravel().tolist() == list(range(0, 256, 17))
    Image.fromarray(gradient.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a.tiff \(pixels of mode F, whose white is not known"):
        from_folder(tmp_path, progress=False)


def test_a_broken_image_is_named_with_its_folder(tmp_path):
    for folder in "ab":
        picture(tmp_path / folder / "1.png")
    path = tmp_path / "b" / "1.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"b/1.png \("):
        from_folder(tmp_path, progress=False)


def test_a_folder_named_as_a_data_set_is_written_with_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "digits" / "1.png")
    assert len(load_data("digits")) == 1797 and len(load_data("./digits", progress=False)) == 1
    with pytest.raises(ValueError, match=r"\./digits is always a folder"):
        load_data("digits", size=8)


@pytest.mark.parametrize("kind", [">f4", "longdouble", "float16"])
def test_numbers_of_any_float_are_read(tmp_path, kind):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(3, 2).astype(kind))
    data = from_file(tmp_path / "a.npy")
    assert data.batch(slice(None)).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert Data(data.values[::-1]).batch(slice(0, 2)).tolist() == [[4, 5], [2, 3]]


def test_files_that_are_not_what_they_are_named_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("Dear Sir")
    with pytest.raises(ValueError, match=r"a.npz cannot be read as arrays: it is not a file of numpy's"):
        from_file(path)
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"a.npz cannot be read as arrays"):
        from_file(path)


def test_labels_far_beyond_any_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"label 10000000000, .*return_inverse"):
        Data(np.zeros((2, 2)), np.array([0, 10**10]))
