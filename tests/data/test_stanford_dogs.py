"""Stanford Dogs: lists in MATLAB's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from helpers import fake_datasets
from tmkd_lightning.data import DataError, StanfordDogs, StanfordDogsDataModule


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fake_datasets.make_dogs(tmp_path)


def test_counts(tmp_path: Path) -> None:
    fake_datasets.make_dogs(tmp_path, **fake_datasets.DOGS, size=None)
    data = StanfordDogsDataModule(str(tmp_path))
    assert data.num_classes == 120
    assert (len(data.official("train")), len(data.official("test"))) == (12_000, 8_580)
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [10_800, 1_200, 8_580]


def test_labels_beyond_a_byte_s_sign(tmp_path: Path) -> None:
    """They come as single bytes, from 1: subtracting in that type would wrap around."""
    fake_datasets.make_dogs(tmp_path, classes=200, train_per_class=1, test_per_class=1, size=None)
    assert StanfordDogs(tmp_path).labels == list(range(200))


def test_names_and_paths(root: Path) -> None:
    dataset = StanfordDogs(root, "test")
    assert dataset.classes == ["big Aa", "Shih-Ab", "big Ac"]
    path, label = dataset.files[2]
    assert path == root / "Images" / "n02085621-Shih-Ab" / "n02085621_4.jpg"
    assert label == 1


def test_a_part_of_the_dataset_keeps_its_numbers(root: Path) -> None:
    for split in ("train", "test"):
        files = [
            path.relative_to(root / "Images").as_posix() for path, label in StanfordDogs(root, split).files if label
        ]
        fake_datasets.write_mat(root / f"part_{split}.mat", files, [90 if "Ab" in file else 117 for file in files])
    for split in ("train", "test"):
        (root / f"part_{split}.mat").rename(root / f"{split}_list.mat")
    dataset = StanfordDogs(root, "test")
    assert (dataset.classes, dataset.labels) == (["Shih-Ab", "big Ac"], [0, 0, 1, 1])


def test_a_class_that_one_split_lacks(root: Path) -> None:
    fake_datasets.write_mat(root / "test_list.mat", ["n02085621-Shih-Ab/n02085621_4.jpg"], [2])
    assert StanfordDogs(root, "test").labels == [1]


def test_a_png_with_four_channels_among_the_jpegs(root: Path) -> None:
    path = StanfordDogs(root).files[0][0]
    Image.new("RGBA", (8, 8), (200, 100, 50, 7)).save(path, format="PNG")
    image, _ = StanfordDogs(root)[0]
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (200, 100, 50))


def test_stray_files_are_passed_over(root: Path) -> None:
    before = StanfordDogs(root).files
    (root / "Images" / "n02085620-big_Aa" / "stray.jpg").write_bytes(b"junk")
    (root / "Images" / "n99999999-Stray").mkdir()
    StanfordDogsDataModule(str(root)).prepare_data()
    assert StanfordDogs(root).files == before


# What goes wrong


@pytest.mark.parametrize("name", ["train_list.mat", "test_list.mat"])
def test_a_missing_list_is_named(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(DataError, match=f"{root} holds neither train_list.mat and test_list.mat nor lists.tar"):
        StanfordDogsDataModule(str(root)).prepare_data()


def test_missing_images_are_asked_for(root: Path) -> None:
    (root / "Images").rename(root / "Pictures")
    with pytest.raises(DataError, match=r"holds neither Images nor images.tar.*download=True.*ImageNetDogs/images.tar"):
        StanfordDogs(root)


@pytest.mark.parametrize("content", [b"", b"junk", b"<html></html>", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_list_of_another_format(root: Path, content: bytes) -> None:
    (root / "train_list.mat").write_bytes(content)
    with pytest.raises(DataError, match=f"{root / 'train_list.mat'} cannot be read as a list of images"):
        StanfordDogs(root)


def test_a_truncated_list(root: Path) -> None:
    path = root / "train_list.mat"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=f"{path} cannot be read as a list of images"):
        StanfordDogs(root)


def test_a_list_without_labels(root: Path) -> None:
    savemat(root / "train_list.mat", {"file_list": np.zeros((2, 1), dtype=object)})
    with pytest.raises(DataError, match=f"{root / 'train_list.mat'} cannot be read as a list of images"):
        StanfordDogs(root)


@pytest.mark.parametrize(
    ("files", "labels", "message"),
    [
        (["n1-A/1.jpg", "n1-A/2.jpg"], [1], "/train_list.mat cannot be read as a list of images"),
        (["n1-A/1.jpg", "A/2.jpg"], [101, 102], ": the dataset's lists do not agree"),
    ],
)
def test_lists_that_make_no_sense(root: Path, files: list[str], labels: list[int], message: str) -> None:
    fake_datasets.write_mat(root / "train_list.mat", files, labels)
    with pytest.raises(DataError, match=f"{root}{message}"):
        StanfordDogs(root)
