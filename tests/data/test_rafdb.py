"""RAF-DB: the layouts it is found in, and how to ask for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers import fake_datasets
from tmkd_lightning.data import RAFDB, DataError, RAFDBDataModule

LAYOUTS = ["basic", "raf-basic", "", "DATASET"]


def names(root: Path, split: str) -> list[tuple[str, int]]:
    return [(path.name, label) for path, label in RAFDB(root, split).files]


def test_counts(tmp_path: Path) -> None:
    fake_datasets.make_rafdb(tmp_path, **fake_datasets.RAF_DB, size=None)
    data = RAFDBDataModule(str(tmp_path))
    assert (len(data.official("train")), len(data.official("test")), data.num_classes) == (12_271, 3_068, 7)
    held_out = data.samples("val").labels
    assert [held_out.count(label) for label in range(7)] == [129, 28, 72, 477, 198, 70, 252]


def test_counts_of_folders(tmp_path: Path) -> None:
    """Nothing is opened, so one image under many names will do."""
    folder = fake_datasets.make_rafdb(tmp_path, 1, 1, layout="DATASET")
    first = next((folder / "train" / "1").iterdir())
    for split, counts in {
        "train": fake_datasets.RAF_DB["train_per_class"],
        "test": fake_datasets.RAF_DB["test_per_class"],
    }.items():
        for label, count in enumerate(counts, start=1):
            for index in range(1, count):  # one is there
                os.link(first, folder / split / str(label) / f"{split}_9{index:05}_aligned.jpg")
    data = RAFDBDataModule(str(tmp_path))
    data.prepare_data()
    assert (len(data.official("train")), len(data.official("test"))) == (12_271, 3_068)


def test_layouts_hold_the_same(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        fake_datasets.make_rafdb(tmp_path / f"at-{layout}", layout=layout)
    for split in ("train", "test"):
        expected = names(tmp_path / "at-basic", split)
        assert len(expected) == 7 * (4 if split == "train" else 2)
        assert all(names(tmp_path / f"at-{layout}", split) == expected for layout in LAYOUTS)


def test_folders_at_the_root(tmp_path: Path) -> None:
    folder = fake_datasets.make_rafdb(tmp_path, layout="DATASET")
    assert names(folder, "train") == names(tmp_path, "train")


@pytest.mark.parametrize("layout", ["basic", "DATASET"])
def test_stray_files_are_passed_over(tmp_path: Path, layout: str) -> None:
    folder = fake_datasets.make_rafdb(tmp_path, layout=layout)
    before = names(tmp_path, "train")
    place = folder / ("train/1" if layout == "DATASET" else "Image/aligned")
    for name in ("Thumbs.db", "stray.jpg", "._train_00001_aligned.jpg", ".hidden_aligned.jpg"):
        (place / name).write_bytes(b"junk")
    (folder / "train_labels.csv").write_text("image,label")
    RAFDBDataModule(str(tmp_path)).prepare_data()
    assert names(tmp_path, "train") == before


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("there", ["", "basic/Image/aligned", "basic/EmoLabel", "DATASET/train/1", "train"])
def test_anything_else_says_what_was_looked_for_and_where_to_ask(tmp_path: Path, there: str, download: bool) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        RAFDBDataModule(str(tmp_path), download=download).prepare_data()
    for part in (
        str(tmp_path), "EmoLabel/list_patition_label.txt", "basic/", "raf-basic/", "train/", "test/", "DATASET/",
        "http://www.whdeng.cn/RAF/model1.html", f"{tmp_path}/basic/Image/aligned/train_00001_aligned.jpg",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_download_of_what_is_there_already(tmp_path: Path) -> None:
    fake_datasets.make_rafdb(tmp_path)
    RAFDBDataModule(str(tmp_path), download=True).prepare_data()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_00001.jpg", "EmoLabel/list_patition_label.txt: expected two columns"),
        ("train_00001.jpg 8", r"lists do not agree \('8'\)"),
        ("train_00001.jpg 0", r"lists do not agree \('0'\)"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = fake_datasets.make_rafdb(tmp_path) / "EmoLabel" / "list_patition_label.txt"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    with pytest.raises(DataError, match=f"{tmp_path}.*{message}"):
        RAFDB(tmp_path)


def test_a_missing_class_folder_is_named(tmp_path: Path) -> None:
    folder = fake_datasets.make_rafdb(tmp_path, layout="DATASET")
    shutil.rmtree(folder / "train" / "5")
    with pytest.raises(DataError, match=f"no folder {folder}/train/5: RAF-DB has a folder for each class from 1 to 7"):
        RAFDB(tmp_path)


def test_faces_are_not_cropped(tmp_path: Path) -> None:
    fake_datasets.make_rafdb(tmp_path)
    data = RAFDBDataModule(str(tmp_path), image_size=24)
    kinds = [type(step).__name__ for step in data.default_train_transform().transforms]
    assert not any("Crop" in kind for kind in kinds)
