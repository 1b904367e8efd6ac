"""CUB-200-2011: the lists as they are and as they go wrong, and the images that lie among the birds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import fake_datasets
from tmkd_lightning.data import CUB200, CUB200DataModule, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_datasets.make_cub(tmp_path)


def module(folder: Path, **options: Any) -> CUB200DataModule:
    return CUB200DataModule(str(folder.parent), **{"batch_size": 4, "num_workers": 0, "image_size": 16, **options})


def contents(folder: Path) -> list[list[tuple[str, int]]]:
    return [[(path.name, label) for path, label in CUB200(folder.parent, split).files] for split in ("train", "test")]


def edit(path: Path, change: Any) -> None:
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


# The real numbers


def test_counts(tmp_path: Path) -> None:
    fake_datasets.make_cub(tmp_path, **fake_datasets.CUB, size=None)
    data = CUB200DataModule(str(tmp_path))
    assert data.num_classes == 200
    assert (len(data.official("train")), len(data.official("test"))) == (5_994, 5_794)
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [5_394, 600, 5_794]
    assert set(Counter(data.samples("val").labels).values()) == {3}  # of 29 or 30
    on_test = CUB200DataModule(str(tmp_path), val="test")
    assert [len(on_test.samples(split)) for split in ("train", "val", "test")] == [5_994, 5_794, 5_794]


def test_a_part_of_the_dataset(tmp_path: Path) -> None:
    """As many as the first ten classes hold: nothing knows the real numbers."""
    fake_datasets.make_cub(tmp_path, classes=10, train_per_class=30, test_per_class=[24] * 9 + [27], size=None)
    data = CUB200DataModule(str(tmp_path))
    assert data.class_names[0] == "Aa Bird"
    assert (data.num_classes, len(data.official("train")), len(data.official("test"))) == (10, 300, 243)


def test_a_class_too_small_to_split_is_called_by_its_name(tmp_path: Path) -> None:
    fake_datasets.make_cub(tmp_path, train_per_class=[4, 1, 4])
    with pytest.raises(DataError, match="class 'Ab Bird' has one image: it cannot be split"):
        CUB200DataModule(str(tmp_path)).setup("fit")
    CUB200DataModule(str(tmp_path), val="test").setup("fit")


# Lists


def test_order_and_labels(folder: Path) -> None:
    train, test = contents(folder)
    assert [label for _, label in train] == [0] * 4 + [1] * 4 + [2] * 4
    assert [label for _, label in test] == [0] * 2 + [1] * 2 + [2] * 2


def test_lists_are_joined_by_number(folder: Path) -> None:
    before = contents(folder)
    for name in ("image_class_labels.txt", "train_test_split.txt"):
        edit(folder / name, lambda lines: lines[::-1])
    assert contents(folder) == before


def test_classes_are_joined_by_number(folder: Path) -> None:
    """A part of the dataset may have kept its numbers."""
    edit(folder / "classes.txt", lambda lines: [f"{int(line[0]) + 70}{line[1:]}" for line in lines])
    with pytest.raises(DataError, match=r"lists do not agree \('1'\): unpack them again"):
        contents(folder)
    edit(folder / "image_class_labels.txt", lambda lines: [f"{a} {int(b) + 70}" for a, b in map(str.split, lines)])
    assert {label for _, label in contents(folder)[0]} == {0, 1, 2}


def test_other_lists_may_be_longer(folder: Path) -> None:
    before = contents(folder)
    edit(folder / "image_class_labels.txt", lambda lines: [*lines, "900 1", "901 200"])
    edit(folder / "train_test_split.txt", lambda lines: ["900 1", *lines])
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["image_class_labels.txt", "train_test_split.txt"])
def test_a_list_that_is_shorter_names_the_image(folder: Path, name: str) -> None:
    number = (folder / name).read_text().split()[0]
    edit(folder / name, lambda lines: lines[1:])
    with pytest.raises(DataError, match=rf"{folder.parent}: the dataset's lists do not agree \('{number}'\)"):
        contents(folder)


@pytest.mark.parametrize("name", ["images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_a_missing_list_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{folder / name} cannot be read .*: unpack the data again"):
        module(folder).prepare_data()


@pytest.mark.parametrize(
    ("name", "line"),
    [("images.txt", "17"), ("train_test_split.txt", "1 1"), ("classes.txt", "4"), ("image_class_labels.txt", "\x00")],
)
def test_a_line_that_cannot_be_read_is_named(folder: Path, name: str, line: str) -> None:
    edit(folder / name, lambda lines: [*lines, line])
    with pytest.raises(DataError) as caught:
        contents(folder)
    assert str(caught.value).startswith(f"{folder / name}: expected two columns, ")
    assert str(caught.value).endswith(f"found {line!r}")


@pytest.mark.parametrize(("name", "value"), [("train_test_split.txt", "2"), ("image_class_labels.txt", "99")])
def test_a_value_that_means_nothing_is_named(folder: Path, name: str, value: str) -> None:
    edit(folder / name, lambda lines: [f"{lines[0].split()[0]} {value}", *lines[1:]])
    with pytest.raises(DataError, match=rf"lists do not agree \('{value}'\)"):
        contents(folder)


def test_a_list_that_is_no_text(folder: Path) -> None:
    (folder / "images.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=f"{folder / 'images.txt'} cannot be read .*decode"):
        contents(folder)


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: f"\ufeff{text}\n\n"])
def test_lists_that_went_through_an_editor(folder: Path, change: Any) -> None:
    before = contents(folder)
    for path in folder.glob("*.txt"):
        path.write_bytes(change(path.read_text()).encode())
    assert contents(folder) == before


def test_a_split_without_images(folder: Path) -> None:
    edit(folder / "train_test_split.txt", lambda lines: [f"{line.split()[0]} 1" for line in lines])
    with pytest.raises(DataError, match=f"{folder.parent} has no test image"):
        module(folder).prepare_data()


# Images


def test_stray_files_are_passed_over(folder: Path) -> None:
    before = contents(folder)
    for name in ("images/stray.jpg", "images/001.Aa_Bird/stray.jpg", "images/001.Aa_Bird/.DS_Store", "README"):
        (folder / name).write_bytes(b"junk")
    (folder / "images" / "201.Stray").mkdir()
    data = module(folder)
    data.prepare_data()
    assert contents(folder) == before


def first(folder: Path) -> Path:
    """The path of the first test image."""
    return CUB200(folder.parent, "test").files[0][0]


def replace(path: Path, mode: str, kind: str) -> None:
    """Puts another kind of file under the same name."""
    image = Image.new("RGB", (20, 16), (200, 100, 50))
    others = [Image.new("RGB", (20, 16), (0, 0, 0))] if kind in ("GIF", "WEBP") else []
    options = {"save_all": True, "append_images": others, "lossless": True} if others else {}
    image.convert(mode).save(path, format=kind, **options)


@pytest.mark.parametrize(
    ("mode", "kind", "colour"),
    [
        ("L", "JPEG", (124, 124, 124)),
        ("CMYK", "JPEG", (200, 100, 50)),
        ("RGBA", "PNG", (200, 100, 50)),  # a .jpg by its name
        ("P", "PNG", (200, 100, 50)),
        ("RGB", "GIF", (200, 100, 50)),  # of several frames the first
        ("RGB", "WEBP", (200, 100, 50)),
    ],
)
def test_images_of_every_kind(folder: Path, mode: str, kind: str, colour: tuple[int, ...]) -> None:
    replace(first(folder), mode, kind)
    data = module(folder)
    data.setup("test")
    image, _ = next(iter(data.test_dataloader()))
    assert (image.dtype, tuple(image.shape[1:])) == (torch.uint8, (3, 16, 16))
    assert np.abs(image[0].float().mean((1, 2)).numpy() - colour).max() <= 3


def test_sixteen_bits_under_the_name_of_a_jpeg(folder: Path) -> None:
    Image.fromarray(np.full((16, 16), 0x8040, dtype=np.uint16)).save(first(folder), format="PNG")
    image, _ = CUB200(folder.parent, "test")[0]
    assert image.getpixel((3, 3)) == (0x80, 0x80, 0x80)


def test_a_truncated_image_is_named(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = first(folder)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    data = module(folder)
    data.prepare_data()
    data.setup("test")
    with pytest.raises(DataError, match=f"{path} cannot be read as an image .*: replace or remove it"):
        list(data.test_dataloader())


def test_missing_images_are_counted(folder: Path) -> None:
    for path in sorted((folder / "images" / "002.Ab_Bird").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"image .*002.Ab_Bird/.*jpg is missing, and \d more of 12: unpack the data"):
        module(folder).prepare_data()


def test_a_root_in_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent.parent))
    assert CUB200DataModule(f"~/{folder.parent.name}").num_classes == 3
    assert len(CUB200(f"~/{folder.parent.name}")) == 12
