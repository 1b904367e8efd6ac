"""Image files: all below a folder are found, read upright at a bounded cost, and named if they cannot be read."""

import os
import re
import runpy
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile
from torchvision.transforms import v2

from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import DataError, ImageFolderDataModule, image_files
from tmkd_lightning.data.fingerprint import content_digest
from tmkd_lightning.data.image_files import ImageFiles, find_images

ORIENTATION = 0x0112
UPRIGHT = ["abc", "def"]
STORED = {  # by EXIF's own words: where the first row and the first column of what is stored are to be shown
    1: ["abc", "def"],  # top, left
    2: ["cba", "fed"],  # top, right
    3: ["fed", "cba"],  # bottom, right
    4: ["def", "abc"],  # bottom, left
    5: ["ad", "be", "cf"],  # left, top
    6: ["cf", "be", "ad"],  # right, top
    7: ["fc", "eb", "da"],  # right, bottom
    8: ["da", "eb", "fc"],  # left, bottom
}
KINDS = {
    "png": {},
    "webp": {"lossless": True},
    "tiff": {},
    "lzw.tiff": {"compression": "tiff_lzw"},
    "jpg": {"quality": 95, "subsampling": 0},
}


def picture(rows: list[str], mode: str = "RGB") -> Image.Image:
    """Squares of 16 pixels, each letter in a colour of its own."""
    numbers = np.array([["abcdef".index(letter) for letter in row] for row in rows]).repeat(16, 0).repeat(16, 1)
    colours = np.stack([40 * numbers, 255 - 30 * numbers, 0 * numbers + 9], axis=-1)
    return Image.fromarray(colours.astype(np.uint8)).convert(mode)


def turned(path: Path, orientation: int, rows: list[str] | None = None, mode: str = "RGB", **options: object) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(STORED[6] if rows is None else rows, mode).save(path, exif=exif, **options)
    return path


def read(path: Path) -> Image.Image:
    return ImageFiles([(path, 0)])[0][0]


def off(image: Image.Image, rows: list[str]) -> int:
    expected = picture(rows)
    assert image.size == expected.size
    return int(np.abs(np.asarray(image, int) - np.asarray(expected, int)).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_shown_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    path = turned(tmp_path / f"x.{kind}", orientation, STORED[orientation], **KINDS[kind])
    image = read(path)
    assert off(image, UPRIGHT) <= (8 if kind == "jpg" else 0)
    assert ImageOps.exif_transpose(image) == image  # a transform that does so too finds nothing left to do


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_whatever_its_mode(tmp_path: Path, mode: str) -> None:
    picture(STORED[6], mode).save(tmp_path / "lying.png")
    upright = np.rot90(np.asarray(read(tmp_path / "lying.png")), -1)  # clockwise
    np.testing.assert_array_equal(np.asarray(read(turned(tmp_path / "x.png", 6, mode=mode))), upright)


def test_orientations_out_of_the_ordinary(tmp_path: Path) -> None:
    """The first of several frames counts, a number that means nothing is upright, and other tags may be broken."""
    turned(tmp_path / "x.tiff", 6, save_all=True, append_images=[picture(UPRIGHT)])
    assert off(read(tmp_path / "x.tiff"), UPRIGHT) == 0
    for value in (0, 9, 65535):
        assert off(read(turned(tmp_path / "x.png", value, UPRIGHT)), UPRIGHT) == 0
    entries = struct.pack(">HHI4s", ORIENTATION, 3, 1, b"\0\x06\0\0") + struct.pack(">HHII", 0x8769, 4, 1, 9999)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + b"\0\0\0\0"  # PIL's own function would fail at it
    picture(STORED[6]).save(tmp_path / "x.png", exif=exif)
    assert off(read(tmp_path / "x.png"), UPRIGHT) == 0


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0nonsense, and more of it",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x03ab\0\0",  # letters
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03",  # more entries than there are
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as the library does, which pytest undoes
def test_broken_exif_costs_no_image(tmp_path: Path, exif: bytes, kind: str) -> None:
    picture(UPRIGHT).save(tmp_path / f"x.{kind}", exif=exif, **KINDS[kind])
    assert off(read(tmp_path / f"x.{kind}"), UPRIGHT) <= (8 if kind == "jpg" else 0)


def test_training_and_transforms_of_one_s_own_see_it_upright(tmp_path: Path) -> None:
    for name in ("train/a/0.png", "train/a/1.png", "val/a/0.png"):
        turned(tmp_path / name, 6)
    whole = v2.PILToTensor()
    data = ImageFolderDataModule(
        str(tmp_path), batch_size=2, num_workers=0, image_size=8, train_transform=whole, eval_transform=whole
    )
    data.setup("fit")
    expected = torch.from_numpy(np.asarray(picture(UPRIGHT)).copy()).permute(2, 0, 1)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        (images, _) = next(iter(loader))
        assert all(image.equal(expected) for image in images)


def black(path: Path, width: int, height: int) -> Path:
    """An image of any size in few bytes."""
    Image.new("1", (width, height)).save(path)
    return path


def test_a_side_may_be_at_most_fifty_times_the_other(tmp_path: Path) -> None:
    for width, height in ((1, 60_000), (60_000, 1), (2, 101), (101, 2)):
        path = black(tmp_path / "x.png", width, height)
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path} cannot be read as an image (it has {width}x{height} pixels, and a side may be at most 50 times "
            "the other): replace or remove it"
        )
    for size in ((100, 2), (2, 100), (50, 1), (3000, 300)):
        assert read(black(tmp_path / "x.png", *size)).size == size


