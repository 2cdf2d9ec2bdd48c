"""Every source of data, on small sets made here."""

import os
import struct

import numpy as np
import pytest
import torch
import toroid
from PIL import Image
from toroid import data


def write_class_folders(folder, count=4, size=6):
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("ant", "bee", "cow"):
            (folder / split / label).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{k}.png")


def write_mnist(folder, count):
    """Files in the published IDX format."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, n in (("train", count), ("t10k", count // 2)):
        images = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes()
        )
        labels = np.arange(n, dtype=np.uint8) % 10
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, n) + labels.tobytes()
        )


def test_digits_are_split_once_and_for_all():
    train, test = data.load("digits")
    assert (len(train), len(test), train.shape, train.classes) == (1297, 500, (1, 8, 8), 10)
    assert train.images.mean().abs() < 1e-6
    assert train.images.std() == pytest.approx(1, rel=1e-3)
    again, _ = data.load("digits")
    assert torch.equal(train.images, again.images)
    rows = {tuple(image.flatten().tolist()) for image in train.images}
    shared = sum(tuple(image.flatten().tolist()) in rows for image in test.images)
    assert shared == 0


def test_take_is_balanced_nested_and_always_the_same():
    train, _ = data.load("digits")
    few = train.take(50)
    assert few.labels.bincount().tolist() == [5] * 10
    assert torch.equal(train.take(100).images[:50], few.images)
    subset, _ = data.load("digits", subset=50)
    assert torch.equal(subset.images, few.images)
    with pytest.raises(ValueError, match="cannot take 5000 of the 1297"):
        train.take(5000)


def test_class_folders_are_decoded_once(tmp_path, monkeypatch):
    write_class_folders(tmp_path / "insects")
    train, test = data.load(str(tmp_path / "insects"))
    assert (train.shape, train.classes, len(test)) == ((3, 6, 6), 3, 12)
    first = np.asarray(Image.open(tmp_path / "insects" / "train" / "ant" / "0.png"))
    every = torch.stack(
        [
            torch.from_numpy(np.asarray(Image.open(p)).copy())
            for p in sorted((tmp_path / "insects" / "train").glob("*/*.png"))
        ]
    )
    scaled = every.float() / 255
    expected = (torch.from_numpy(first.copy()).float() / 255 - scaled.mean((0, 1, 2))) / scaled.std(
        (0, 1, 2)
    )
    assert torch.allclose(train.images[0], expected.permute(2, 0, 1), atol=1e-5)
    monkeypatch.setattr(data, "_decode", lambda folder: pytest.fail("decoded again"))
    again, _ = data.load(str(tmp_path / "insects"))
    assert torch.equal(again.images, train.images)


def test_a_changed_folder_is_decoded_again(tmp_path):
    write_class_folders(tmp_path)
    before, _ = data.load(str(tmp_path))
    Image.new("RGB", (6, 6)).save(tmp_path / "train" / "bee" / "more.png")
    after, _ = data.load(str(tmp_path))
    assert (len(before), len(after)) == (12, 13)


def test_a_change_below_the_classes_is_decoded_again(tmp_path):
    write_class_folders(tmp_path)
    deep = tmp_path / "train" / "bee" / "field" / "north"
    deep.mkdir(parents=True)
    sizes = []
    for color in ("red", "blue", "red"):
        Image.new("RGB", (6, 6), color).save(deep / f"{color}.png")
        sizes.append(len(data.load(str(tmp_path))[0]))
        (deep / "red.png").unlink(missing_ok=True)
    sizes.append(len(data.load(str(tmp_path))[0]))
    assert sizes == [13, 13, 14, 13]


def test_a_change_that_keeps_size_and_time_is_decoded_again(tmp_path):
    write_class_folders(tmp_path)
    image = tmp_path / "train" / "bee" / "plain.bmp"
    Image.new("RGB", (6, 6), "red").save(image)
    before, _ = data.load(str(tmp_path))
    was = image.stat()
    Image.new("RGB", (6, 6), "blue").save(image)
    os.utime(image, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    after, _ = data.load(str(tmp_path))
    assert not torch.equal(before.images, after.images)


def test_a_damaged_cache_is_decoded_again(tmp_path):
    write_class_folders(tmp_path)
    before, _ = data.load(str(tmp_path))
    (tmp_path / "train.safetensors").write_bytes(b"half a file")
    after, _ = data.load(str(tmp_path))
    assert torch.equal(before.images, after.images)


def test_cifar10_is_read_from_class_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TOROID_DATA", str(tmp_path))
    write_class_folders(tmp_path / "cifar10")
    assert data.load("cifar10")[0].name == "cifar10/train"


def test_mnist_is_read_in_torchvisions_layout(tmp_path):
    write_mnist(tmp_path, 40)
    train, test = data.load("mnist", root=tmp_path)
    assert (train.images.shape, len(test)) == ((40, 1, 28, 28), 20)
    assert train.labels.tolist() == [k % 10 for k in range(40)]


@pytest.mark.parametrize("file", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"])
@pytest.mark.parametrize("kept", [0, 3, 9, 300, None])
def test_a_cut_mnist_file_is_named_with_what_is_wrong(file, kept, tmp_path):
    write_mnist(tmp_path, 400)
    path = tmp_path / "MNIST" / "raw" / f"{file}-ubyte"
    text = path.read_bytes()
    path.write_bytes(text[:kept] if kept is not None else b"GIF" + text[3:])
    with pytest.raises(ValueError, match=f"{path} has .* bytes, not the .*Remove it and fetch it"):
        data.load("mnist", root=tmp_path)


def test_a_damaged_label_makes_no_new_class(tmp_path):
    write_mnist(tmp_path, 40)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([250]))
    with pytest.raises(ValueError, match=r"mnist/train in .* has the label 250; .*0 to 9"):
        data.load("mnist", root=tmp_path)


def test_a_cifar10_folder_that_lacks_a_file_is_not_missing(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="cifar-10-batches-py lacks a file of CIFAR-10"):
        data.load("cifar10", root=tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 40, 90])
def test_a_cut_image_is_named_with_what_is_wrong(kept, tmp_path):
    write_class_folders(tmp_path)
    path = tmp_path / "train" / "bee" / "2.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} cannot be read as an image: .*Replace it"):
        data.load(str(tmp_path))


def test_an_image_that_claims_to_be_huge_is_named(tmp_path):
    write_class_folders(tmp_path)
    path = tmp_path / "train" / "bee" / "wide.bmp"
    Image.new("RGB", (6, 6)).save(path)
    head = bytearray(path.read_bytes())
    head[18:26] = (40_000).to_bytes(4, "little") * 2  # width and height
    path.write_bytes(head)
    with pytest.raises(ValueError, match=f"{path} cannot be read as an image: .*Replace it"):
        data.load(str(tmp_path))


def write_grey(folder, *images):
    for split in ("train", "test"):
        (folder / split / "x").mkdir(parents=True)
        for k, pixels in enumerate(images):
            ending = "tiff" if pixels.dtype.kind == "f" else "png"
            Image.fromarray(pixels).save(folder / split / "x" / f"{k}.{ending}")


def test_images_of_16_bits_keep_their_levels(tmp_path):
    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    write_grey(tmp_path / "deep", levels)
    write_grey(tmp_path / "shallow", (levels // 257).astype(np.uint8))
    deep, _ = data.load(str(tmp_path / "deep"))
    shallow, _ = data.load(str(tmp_path / "shallow"))
    assert deep.shape == (1, 16, 16)
    assert torch.allclose(deep.images, shallow.images, atol=1e-5)
    assert len(deep.images.unique()) == 256
    again, _ = data.load(str(tmp_path / "deep"))
    assert torch.equal(deep.images, again.images)


def test_images_of_two_depths_or_of_floating_numbers_are_refused(tmp_path):
    grey = np.full((4, 4), 7, np.uint8)
    write_grey(tmp_path / "mixed", grey, grey.astype(np.uint16))
    with pytest.raises(ValueError, match="differ in size or depth"):
        data.load(str(tmp_path / "mixed"))
    write_grey(tmp_path / "floating", grey.astype(np.float32))
    with pytest.raises(ValueError, match=r"0\.tiff .* floating; save it with 8 or 16 bits"):
        data.load(str(tmp_path / "floating"))


def test_what_is_missing_says_how_to_get_it(tmp_path):
    for name in ("mnist", "fashion-mnist", "cifar10"):
        with pytest.raises(
            FileNotFoundError, match=rf"{name} is not in .*TOROID_DATA.*download=True"
        ):
            data.load(name, root=tmp_path)
    with pytest.raises(ValueError, match="no data set 'minst': it is none of digits, mnist"):
        data.load("minst")
    (tmp_path / "half" / "train" / "x").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="has no folder 'test'"):
        data.load(str(tmp_path / "half"))


def test_grey_images_have_one_channel(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "x").mkdir(parents=True)
        Image.new("L", (5, 5), 7).save(tmp_path / split / "x" / "0.png")
    assert data.load(str(tmp_path))[0].shape == (1, 5, 5)


def test_both_parts_have_the_same_classes(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "train" / "elk").mkdir()
    with pytest.raises(ValueError, match=r"only one of .* has the classes \['elk'\]"):
        data.load(str(tmp_path))


def test_images_of_different_sizes_are_refused(tmp_path):
    write_class_folders(tmp_path)
    Image.new("RGB", (9, 6)).save(tmp_path / "train" / "bee" / "wide.png")
    with pytest.raises(ValueError, match="differ in size"):
        data.load(str(tmp_path))


def test_a_data_set_checks_itself():
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        toroid.data.Dataset(torch.zeros(3, 1, 2, 2), torch.zeros(2).long(), 10)
    for labels, message in (
        (torch.zeros(3), r"labels are torch\.float32 of shape \(3,\); they must be torch\.int64"),
        (torch.zeros(3, 1).long(), r"labels are torch\.int64 of shape \(3, 1\)"),
        (torch.tensor([0, 10, 2]), "labels go from 0 to 10; with 10 classes they must be 0 to 9"),
        (torch.tensor([0, -1, 2]), "labels go from -1 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            toroid.data.Dataset(torch.zeros(3, 4), labels, 10)
    assert toroid.data.Dataset(torch.zeros(3, 4), torch.arange(3), 3).shape == (4,)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.zeros(4, 2, dtype=torch.long)])
def test_targets_that_are_no_classes_are_shown_another_way(labels):
    with pytest.raises(ValueError, match=r"TensorDataset\(inputs, targets\), with task="):
        data.Dataset(torch.zeros(4, 3), labels, 2)


def test_the_digest_is_of_the_pixels_and_labels(tmp_path):
    def write(name, grey):
        for split in ("train", "test"):
            for k in range(2):
                (tmp_path / name / split / str(k)).mkdir(parents=True)
                pixels = np.full((4, 4), grey if split == "train" else 7, np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / split / str(k) / "x.png")
        return toroid.data.sha256(str(tmp_path / name))

    one, same, other = write("one", 3), write("same", 3), write("other", 4)
    assert one == same
    assert one["train"] != other["train"]
    assert one["test"] == other["test"]
