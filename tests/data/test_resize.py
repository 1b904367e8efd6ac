"""Smaller copies of a data set: the same layout, images upright and not larger than asked for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from torchvision.transforms import v2

from helpers.fake_datasets import make_cub
from tmkd_lightning.cli.main import main as tmkd
from tmkd_lightning.data import CUB200DataModule, DataError, ImageFolderDataModule
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.resize import resize_folder

SIDE = 32


def photo(path: Path, size: tuple[int, int] = (80, 48), mode: str = "RGB", **options: Any) -> Path:
    """Soft coloured spots with a little noise."""
    generator = np.random.default_rng(0)
    spots = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(spots) + generator.normal(0, 4, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode).save(path, **options)
    return path


def read(path: Path) -> Image.Image:
    return ImageFiles([(path, 0)])[0][0]


def off(image: Image.Image, reference: Image.Image) -> float:
    """How far values are from what they should be on average, of 255."""
    return float(np.abs(np.asarray(image).astype(int) - np.asarray(reference)).mean())


def everything(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, one image in each that is larger than the copies."""
    for name in ("ant", "bee"):
        photo(tmp_path / "root" / "train" / name / "0.png")
        photo(tmp_path / "root" / "train" / name / "1.png", (20, 40))
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(suffix, "RGB") for suffix in ("jpg", "jpeg", "JPG", "png", "webp", "tif", "tiff", "bmp", "ppm", "pgm")]
    + [("png", mode) for mode in ("L", "P", "RGBA", "1", "I;16")]
    + [("tif", "CMYK")],
)
def test_the_shorter_side_shrinks_in_every_format_and_mode(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / "root" / f"a.{suffix}"
    photo(path, mode="L" if mode == "I;16" else mode, format="PPM" if suffix in ("ppm", "pgm") else None)
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 65535, 80 * 48).reshape(48, 80).astype(np.uint16)).save(path)
    assert resize_folder(tmp_path / "root", tmp_path / "copy", SIDE) == []
    copy = tmp_path / "copy" / path.name
    expected = v2.functional.resize(read(path), [SIDE], antialias=True)
    assert off(read(copy), expected) < (1 if suffix in ("png", "tif") else 5)
    with Image.open(copy) as image, Image.open(path) as original:
        assert (image.size, image.format) == ((53, 32), original.format)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_copies_are_upright_and_keep_their_colour_profile(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    of_cmyk = profile[:16] + b"CMYK" + profile[20:]
    path = photo(tmp_path / "root" / f"a.{suffix}", quality=95, exif=exif, icc_profile=profile)
    small = photo(tmp_path / "root" / f"b.{suffix}", (20, 10), exif=exif)
    photo(tmp_path / "root" / f"c.{suffix}", icc_profile=of_cmyk)
    resize_folder(tmp_path / "root", tmp_path / "copy", SIDE)
    with Image.open(tmp_path / "copy" / path.name) as copy:
        assert (copy.size, copy.info.get("exif"), copy.info.get("icc_profile")) == ((32, 53), None, profile)
        assert off(copy, v2.functional.resize(read(path), [SIDE], antialias=True)) < 4
    assert read(tmp_path / "copy" / small.name).size == read(small).size == (10, 20)
    with Image.open(tmp_path / "copy" / f"c.{suffix}") as copy:
        assert copy.info.get("icc_profile") is None


def test_all_other_files_are_copied_as_they_are(root: Path, tmp_path: Path) -> None:
    (root / "labels.csv").write_text("ant,0\n")
    for name in (".lock", ".cache/x.png", "data.tar.gz", "train/ant/.hidden.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"left out")
    (root / "val").symlink_to(root / "train")
    (root / "train" / "loop").symlink_to(root)
    assert resize_folder(root, tmp_path / "copy", SIDE, workers=1) == []
    images = [
        f"{split}/{name}/{index}.png" for split in ("train", "val") for name in ("ant", "bee") for index in (0, 1)
    ]
    assert sorted(everything(tmp_path / "copy")) == sorted([".resized_to", "labels.csv", *images])
    for name in ("labels.csv", "train/ant/1.png"):  # the image is small enough
        assert (tmp_path / "copy" / name).read_bytes() == (root / name).read_bytes()


def test_an_interrupted_run_goes_on_where_it_was(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a later one copies again what was replaced."""

    def interrupt(image: Image.Image, file: Any, *_: Any, **__: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    copy = tmp_path / "copy"
    with monkeypatch.context() as broken:
        broken.setattr(Image.Image, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            resize_folder(root, copy, SIDE)
    assert not (copy / "train" / "ant" / "0.png").exists()
    before = everything(copy)
    resize_folder(root, copy, SIDE)
    after = everything(copy)
    assert {name: after[name] for name in before if name != ".resized_to"}.items() <= before.items()
    assert len(after) == 5
    Image.new("RGB", (80, 48), "blue").save(root / "train" / "ant" / "0.png")
    later = (root / "train" / "ant" / "0.png").stat().st_mtime + 10
    os.utime(root / "train" / "ant" / "0.png", (later, later))
    resize_folder(root, copy, SIDE, workers=1)
    assert read(copy / "train" / "ant" / "0.png").getpixel((0, 0)) == (0, 0, 255)


def test_what_cannot_be_read_is_named_and_the_rest_copied(root: Path, tmp_path: Path, capsys: Any) -> None:
    (root / "train" / "ant" / "2.png").write_bytes(b"no image")
    (root / "train" / "ant" / "3.png").symlink_to("gone.png")
    os.mkfifo(root / "list.txt")
    with pytest.raises(SystemExit, match="3 problem"):
        tmkd(["data", "resize", "--root", str(root), "--output", str(tmp_path / "copy"), "--side", str(SIDE)])
    printed = capsys.readouterr().out
    assert f"WRONG: {root}/train/ant/2.png cannot be read as an image" in printed
    assert f"WRONG: {root}/train/ant/3.png is a link that leads nowhere" in printed
    assert f"WRONG: {root}/list.txt is a pipe" in printed
    assert len(everything(tmp_path / "copy")) == 5


def test_folders_that_cannot_be_copied_to(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*gone: name one that holds images"):
        resize_folder(tmp_path / "gone", tmp_path / "copy")
    with pytest.raises(DataError, match=r"root/copy lies in .*root: choose a folder elsewhere"):
        resize_folder(root, root / "copy")
    resize_folder(root, tmp_path / "copy", SIDE)
    photo(tmp_path / "other" / "a.png")
    for folder in ("copy", "other"):  # a copy of another size, and something else
        with pytest.raises(DataError, match=f"{folder} holds something other than copies of 33 pixels"):
            resize_folder(root, tmp_path / folder, 33)
    for options, message in (({"side": 0}, "side must be"), ({"workers": 0}, "workers must be")):
        with pytest.raises(ValueError, match=message):
            resize_folder(root, tmp_path / "new", **options)


def test_datamodules_read_copies(root: Path, tmp_path: Path, capsys: Any) -> None:
    tmkd(["data", "resize", "--root", str(root), "--output", str(tmp_path / "copy"), "--side", str(SIDE)])
    assert f"{tmp_path}/copy is a copy of {root} with shorter sides of at most 32 pixels." in capsys.readouterr().out
    data, copy = (ImageFolderDataModule(str(place), val_fraction=0.5) for place in (root, tmp_path / "copy"))
    assert copy.class_names == data.class_names
    names = [[(path.name, label) for path, label in each.samples("train").files] for each in (data, copy)]
    assert names[0] == names[1]
    assert min(min(copy.samples(split)[0][0].size) for split in ("train", "val")) <= SIDE

    make_cub(tmp_path / "birds", size=40)
    resize_folder(tmp_path / "birds", tmp_path / "small", SIDE)
    small = CUB200DataModule(str(tmp_path / "small"))
    small.prepare_data()
    assert {image.size for image, _ in map(small.samples("test").__getitem__, range(6))} == {(SIDE, SIDE)}
