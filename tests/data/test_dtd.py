"""DTD: ten partitions, read by torchvision."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import fake_datasets
from tmkd_lightning.data import DataError, DTDDataModule


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_datasets.make_dtd(tmp_path, partitions=2)


def module(folder: Path, **options: Any) -> DTDDataModule:
    return DTDDataModule(str(folder.parent.parent), num_workers=0, image_size=16, **options)


def test_counts_of_all_partitions(tmp_path: Path) -> None:
    fake_datasets.make_dtd(tmp_path, **fake_datasets.DTD, size=None)
    seen = set()
    for partition in range(1, 11):
        data = DTDDataModule(str(tmp_path), partition=partition)
        splits = [frozenset(path for path, _ in data.samples(split).files) for split in ("train", "val", "test")]
        assert [len(split) for split in splits] == [1_880, 1_880, 1_880]
        assert len(frozenset.union(*splits)) == 5_640
        seen.add(splits[0])
    assert len(seen) == 10
    assert data.num_classes == 47


def test_labels_follow_the_folders(folder: Path) -> None:
    data = module(folder, partition=2)
    for split in ("train", "val", "test"):
        assert all(data.class_names[label] == path.parent.name for path, label in data.samples(split).files)
    for partition in (0, 11, -1):
        with pytest.raises(ValueError, match=f"partition must be 1 to 10, got {partition}"):
            module(folder, partition=partition)
    data = module(folder, val="held_out", val_fraction=0.5)  # which leaves the official split alone
    each = data.samples("train"), data.samples("val"), data.official("val")
    train, val, official = ({path for path, _ in samples.files} for samples in each)
    assert len(train) == len(val) == 3
    assert not val & official


def test_a_missing_list_is_named(folder: Path) -> None:
    for split in ("test", "val", "train"):
        (folder / "labels" / f"{split}2.txt").unlink()
        module(folder).prepare_data()  # of the first partition
        with pytest.raises(DataError, match=f"{folder}/labels/{split}2.txt cannot be read .*: unpack the data again"):
            module(folder, partition=2).prepare_data()


def more(line: str) -> Callable[[Path], str]:
    return lambda path: f"{path.read_text()}{line}\n"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("val1.txt", more("aa-ed"), "images is not a class of both its val and its train list"),
        ("val1.txt", more("images/aa-ed/1.jpg"), "image .*/images/images/aa-ed/1.jpg is missing"),
        ("val1.txt", more("../1.jpg"), r"\.\. is not a class of both"),
        ("val1.txt", more("zz-ed/1.jpg"), "zz-ed is not a class of both its val and its train list"),
        ("val1.txt", lambda path: "aa-ed/\udcff\udcfe.jpg", "/val1.txt cannot be read .*decode"),
        (
            "test1.txt",
            lambda path: path.read_text().replace("ac-ed", "ab-ed"),
            "ac-ed is not a class of both its test and",
        ),
        ("test1.txt", lambda path: path.with_name("train1.txt").read_text(), "is listed in train and in test"),
    ],
)
def test_lists_that_make_no_sense(folder: Path, name: str, change: Callable[[Path], str], message: str) -> None:
    """torchvision would number classes differently that differ between lists, and all labels behind would be wrong."""
    path = folder / "labels" / name
    path.write_bytes(os.fsencode(change(path)))
    with pytest.raises(DataError, match=message):
        module(folder).prepare_data()


def test_an_archive_of_torchvision_s_place_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets.make_dtd(tmp_path / "source")
    place = tmp_path / "root" / "dtd"
    place.mkdir(parents=True)
    archive = fake_datasets.pack(place / "dtd-r1.0.1.tar.gz", tmp_path / "source" / "dtd", ["dtd"])
    monkeypatch.setattr(DTDDataModule, "archives", (archive,))
    data = DTDDataModule(str(tmp_path / "root"))
    data.prepare_data()
    assert len(data.samples("test")) == 6