def test_more_pixels_than_can_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them are read without a word."""

    def stop(_: Image.Image) -> None:
        raise ValueError("so far so good")  # decoding its pixels would take a while

    path = black(tmp_path / "x.png", 14_000, 14_000)
    with pytest.raises(DataError, match=rf"^{path} cannot be read as an image \(.*196000000 pixels.* of 178956970"):
        read(path)
    black(path, 9_500, 9_500)
    monkeypatch.setattr(PngImageFile, "load", stop)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fresh = runpy.run_path(image_files.__file__)["ImageFiles"]  # what is filtered is so since the import
        with pytest.raises(DataError, match="so far so good"):
            fresh([(path, 0)])[0]
    assert not said


def test_whatever_a_decoder_raises(tmp_path, monkeypatch) -> None:
    path = turned(tmp_path / "x.png", 1)
    for error in (MemoryError(), struct.error("2 bytes"), zlib.error("Error -3"), RecursionError("x"), KeyError("x")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(Image, "open", fail)
        told = re.escape(str(error) or repr(error))
        with pytest.raises(DataError, match=rf"^{path} cannot be read as an image \({told}\): replace or remove it$"):
            read(path)


NO_FILES = [
    (os.mkfifo, "it is a pipe, a socket or a device, not a file"),
    (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, a socket or a device, not a file"),
    (lambda path: path.symlink_to("gone.png"), "it is a link that leads nowhere"),
    (lambda path: path.symlink_to(path.name), "it cannot be accessed "),
    (Path.mkdir, "it is a folder, not a file"),
    (Path.absolute, "it is missing"),
]


@pytest.mark.parametrize(("make", "told"), NO_FILES)
def test_what_is_no_file_is_never_opened(tmp_path: Path, make: Callable[[Path], object], told: str) -> None:
    """Opening the pipe would wait without end."""
    path = tmp_path / "x.png"
    make(path)
    with pytest.raises(DataError, match=rf"x\.png cannot be read as an image \({told}"):
        read(path)
    with pytest.raises(DataError, match=r"x\.png cannot be read"):
        content_digest(ImageFiles([(path, 0)]))
    with pytest.raises(DataError, match=r"image .*x\.png "):
        ImageFiles([(path, 0)]).check()


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    turned(tmp_path / "elsewhere" / "deep" / "1.webp", 1)
    turned(tmp_path / "images" / "2.PNG", 1)
    (tmp_path / "images" / "photos").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "top").symlink_to(tmp_path / "images")
    assert names(tmp_path / "images") == names(tmp_path / "top") == ["2.PNG", "photos/deep/1.webp"]
    for level in range(30):  # two ways at each would be a thousand million
        (tmp_path / f"{level}").mkdir()
        for way in "ab":
            (tmp_path / f"{level}" / way).symlink_to(tmp_path / f"{level + 1}")
    turned(tmp_path / "30" / "1.png", 1)
    assert len(find_images(tmp_path / "0")) == 1


def test_circles_end_and_nothing_is_read_twice(tmp_path: Path) -> None:
    turned(tmp_path / "images" / "z" / "1.png", 1)
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "z" / "up").symlink_to("..")
    (tmp_path / "images" / "best").symlink_to("z")
    (tmp_path / "other").mkdir()
    (tmp_path / "images" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "all").symlink_to(tmp_path)
    assert names(tmp_path / "images") == ["z/1.png"]


def test_what_only_looks_like_an_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned(tmp_path / "1.png", 1)
    (tmp_path / "2.png").symlink_to("gone.png")
    (tmp_path / "3.png").symlink_to("3.png")
    (tmp_path / "4").symlink_to("/mnt/gone")  # of what was a folder, perhaps
    (tmp_path / "notes.txt").symlink_to("gone.txt")
    (tmp_path / ".5.png").symlink_to("gone.png")
    os.mkfifo(tmp_path / "6.png")
    (tmp_path / "7.png").mkdir()
    turned(tmp_path / "7.png" / "8.jpeg", 1)
    turned(tmp_path / "9" / "1.png", 1)
    assert names(tmp_path) == ["1.png", "2.png", "3.png", "4", "6.png", "7.png/8.jpeg", "9/1.png"]
    assert names(tmp_path / "gone") == []
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "9":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(tmp_path)[-2:] == ["7.png/8.jpeg", "9"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("ant", "bee"):
        for index in range(3):
            turned(tmp_path / "root" / "train" / name / f"{index}.png", 1)
    return tmp_path / "root"


def module(root: Path) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), image_size=8, batch_size=2, num_workers=0)


def problems(root: Path, count: object, capsys: pytest.CaptureFixture) -> str:
    """What ``tmkd data check`` prints."""
    with pytest.raises(SystemExit, match=f"^{count} problem"):
        tmkd(["data", "check", "--data", "tmkd_lightning.data.ImageFolderDataModule", "--data.root", str(root)])
    return capsys.readouterr().out


@pytest.mark.parametrize("place", ["train/ant/x.png", "train/ant/photos", "train/cow", "val", "val/ant", "test"])
def test_links_that_lead_nowhere(root: Path, place: str, capsys: pytest.CaptureFixture) -> None:
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).symlink_to("/mnt/gone")
    with pytest.raises(DataError, match=rf"{root / place} is a link that leads nowhere: mend"):
        module(root).prepare_data()
    found = problems(root, r"\d", capsys)
    assert f"WRONG: {'image ' * ('ant/' in place and 'train' in place)}{root / place}" in found


def test_all_of_them_are_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("elsewhere/1.png", "elsewhere/2.png"):
        turned(tmp_path / name, 1)
    (root / "train" / "cow").symlink_to(tmp_path / "elsewhere")  # a linked class is one
    module(root).prepare_data()
    assert module(root).class_names == ["ant", "bee", "cow"]
    assert sum(label == 2 for label in module(root).samples("train").labels) == 1
    for index in range(30):
        (root / "train" / "ant" / f"x{index}.png").symlink_to("gone.png")
    os.mkfifo(root / "train" / "bee" / "pipe.png")
    with pytest.raises(DataError, match=r"x0\.png is a link that leads nowhere, and 30 more of 39: mend, replace"):
        module(root).prepare_data()
    printed = problems(root, 32, capsys)
    assert all(f"x{index}.png cannot be read as an image (it is a link that leads" in printed for index in range(30))
    assert "pipe.png cannot be read as an image (it is a pipe, a socket or a device, not a file)" in printed
