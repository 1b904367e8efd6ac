"""DTD: ten partitions, read by torchvision."""

from __future__ import annotations

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


def test_held_out_leaves_the_official_split_alone(folder: Path) -> None:
    data = module(folder, val="held_out", val_fraction=0.5)
    train, val, official = (
        {path for path, _ in samples.files}
        for samples in (data.samples("train"), data.samples("val"), data.official("val"))
    )
    assert len(train) == len(val) == 3
    assert not val & official


@pytest.mark.parametrize("partition", [0, 11, -1])
def test_partitions_that_do_not_exist(tmp_path: Path, partition: int) -> None:
    with pytest.raises(ValueError, match=f"partition must be 1 to 10, got {partition}"):
        DTDDataModule(str(tmp_path), partition=partition)


def test_junk_is_passed_over(folder: Path) -> None:
    (folder / "images" / "aa-ed" / ".directory").write_text("[Dolphin]")
    (folder / "images" / "aa-ed" / "stray.jpg").write_bytes(b"junk")
    module(folder).prepare_data()


# What goes wrong


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_list_is_named(folder: Path, split: str) -> None:
    (folder / "labels" / f"{split}2.txt").unlink()
    module(folder).prepare_data()  # of the first partition
    with pytest.raises(DataError, match=f"{folder}/labels/{split}2.txt cannot be read .*: unpack the data again"):
        module(folder, partition=2).prepare_data()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("aa-ed", "images is not a class of both its val and its train list"),
        ("images/aa-ed/1.jpg", "image .*/images/images/aa-ed/1.jpg is missing"),
        ("../1.jpg", r"\.\. is not a class of both"),
    ],
)
def test_a_line_that_is_no_image_is_refused(folder: Path, line: str, message: str) -> None:
    path = folder / "labels" / "val1.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=message):
        module(folder).prepare_data()


def test_a_list_that_is_no_text(folder: Path) -> None:
    path = folder / "labels" / "val1.txt"
    path.write_bytes(b"aa-ed/\xff\xfe.jpg\n")
    with pytest.raises(DataError, match=f"{path} cannot be read .*decode"):
        module(folder).prepare_data()


@pytest.mark.parametrize(("split", "stranger"), [("test", "ac-ed"), ("val", "zz-ed")])
def test_classes_that_differ_between_the_lists(folder: Path, split: str, stranger: str) -> None:
    """torchvision would number them differently, and all labels behind would be wrong."""
    path = folder / "labels" / f"{split}1.txt"
    text = path.read_text()
    path.write_text(text.replace("ac-ed", "ab-ed") if stranger == "ac-ed" else f"{text}zz-ed/1.jpg\n")
    with pytest.raises(DataError, match=f"{stranger} is not a class of both its {split} and its train list"):
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
