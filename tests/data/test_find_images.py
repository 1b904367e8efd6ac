"""Images below a folder: all that look like some, and none twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DataError, ImageFolderDataModule
from tmkd_lightning.data.image_files import find_images


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
    return path


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "deep" / "1.png")
    image(tmp_path / "images" / "2.PNG")
    (tmp_path / "images" / "photos").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "images") == ["2.PNG", "photos/deep/1.png"]
    (tmp_path / "top").symlink_to(tmp_path / "images")
    assert names(tmp_path / "top") == ["2.PNG", "photos/deep/1.png"]


def test_circles_end_and_nothing_is_read_twice(tmp_path: Path) -> None:
    image(tmp_path / "images" / "z" / "1.png")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "z" / "up").symlink_to("..")
    (tmp_path / "images" / "best").symlink_to("z")
    (tmp_path / "other").mkdir()
    (tmp_path / "images" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "all").symlink_to(tmp_path)
    assert names(tmp_path / "images") == ["z/1.png"]


def test_links_to_links_do_not_multiply(tmp_path: Path) -> None:
    """Two ways at each of 30 levels would be a thousand million."""
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for way in "ab":
            (tmp_path / f"{level}" / way).symlink_to(tmp_path / f"{level + 1}")
    image(tmp_path / "30" / "1.png")
    assert len(find_images(tmp_path / "0")) == 1


def test_what_only_looks_like_an_image_is_named(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("gone.png")
    (tmp_path / "3.png").symlink_to("3.png")
    (tmp_path / "4").symlink_to("/mnt/gone")  # of what was a folder, perhaps
    (tmp_path / "notes.txt").symlink_to("gone.txt")
    (tmp_path / ".5.png").symlink_to("gone.png")
    os.mkfifo(tmp_path / "6.png")
    (tmp_path / "7.png").mkdir()
    image(tmp_path / "7.png" / "8.jpeg")
    assert names(tmp_path) == ["1.png", "2.png", "3.png", "4", "6.png", "7.png/8.jpeg"]
    assert names(tmp_path / "gone") == []


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a" / "1.png")
    image(tmp_path / "b" / "2.png")
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(tmp_path) == ["a", "b/2.png"]


# In a folder of classes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("ant", "bee"):
        for index in range(3):
            image(tmp_path / "root" / "train" / name / f"{index}.png")
    return tmp_path / "root"


def module(root: Path) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), image_size=8, batch_size=2, num_workers=0)


@pytest.mark.parametrize("place", ["train/ant/x.png", "train/ant/photos", "train/cow", "val", "val/ant", "test"])
def test_links_that_lead_nowhere(root: Path, place: str, capsys: pytest.CaptureFixture) -> None:
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).symlink_to("/mnt/gone")
    with pytest.raises(DataError, match=rf"{root / place} is a link that leads nowhere: mend"):
        module(root).prepare_data()
    with pytest.raises(SystemExit, match="problem"):
        tmkd(["data", "check", "--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root", str(root)])
    assert f"WRONG: {'image ' * ('ant/' in place and 'train' in place)}{root / place}" in capsys.readouterr().out


def test_all_of_them_are_named(root: Path, capsys: pytest.CaptureFixture) -> None:
    for index in range(30):
        (root / "train" / "ant" / f"x{index}.png").symlink_to("gone.png")
    os.mkfifo(root / "train" / "bee" / "pipe.png")
    with pytest.raises(DataError, match=r"x0\.png is a link that leads nowhere, and 30 more of 37: mend, replace"):
        module(root).prepare_data()
    with pytest.raises(SystemExit, match="32 problem"):
        tmkd(["data", "check", "--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root", str(root)])
    printed = capsys.readouterr().out
    assert all(f"x{index}.png cannot be read as an image (it is a link that leads" in printed for index in range(30))
    assert "pipe.png cannot be read as an image (it is a pipe, a socket or a device, not a file)" in printed


def test_a_linked_class_is_one(root: Path, tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "1.png")
    image(tmp_path / "elsewhere" / "2.png")
    (root / "train" / "cow").symlink_to(tmp_path / "elsewhere")
    assert module(root).class_names == ["ant", "bee", "cow"]
    module(root).prepare_data()
    assert sum(label == 2 for label in module(root).samples("train").labels) == 1
