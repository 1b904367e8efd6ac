"""Smaller copies of large photos: right, whole or not there, and of the originals that there are."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from helpers import fake_datasets
from tmkd_lightning import ClassifierModule
from tmkd_lightning.data import (
    BenchmarkDataModule,
    CIFAR100DataModule,
    CUB200DataModule,
    DataError,
    DTDDataModule,
    ImageFolderDataModule,
    RAFDBDataModule,
    StanfordDogsDataModule,
)
from tmkd_lightning.data import resized as resized_module
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.manifest import Entry, digest_of, write_entries
from tmkd_lightning.data.resized import ResizedCopies

SIDE = 32
KINDS: dict[type[BenchmarkDataModule], Callable[..., Path]] = {
    CUB200DataModule: fake_datasets.make_cub,
    RAFDBDataModule: fake_datasets.make_rafdb,
    DTDDataModule: fake_datasets.make_dtd,
    StanfordDogsDataModule: fake_datasets.make_dogs,
}
LOADER = Path(__file__).parents[2] / "examples" / "benchmarks" / "loader.py"
FORK = multiprocessing.get_context("fork")


def photo(path: Path, size: tuple[int, int] = (80, 48), seed: int = 0, mode: str = "RGB", **options: Any) -> Path:
    """Soft coloured spots with a little noise, without loss."""
    generator = np.random.default_rng(seed)
    spots = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(spots) + generator.normal(0, 4, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of four training and one test image each: photos that are larger than the copies."""
    for label, name in enumerate(("ant", "bee")):
        for index in range(5):
            split = "train" if index < 4 else "test"
            photo(tmp_path / "root" / split / name / f"{index}.png", seed=10 * label + index)
    return tmp_path / "root"


def module(root: Path, resize_to: int | None = SIDE, **options: Any) -> ImageFolderDataModule:
    options = {"batch_size": 3, "num_workers": 0, "image_size": 24, "val_fraction": 0.25, **options}
    return ImageFolderDataModule(str(root), resize_to=resize_to, **options)


def originals(root: Path) -> ImageFiles:
    return ImageFiles([(path, 0) for path in sorted((root / "train").rglob("*.png"))])


def off(image: Image.Image, reference: Image.Image) -> Any:
    """How far values are from what they should be, of 255."""
    return np.abs(np.asarray(image).astype(int) - np.asarray(reference))


def made(root: Path, side: int = SIDE) -> dict[str, Path]:
    """Copies by the names of their originals."""
    folder = ResizedCopies(root, side).folder
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}


def ages(root: Path) -> dict[str, int]:
    """When each copy was written; of two, only the age of one that was made anew differs."""
    return {name: path.stat().st_mtime_ns for name, path in made(root).items()}


def renewed(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return sorted(name for name in after if before.get(name) != after[name])


def everything(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


# What copies are


@pytest.mark.parametrize(
    ("size", "expected"),
    [((80, 48), (53, 32)), ((48, 80), (32, 53)), ((33, 33), (32, 32)), ((300, 40), (240, 32))],
)
def test_the_short_side_shrinks_and_the_aspect_stays(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    images = ImageFiles([(photo(tmp_path / "a.png", size), 5)])
    copies = ResizedCopies(tmp_path, SIDE)
    copies.make([images])
    (copy, label) = copies.of(images)[0]
    assert (copy.size, copy.mode, label) == (expected, "RGB", 5)
    reference = v2.functional.resize(images[0][0], [SIDE], antialias=True)
    assert off(copy, reference).mean() < 2.5
    assert off(copy, reference).max() < 20


@pytest.mark.parametrize("size", [(32, 32), (32, 90), (100, 32), (31, 60), (1, 1)])
def test_small_images_are_read_themselves(tmp_path: Path, size: tuple[int, int]) -> None:
    images = ImageFiles([(photo(tmp_path / "a.png", size), 5)])
    copies = ResizedCopies(tmp_path, SIDE)
    copies.make([images])
    assert copies.of(images).files == images.files
    assert made(tmp_path) == {}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "I;16"])
def test_images_of_any_kind(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 65535, 80 * 48).reshape(48, 80).astype(np.uint16)).save(path)
    else:
        photo(path, mode=mode)
    images = ImageFiles([(path, 0)])
    copies = ResizedCopies(tmp_path, SIDE)
    copies.make([images])
    copy, reference = copies.of(images)[0][0], v2.functional.resize(images[0][0], [SIDE], antialias=True)
    assert (copy.mode, copy.size) == ("RGB", (53, 32))
    assert off(copy, reference).mean() < 3


