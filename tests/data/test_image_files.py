"""Image files are read upright, at a bounded cost, and one that cannot be read is named whatever it is."""

from __future__ import annotations

import os
import runpy
import socket
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

from tmkd_lightning.data import DataError, ImageFolderDataModule, image_files
from tmkd_lightning.data.fingerprint import content_digest
from tmkd_lightning.data.image_files import ImageFiles

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


# Upright


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


def test_the_first_of_several_frames(tmp_path: Path) -> None:
    turned(tmp_path / "x.tiff", 6, save_all=True, append_images=[picture(UPRIGHT)])
    assert off(read(tmp_path / "x.tiff"), UPRIGHT) == 0


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_counts_as_upright(tmp_path: Path, value: int) -> None:
    assert off(read(turned(tmp_path / "x.png", value, UPRIGHT)), UPRIGHT) == 0


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


def test_an_orientation_beside_broken_tags_is_obeyed(tmp_path: Path) -> None:
    """PIL's own function writes the other tags again, and would fail at this one."""
    entries = struct.pack(">HHI4s", ORIENTATION, 3, 1, b"\0\x06\0\0") + struct.pack(">HHII", 0x8769, 4, 1, 9999)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + b"\0\0\0\0"
    picture(STORED[6]).save(tmp_path / "x.png", exif=exif)
    assert off(read(tmp_path / "x.png"), UPRIGHT) == 0


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


# What an image may cost


def bomb(path: Path, width: int, height: int, bits: int = 1) -> Path:
    """A PNG of any size in few bytes, whose pixels are all black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj()
    row = b"\0" * (1 + (width * bits + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("width", "height"), [(1, 60_000), (60_000, 1), (2, 101), (101, 2)])
def test_a_side_many_times_the_other_is_refused(tmp_path: Path, width: int, height: int) -> None:
    path = bomb(tmp_path / "x.png", width, height)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path} cannot be read as an image (it has {width}x{height} pixels, and a side may be at most 50 times the "
        "other): replace or remove it"
    )


@pytest.mark.parametrize(("width", "height"), [(100, 2), (2, 100), (50, 1), (3000, 300)])
def test_panoramas_are_read(tmp_path: Path, width: int, height: int) -> None:
    assert read(bomb(tmp_path / "x.png", width, height)).size == (width, height)


def test_more_pixels_than_can_be_meant(tmp_path: Path) -> None:
    path = bomb(tmp_path / "x.png", 14_000, 14_000)
    with pytest.raises(DataError, match=rf"^{path} cannot be read as an image \(.*196000000 pixels.* of 178956970"):
        read(path)


def test_half_of_that_is_read_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Image.Image) -> None:
        raise ValueError("so far so good")  # decoding its pixels would take a while

    path = bomb(tmp_path / "x.png", 9_500, 9_500)
    monkeypatch.setattr(PngImageFile, "load", stop)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fresh = runpy.run_path(image_files.__file__)["ImageFiles"]  # what is filtered is so since the import
        with pytest.raises(DataError, match="so far so good"):
            fresh([(path, 0)])[0]
    assert not said


# What is no image, whatever it raises


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), r"MemoryError\(\)"),
        (struct.error("unpack requires 2 bytes"), "unpack requires 2 bytes"),
        (zlib.error("Error -3"), "Error -3"),
        (KeyError("mode"), "'mode'"),
        (RuntimeError("decoder"), "decoder"),
        (RecursionError("too deep"), "too deep"),
    ],
)
def test_whatever_a_decoder_raises(tmp_path, monkeypatch, error: Exception, told: str) -> None:
    path = turned(tmp_path / "x.png", 1)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=rf"^{path} cannot be read as an image \(.*{told}.*\): replace or remove it$"):
        read(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "it is a pipe, a socket or a device, not a file"),
    "socket": (make_socket, "it is a pipe, a socket or a device, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, a socket or a device, not a file"),
    "dangling": (lambda path: path.symlink_to("gone.png"), "it is a link that leads nowhere"),
    "circle": (lambda path: path.symlink_to(path.name), "it cannot be accessed "),
    "folder": (lambda path: path.mkdir(), "it is a folder, not a file"),
    "nothing": (lambda path: None, "it is missing"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_never_opened(tmp_path: Path, kind: str) -> None:
    """Opening the pipe would wait without end."""
    path = tmp_path / "x.png"
    make, told = NO_FILES[kind]
    make(path)
    with pytest.raises(DataError, match=rf"x\.png cannot be read as an image \({told}"):
        read(path)
    with pytest.raises(DataError, match=r"x\.png cannot be read"):
        content_digest(ImageFiles([(path, 0)]))
    with pytest.raises(DataError, match=r"image .*x\.png "):
        ImageFiles([(path, 0)]).check()


def test_names_steer_no_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2Jred\nAll images can be read.\x07.png"
    path.write_bytes(b"x")
    with pytest.raises(DataError) as caught:
        read(path)
    assert r"/\x1b[2Jred\nAll images can be read.\x07.png cannot be read as an image" in str(caught.value)
    assert str(caught.value).isprintable()
