"""CUB-200-2011, RAF-DB and Stanford Dogs: their lists as they are and as they go wrong, and the layouts of RAF-DB."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from helpers import fake_datasets
from helpers.fake_datasets import make_cub, make_dogs, make_rafdb, write_mat
from tmkd_lightning.data import (
    CUB200,
    RAFDB,
    CUB200DataModule,
    DataError,
    RAFDBDataModule,
    StanfordDogs,
    StanfordDogsDataModule,
)

MODULES = {make_cub: CUB200DataModule, make_rafdb: RAFDBDataModule, make_dogs: StanfordDogsDataModule}


def contents(kind: type, root: Path) -> list[list[tuple[str, int]]]:
    return [[(path.name, label) for path, label in kind(root, split).files] for split in ("train", "test")]


def edit(path: Path, change: Any) -> None:
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def more(line: str) -> Callable[[Path], None]:
    return lambda path: edit(path, lambda lines: [*lines, line])


def other(value: str) -> Callable[[Path], None]:
    """Another value in the first line."""
    return lambda path: edit(path, lambda lines: [f"{lines[0].split()[0]} {value}", *lines[1:]])


def shorter(path: Path) -> None:
    edit(path, lambda lines: lines[1:])


def all_for_training(path: Path) -> None:
    edit(path, lambda lines: [f"{line.split()[0]} 1" for line in lines])


def damages() -> Iterator[tuple[Callable[..., Path], str, Callable[[Path], object], str]]:
    """Dataset, list, what happens to it, and what is said."""
    for name in ("image_class_labels.txt", "train_test_split.txt"):
        yield make_cub, name, shorter, r"{root}: the dataset's lists do not agree \('{number}'\)"
    for name in ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt"):
        yield make_cub, name, Path.unlink, "{path} cannot be read .*: unpack the data again"
        yield make_cub, name, lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "{path} cannot be read .*decode"
    yield make_cub, "images.txt", more("17"), "{path}: expected two columns, .*found '17'$"
    yield make_cub, "train_test_split.txt", more("1 1"), "{path}: expected two columns, .*found '1 1'$"
    yield make_cub, "classes.txt", more("4"), "{path}: expected two columns, .*found '4'$"
    yield make_cub, "image_class_labels.txt", more("\x00"), r"{path}: expected two columns, .*found '\\x00'$"
    yield make_cub, "train_test_split.txt", other("2"), r"lists do not agree \('2'\)"
    yield make_cub, "image_class_labels.txt", other("99"), r"lists do not agree \('99'\)"
    yield make_cub, "images.txt", other("../../secret.jpg"), "which lies elsewhere"
    yield make_cub, "images.txt", other("/etc/secret.jpg"), "which lies elsewhere"
    yield make_cub, "train_test_split.txt", all_for_training, "{root} has no test image"
    yield make_rafdb, "list_patition_label.txt", other(""), "{path}: expected two columns"
    for value in "80":
        yield make_rafdb, "list_patition_label.txt", other(value), rf"{{root}}.*lists do not agree \('{value}'\)"
    for name in ("train_list.mat", "test_list.mat"):
        yield make_dogs, name, Path.unlink, "{root} holds neither train_list.mat and test_list.mat nor lists.tar"
    for damage in (
        *(lambda path, content=content: path.write_bytes(content) for content in (b"", b"junk", b"<html></html>")),
        lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200)),
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: savemat(path, {"file_list": np.zeros((2, 1), dtype=object)}),
        lambda path: write_mat(path, ["n1-A/1.jpg", "n1-A/2.jpg"], [1]),
    ):
        yield make_dogs, "train_list.mat", damage, "{path} cannot be read as a list of images"
    disagreeing = ["n1-A/1.jpg", "A/2.jpg"], [101, 102]
    yield make_dogs, "train_list.mat", lambda path: write_mat(path, *disagreeing), "{root}: .*lists do not agree"
    message = r"holds neither Images nor images.tar.*download=True.*ImageNetDogs/images.tar"
    yield make_dogs, "Images", lambda path: path.rename(path.with_name("Pictures")), message


@pytest.mark.parametrize(("make", "name", "damage", "message"), list(damages()))
def test_lists_that_make_no_sense(tmp_path: Path, make: Any, name: str, damage: Any, message: str) -> None:
    make(tmp_path)
    (path,) = tmp_path.rglob(name)
    number = path.read_bytes().split()[0].decode() if path.suffix == ".txt" else ""
    damage(path)
    with pytest.raises(DataError, match=message.format(root=tmp_path, path=path, number=number)):
        MODULES[make](str(tmp_path)).prepare_data()


def test_parts_of_cub(tmp_path: Path) -> None:
    """As many as the first ten classes hold: nothing knows the real numbers."""
    make_cub(tmp_path, classes=10, train_per_class=30, test_per_class=[24] * 9 + [27], size=None)
    data = CUB200DataModule(str(tmp_path))
    assert data.class_names[0] == "Aa Bird"
    assert (data.num_classes, len(data.official("train")), len(data.official("test"))) == (10, 300, 243)
    make_cub(tmp_path, train_per_class=[4, 1, 4])
    with pytest.raises(DataError, match="class 'Ab Bird' has one image: it cannot be split"):
        CUB200DataModule(str(tmp_path)).setup("fit")
    CUB200DataModule(str(tmp_path), val="test").setup("fit")


def test_lists_of_cub_are_joined_by_number(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    before = contents(CUB200, tmp_path)
    assert [[label for _, label in split] for split in before] == [[0] * 4 + [1] * 4 + [2] * 4, [0, 0, 1, 1, 2, 2]]
    for name in ("image_class_labels.txt", "train_test_split.txt"):
        edit(folder / name, lambda lines: ["900 1", *lines[::-1]])  # and may be longer
    assert contents(CUB200, tmp_path) == before
    edit(folder / "classes.txt", lambda lines: [f"{int(line[0]) + 70}{line[1:]}" for line in lines])
    with pytest.raises(DataError, match=r"lists do not agree \('1'\): unpack them again"):
        contents(CUB200, tmp_path)
    edit(folder / "image_class_labels.txt", lambda lines: [f"{a} {int(b) + 70}" for a, b in map(str.split, lines)])
    assert contents(CUB200, tmp_path) == before  # a part of the dataset may have kept its numbers


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: f"\ufeff{text}\n\n"])
def test_lists_of_cub_that_went_through_an_editor(tmp_path: Path, change: Any) -> None:
    folder = make_cub(tmp_path)
    before = contents(CUB200, tmp_path)
    for path in folder.glob("*.txt"):
        path.write_bytes(change(path.read_text()).encode())
    assert contents(CUB200, tmp_path) == before


def test_roots_of_cub_and_missing_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_cub(tmp_path)
    with pytest.raises(DataError, match="is one level too deep"):
        CUB200DataModule(str(folder), download=True).prepare_data()
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert CUB200DataModule(f"~/{tmp_path.name}").num_classes == 3
    assert len(CUB200(f"~/{tmp_path.name}")) == 12
    for path in sorted((folder / "images" / "002.Ab_Bird").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"image .*002.Ab_Bird/.*jpg is missing, and \d more of 12: unpack the data"):
        CUB200DataModule(str(tmp_path)).prepare_data()


def test_rafdb_in_folders(tmp_path: Path) -> None:
    """Nothing is opened, so one image under many names will do."""
    folder = make_rafdb(tmp_path, 1, 1, layout="DATASET")
    first = next((folder / "train" / "1").iterdir())
    for split in ("train", "test"):
        for label, count in enumerate(fake_datasets.RAF_DB[f"{split}_per_class"], start=1):
            for index in range(1, count):  # one is there
                os.link(first, folder / split / str(label) / f"{split}_9{index:05}_aligned.jpg")
    data = RAFDBDataModule(str(tmp_path))
    data.prepare_data()
    assert (len(data.official("train")), len(data.official("test"))) == (12_271, 3_068)
    shutil.rmtree(folder / "train" / "5")
    with pytest.raises(DataError, match=f"no folder {folder}/train/5: RAF-DB has a folder for each class from 1 to 7"):
        RAFDB(tmp_path)
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        RAFDB(tmp_path, "val")
    steps = data.default_train_transform().transforms
    assert not any("Crop" in type(step).__name__ for step in steps)  # faces are not cropped


def test_layouts_of_rafdb_hold_the_same(tmp_path: Path) -> None:
    make_rafdb(tmp_path / "basic")
    expected = contents(RAFDB, tmp_path / "basic")
    assert [len(files) for files in expected] == [7 * 4, 7 * 2]
    for layout in ("raf-basic", "", "DATASET"):
        folder = make_rafdb(tmp_path / f"at-{layout}", layout=layout)
        place = folder / ("train/1" if layout == "DATASET" else "Image/aligned")
        for stray in ("Thumbs.db", "stray.jpg", "._train_00001_aligned.jpg", ".hidden_aligned.jpg"):
            (place / stray).write_bytes(b"junk")
        (folder / "train_labels.csv").write_text("image,label")
        RAFDBDataModule(str(tmp_path / f"at-{layout}"), download=True).prepare_data()  # nothing is missing
        for root in (tmp_path / f"at-{layout}", folder) if layout == "DATASET" else (tmp_path / f"at-{layout}",):
            assert contents(RAFDB, root) == expected


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("there", ["", "basic/Image/aligned", "basic/EmoLabel", "DATASET/train/1", "train"])
def test_anything_but_rafdb_says_what_was_looked_for_and_where_to_ask(
    tmp_path: Path, there: str, download: bool
) -> None:
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


def test_labels_of_dogs_beyond_a_byte_s_sign(tmp_path: Path) -> None:
    """They come as single bytes, from 1: subtracting in that type would wrap around."""
    make_dogs(tmp_path, classes=200, train_per_class=1, test_per_class=1, size=None)
    assert StanfordDogs(tmp_path).labels == list(range(200))


def test_names_and_numbers_of_dogs(tmp_path: Path) -> None:
    root = make_dogs(tmp_path)
    parts = {split: [path for path, label in StanfordDogs(root, split).files if label] for split in ("train", "test")}
    dataset = StanfordDogs(root, "test")
    assert dataset.classes == ["big Aa", "Shih-Ab", "big Ac"]
    assert dataset.files[2] == (root / "Images" / "n02085621-Shih-Ab" / "n02085621_4.jpg", 1)
    write_mat(root / "test_list.mat", ["n02085621-Shih-Ab/n02085621_4.jpg"], [2])
    assert StanfordDogs(root, "test").labels == [1]  # of three classes one that this split has
    for split, paths in parts.items():  # a part of the dataset keeps its numbers
        files = [path.relative_to(root / "Images").as_posix() for path in paths]
        write_mat(root / f"{split}_list.mat", files, [90 if "Ab" in file else 117 for file in files])
    dataset = StanfordDogs(root, "test")
    assert (dataset.classes, dataset.labels) == (["Shih-Ab", "big Ac"], [0, 0, 1, 1])