def test_edges_between_colours_stay_sharp(tmp_path: Path) -> None:
    """With a colour for four pixels, as JPEG has it by default, the worst is over 60."""
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, :, 2] = 255
    stripes[:, 9::18], stripes[:, 10::18], stripes[:, 11::18] = (255, 0, 0), (255, 0, 0), (255, 0, 0)
    Image.fromarray(stripes).save(tmp_path / "a.png")
    images = ImageFiles([(tmp_path / "a.png", 0)])
    copies = ResizedCopies(tmp_path, SIDE)
    copies.make([images])
    reference = v2.functional.resize(images[0][0], [SIDE], antialias=True)
    assert off(copies.of(images)[0][0], reference).max() < 30


def test_a_turned_photo_is_turned_as_its_original(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    images = ImageFiles([(photo(tmp_path / "a.jpg", quality=95, exif=exif), 0)])
    copies = ResizedCopies(tmp_path, SIDE)
    copies.make([images])
    upright = v2.functional.resize(images[0][0], [SIDE], antialias=True)
    assert upright.size == (32, 53)  # it lies as 80 by 48 pixels
    assert off(copies.of(images)[0][0], upright).mean() < 3
    with Image.open(copies.of(images).files[0][0]) as copy:
        assert (copy.size, copy.info.get("exif")) == ((32, 53), None)


def test_copies_of_before_images_were_upright_are_not_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    original = photo(tmp_path / "a.jpg", exif=exif)
    old = tmp_path / ".resized" / "32-jpeg95-1"
    photo(old / "a.jpg")
    status = original.stat()
    entry = Entry("a.jpg", status.st_size, status.st_mtime_ns, digest_of(original), (old / "a.jpg").stat().st_size)
    write_entries(old / "manifest.jsonl", [entry])
    images = ImageFiles([(original, 0)])
    copies = ResizedCopies(tmp_path, SIDE)
    with pytest.raises(DataError, match=r"is not the file that .*-2 knows"):
        copies.of(images)
    copies.make([images])
    assert copies.of(images)[0][0].size == (32, 53)


def test_the_name_of_an_original_may_be_as_long_as_can_be(tmp_path: Path) -> None:
    images = ImageFiles([(photo(tmp_path / f"{'a' * 251}.png"), 0)])
    copies = ResizedCopies(tmp_path, SIDE)
    copies.make([images])
    assert copies.of(images)[0][0].size == (53, 32)


# What is made again


def test_nothing_is_made_or_written_twice(root: Path) -> None:
    module(root).prepare_data()
    assert len(made(root)) == 10
    before = everything(root)
    for _ in range(2):
        module(root).prepare_data()
    assert everything(root) == before


def test_a_replaced_original_gets_a_new_copy_and_the_others_keep_theirs(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    before = ages(root)
    photo(root / "train/bee/2.png", seed=99)
    stale = made(root)["train/bee/2.png"].read_bytes()
    with pytest.raises(DataError, match=r"train/bee/2.png is not the file .* knows: call prepare_data\(\)"):
        [data.samples(split) for split in ("train", "val")]
    data.prepare_data()
    assert renewed(before, ages(root)) == ["train/bee/2.png"]
    assert made(root)["train/bee/2.png"].read_bytes() != stale
    new = v2.functional.resize(ImageFiles([(root / "train/bee/2.png", 0)])[0][0], [SIDE], antialias=True)
    with Image.open(made(root)["train/bee/2.png"]) as copy:
        assert off(copy, new).mean() < 2.5


@pytest.mark.parametrize("changed", ["size", "time"])
def test_one_of_size_and_time_is_enough(root: Path, changed: str) -> None:
    path = root / "train/ant/0.png"
    photo(path, seed=1, mode="L", format="BMP")
    module(root).prepare_data()
    status, before = path.stat(), ages(root)
    if changed == "size":
        photo(path, (90, 50), seed=2, mode="L", format="BMP")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        photo(path, seed=2, mode="L", format="BMP")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (path.stat().st_size != status.st_size) == (changed == "size")
    module(root).prepare_data()
    assert renewed(before, ages(root)) == ["train/ant/0.png"]


def test_a_touched_original_keeps_its_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root)
    data.prepare_data()
    before = ages(root)
    os.utime(root / "train/ant/0.png", ns=(1, 1))
    data.prepare_data()
    assert ages(root) == before
    monkeypatch.setattr(resized_module, "digest_of", lambda path: pytest.fail(f"{path} was read again"))
    data.prepare_data()
    data.setup("fit")


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_copy_is_made_anew(root: Path, damage: str) -> None:
    module(root).prepare_data()
    copy, before = made(root)["test/ant/4.png"], ages(root)
    whole = copy.read_bytes()
    if damage == "gone":
        copy.unlink()
    else:
        copy.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    module(root).prepare_data()
    assert renewed(before, ages(root)) == ["test/ant/4.png"]
    assert copy.read_bytes() == whole


def test_an_image_that_came_later(root: Path) -> None:
    module(root).prepare_data()
    before = ages(root)
    photo(root / "train/ant/9.png")
    module(root).prepare_data()
    assert renewed(before, ages(root)) == ["train/ant/9.png"]


def test_an_original_that_became_small_is_read_itself(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    photo(root / "test/ant/4.png", (20, 20))
    data.prepare_data()
    assert data.samples("test").files[0][0] == root / "test/ant/4.png"


@pytest.mark.parametrize("lines", [0, 3])
def test_a_manifest_that_was_cut_off(root: Path, lines: int) -> None:
    module(root).prepare_data()
    manifest = ResizedCopies(root, SIDE).folder / "manifest.jsonl"
    whole = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(whole[:lines]) + whole[lines][:20])
    before = ages(root)
    module(root).prepare_data()
    assert len(renewed(before, ages(root))) == 10 - lines
    assert sorted(manifest.read_text().splitlines(keepends=True)) == sorted(whole)


def test_another_side_is_another_folder(root: Path) -> None:
    module(root).prepare_data()
    before = everything(ResizedCopies(root, SIDE).folder)
    data = module(root, resize_to=40)
    with pytest.raises(DataError, match=r"call prepare_data\(\) before setup"):
        data.samples("test")
    data.prepare_data()
    assert data.samples("test")[0][0].size == (66, 40)
    assert everything(ResizedCopies(root, SIDE).folder) == before


def test_another_quality_or_version_is_another_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {ResizedCopies(root, SIDE).folder}
    for name, value in {"_QUALITY": 90, "_FORMAT": 3}.items():
        monkeypatch.setattr(resized_module, name, value)
        folders.add(ResizedCopies(root, SIDE).folder)
    assert len(folders) == 3


# Killed, at once, without a place


def failing_after(count: int, error: BaseException) -> Callable[..., None]:
    """Saves images, then leaves half of one behind."""
    save, saved = Image.Image.save, []

    def fail(image: Image.Image, path: Path, *args: Any, **options: Any) -> None:
        saved.append(path)
        if len(saved) > count:
            path.write_bytes(b"half")
            raise error
        save(image, path, *args, **options)

    return fail


@pytest.mark.parametrize(
    ("error", "seen"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), DataError)]
)
def test_an_interrupted_run_goes_on_where_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, seen: type[BaseException]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with monkeypatch.context() as broken:
        broken.setattr(Image.Image, "save", failing_after(4, error))
        with pytest.raises(seen) as caught:
            module(root).prepare_data()
    if seen is DataError:
        folder = ResizedCopies(root, SIDE).folder
        assert str(caught.value).startswith(f"{folder} cannot be written to ([Errno 28] No space left on device): make")
    whole = ages(root)
    assert len(whole) == 4
    module(root).prepare_data()
    assert len(ages(root)) == 10
    assert len(renewed(whole, ages(root))) == 6
    assert all(min(image.size) == SIDE for image, _ in (module(root).samples("test")[index] for index in (0, 1)))
    assert not list(root.rglob("*.part"))


def prepare_slowly(root: Path, pause: float, log: Path) -> None:
    """Runs in a process of its own; writes a line for each copy that it makes."""
    save = Image.Image.save

    def slow(image: Image.Image, path: Path, *args: Any, **options: Any) -> None:
        with open(log, "a") as file:
            file.write(f"{path.name}\n")
        time.sleep(pause)
        save(image, path, *args, **options)

    Image.Image.save = slow
    os.cpu_count = lambda: 2
    module(root).prepare_data()


def test_a_killed_process_leaves_nothing_that_looks_complete(root: Path, tmp_path: Path) -> None:
    killed = FORK.Process(target=prepare_slowly, args=(root, 0.2, tmp_path / "log"))
    killed.start()
    deadline = time.monotonic() + 20
    while len(made(root)) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.kill()
    killed.join()
    before = ages(root)
    assert 3 <= len(before) < 10
    for path in made(root).values():
        with Image.open(path) as copy:
            copy.load()
    module(root).prepare_data()
    assert len(ages(root)) == 10
    assert len(renewed(before, ages(root))) <= 10 - len(before) + 2  # and those that had no line yet, one a thread


def test_two_processes_at_once_share_the_work(root: Path, tmp_path: Path) -> None:
    both = [FORK.Process(target=prepare_slowly, args=(root, 0.02, tmp_path / "log")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 10
    assert len(module(root).samples("train")) == 6


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets no folder be made, no file be opened for writing: tests may run as root, whom no mode stops."""

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    def freeze() -> None:
        monkeypatch.setattr(Path, "mkdir", refuse)
        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "replace", refuse)
        monkeypatch.setattr(Image.Image, "save", refuse)

    return freeze


def test_a_read_only_root_says_what_helps(root: Path, read_only: Callable[[], None]) -> None:
    read_only()
    with pytest.raises(DataError) as caught:
        module(root).prepare_data()
    assert str(caught.value) == (
        f"{root}/.resized/32-jpeg95-2 cannot be written to ([Errno 30] Read-only file system): make a folder of links "
        f"to what is in {root}, and let root be that folder; or leave resize_to out"
    )


def test_a_folder_of_links_helps(root: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for path in root.iterdir():
        (links / path.name).symlink_to(path)
    module(links).prepare_data()
    assert len(made(links)) == 10
    assert not (root / ".resized").exists()
    assert module(links).samples("test")[0][0].size == (53, 32)


def test_copies_that_are_there_serve_a_read_only_root(root: Path, read_only: Callable[[], None]) -> None:
    module(root).prepare_data()
    read_only()
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    assert data.samples("train")[0][0].size == (53, 32)


def test_other_ranks_only_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root)
    with pytest.raises(DataError, match=r"call prepare_data\(\) before setup"):
        data.setup("fit")
    assert not (root / ".resized").exists()
    module(root).prepare_data()
    before = everything(root)
    monkeypatch.setattr(ResizedCopies, "make", lambda *_: pytest.fail("a rank that is not the first makes copies"))
    data.setup("fit")
    data.setup("test")
    assert [len(list(loader)) for loader in (data.train_dataloader(), data.val_dataloader())] == [2, 1]
    assert everything(root) == before


# What cannot be


def test_an_original_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # then those before it are done
    (root / "train/bee/1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{root}/train/bee/1.png cannot be read as an image"):
        module(root).prepare_data()
    before = ages(root)
    photo(root / "train/bee/1.png")
    module(root).prepare_data()
    assert len(ages(root)) == 10
    assert not {f"train/{name}.png" for name in ("ant/0", "ant/1", "ant/2", "ant/3", "bee/0")} & {
        *renewed(before, ages(root))
    }


@pytest.mark.parametrize("place", ["../a.png", "other/../../a.png"])
def test_originals_must_lie_below_the_root(tmp_path: Path, place: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "root" / "other").mkdir(parents=True)
    for path in (tmp_path / "root" / place, tmp_path / "a.png"):
        with pytest.raises(DataError, match=r"does not lie in .*: with resize_to, all images must"):
            ResizedCopies(tmp_path / "root", SIDE).make([ImageFiles([(path, 0)])])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "other", "root"]


def test_images_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="resize_to makes copies of image files, and list holds none"):
        ResizedCopies(tmp_path, SIDE).make([[(Image.new("RGB", (80, 80)), 0)]])


def test_one_image_on_two_lists_is_copied_once(root: Path) -> None:
    images = originals(root)
    shutil.copy(images.files[0][0], root / "train/ant/twin.png")
    both = originals(root)
    copies = ResizedCopies(root, SIDE)
    copies.make([images, both, both.select([0, 0])])
    lines = (copies.folder / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == len(made(root)) == 9
    assert len(copies.of(both.select([0, 0, 8]))) == 3


@pytest.mark.parametrize("kind", [ImageFolderDataModule, *KINDS])
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"image_size": 224}, 256),
        ({"image_size": 24}, 27),
        ({"image_size": 24, "train_transform": v2.PILToTensor()}, 27),
        ({"image_size": 24, "eval_transform": v2.PILToTensor()}, 24),
    ],
)
def test_copies_that_would_be_enlarged_again(tmp_path: Path, kind: Any, options: dict[str, Any], least: int) -> None:
    for wrong in (least - 1, 0, -1):
        with pytest.raises(
            ValueError, match=f"resize_to must be at least {least} for an image_size of .*, got {wrong}"
        ):
            kind(str(tmp_path), resize_to=wrong, **options)
    data = kind(str(tmp_path), resize_to=least, **options)
    assert data.copies.side == least
    assert kind(str(tmp_path), **options).copies is None


def test_the_least_is_what_the_default_transform_asks_for(tmp_path: Path) -> None:
    for image_size in (24, 96, 224, 299):
        (size,) = module(tmp_path, None, image_size=image_size).eval_transform.transforms[2].size
        assert module(tmp_path, size, image_size=image_size).copies.side == size
        with pytest.raises(ValueError, match="resize_to must be"):
            module(tmp_path, size - 1, image_size=image_size)


def test_cifar100_has_no_photos_to_resize(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="resize_to"):
        CIFAR100DataModule(str(tmp_path), resize_to=64)


# In the datamodules


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("val", ["held_out", "test"])
def test_images_labels_and_order_are_those_of_the_originals(kind: Any, tmp_path: Path, val: str) -> None:
    KINDS[kind](tmp_path, size=40)
    options: dict[str, Any] = {"val": val, "batch_size": 4, "num_workers": 0, "image_size": 24}
    plain, data = kind(str(tmp_path), **options), kind(str(tmp_path), resize_to=SIDE, **options)
    data.prepare_data()
    assert (data.class_names, data.class_phrases) == (plain.class_names, plain.class_phrases)
    for split in ("train", "val", "test"):
        names = [(path.relative_to(tmp_path), label) for path, label in plain.samples(split).files]
        copies = [(path.relative_to(data.copies.folder), label) for path, label in data.samples(split).files]
        assert names == copies
    data.setup("fit")
    for image, label in data.val_dataloader():
        expected = torch.tensor([fake_datasets.colour(y) for y in label.tolist()])
        assert (image.float().mean((2, 3)) - expected).abs().max() < 6
    with pytest.raises(DataError, match="no split 'training'"):
        data.samples("training")


def test_dtd_copies_its_validation_split_too(tmp_path: Path) -> None:
    fake_datasets.make_dtd(tmp_path, partitions=2, size=40)
    data = DTDDataModule(str(tmp_path), num_workers=0, image_size=24, resize_to=SIDE)
    data.prepare_data()
    assert len(list(data.copies.folder.rglob("*.jpg"))) == 18
    before = everything(tmp_path)
    other = DTDDataModule(str(tmp_path), partition=2, num_workers=0, image_size=24, resize_to=SIDE)
    other.prepare_data()  # the same images, dealt anew
    assert [len(other.samples(split)) for split in ("train", "val", "test")] == [6, 6, 6]
    assert everything(tmp_path) == before


def test_batches_are_repeatable_and_see_the_copies(root: Path) -> None:
    def batches(resize_to: int | None, epoch: int = 0) -> torch.Tensor:
        data = module(root, resize_to)
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([image for image, _ in loader])

    assert batches(SIDE).equal(batches(SIDE))
    assert not batches(SIDE).equal(batches(SIDE, epoch=1))
    assert not batches(SIDE).equal(batches(None))


def test_evaluation_sees_nearly_the_same_at_the_least_side(root: Path) -> None:
    def images(resize_to: int | None) -> torch.Tensor:
        data = module(root, resize_to)
        data.prepare_data()
        data.setup("test")
        return torch.cat([image for image, _ in data.test_dataloader()]).float()

    assert (images(27) - images(None)).abs().mean() < 2.5


def test_folders_of_copies_are_no_data(root: Path) -> None:
    names, counts = module(root, None).class_names, len(module(root, None).samples("train"))
    module(root).prepare_data()
    assert module(root, None).class_names == names
    assert len(module(root, None).samples("train")) == counts


def test_a_trainer_makes_them_once(root: Path, net: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: Counter[str] = Counter()
    save = Image.Image.save

    def count(image: Image.Image, path: Path, *args: Any, **options: Any) -> None:
        saved[path.name] += 1
        save(image, path, *args, **options)

    monkeypatch.setattr(Image.Image, "save", count)
    data = module(root)
    model = ClassifierModule(net(num_classes=2))
    trainer = fit(model, datamodule=data, max_epochs=1)
    trainer.test(model, datamodule=data, verbose=False)
    assert saved.total() == 10


def test_the_benchmark_of_the_loader_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_datasets.make_cub(tmp_path, size=300)
    monkeypatch.chdir(tmp_path)
    options = "--workers 0 --batch_size 4 --rounds 1 --resize_to 256"
    monkeypatch.setattr(sys, "argv", ["loader.py", "--root", str(tmp_path), *options.split()])
    monkeypatch.syspath_prepend(LOADER.parent)  # as Python does for a script
    runpy.run_path(str(LOADER), run_name="__main__")
    result = json.loads((tmp_path / "runs" / "loader.json").read_text())
    assert [row["loader"] for row in result["rows"]] == ["bare", "ours", "ours, resize_to=256"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["loader", "bare", "ours", "ours,"]
    assert result["command"][1:] == sys.argv[1:]
