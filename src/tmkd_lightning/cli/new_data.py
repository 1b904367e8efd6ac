"""The data of a new project: found, looked at, and the settings that they suggest."""

import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from tmkd_lightning.cli.data import Split, read_splits
from tmkd_lightning.cli.parser_errors import did_you_mean
from tmkd_lightning.data import (
    BenchmarkDataModule,
    CIFAR100DataModule,
    CUB200DataModule,
    DataError,
    DigitsDataModule,
    DTDDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    RAFDBDataModule,
    StanfordDogsDataModule,
)
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.messages import printable

DIGITS = "digits"
_HELD_OUT = 0.1
_FEWEST = round(1 / _HELD_OUT)  # images of a class of which a tenth is at least one
_SIDES = (32, 64, 128, 224)
_SHOWN = 5  # problems and names in a message


class _Benchmark(NamedTuple):
    kind: type[BenchmarkDataModule]
    images: int  # in the training split, for suggestions before the download
    side: int


BENCHMARKS = {
    "cub200": _Benchmark(CUB200DataModule, 5994, 224),
    "rafdb": _Benchmark(RAFDBDataModule, 12271, 100),
    "cifar100": _Benchmark(CIFAR100DataModule, 50000, 32),
    "dtd": _Benchmark(DTDDataModule, 1880, 224),
    "stanford_dogs": _Benchmark(StanfordDogsDataModule, 12000, 224),
}


class Data(NamedTuple):
    """What a project learns from.

    Attributes:
        name: as it was given.
        config: the datamodule's class_path and init_args.
        module: the datamodule itself.
        images: number of training images.
        side: median of the images' shorter sides in pixels.
        notes: what the user should know, a sentence each.
    """

    name: str
    config: dict[str, Any]
    module: ImageDataModule
    images: int
    side: int
    notes: list[str]


def find_data(name: str, root: str | None, folder: Path) -> Data:
    """Opens a folder of images or a benchmark, reads every image that is there, and prints what was found.

    Args:
        name: of a benchmark, or path of a folder.
        root: folder of a benchmark, by default ``data/<name>`` in `folder`.
        folder: of the project, to which paths in its configs are relative.

    Raises:
        DataError: there is no such data, or an image cannot be read.
    """
    if root is not None and name not in BENCHMARKS:
        raise ValueError(f"root is for the benchmarks {', '.join(BENCHMARKS)}: name a folder of images with data")
    if name == DIGITS:
        return _read(name, _config(DigitsDataModule), DigitsDataModule(), [])
    if name in BENCHMARKS:
        return _benchmark(name, folder / "data" / name if root is None else Path(root).expanduser(), folder)
    return _image_folder(name, folder)


def default_data(folder: Path) -> str:
    """A folder of images that lies at hand, or else the digits."""
    for path in [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]:
        try:
            if ImageFolderDataModule(str(path)).class_names:
                return os.path.relpath(path)
        except (DataError, OSError):
            continue
    return DIGITS


def relative(path: Path, folder: Path) -> str:
    """A path as a config in `folder` names it: relative if it lies inside, else whole."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


class Sizes(NamedTuple):
    """Suggested settings."""

    image_size: int
    batch_size: int
    epochs: int


def suggest(images: int, side: int, fast: bool) -> Sizes:
    """Suggests sizes that fit the data, and without an accelerator such as are trained in an hour or so.

    Args:
        images: number of training images.
        side: median of their shorter sides in pixels.
        fast: whether there is an accelerator.

    Source: our choice. An epoch has at least eight steps, as far as batches of eight allow; a run has about 3,000, or
    1,000 without an accelerator, but neither few nor very many epochs.

    Example:
        >>> suggest(images=5394, side=375, fast=True)
        Sizes(image_size=224, batch_size=64, epochs=36)
        >>> suggest(images=60, side=90, fast=False)
        Sizes(image_size=64, batch_size=8, epochs=30)
    """
    sides = [one for one in _SIDES if one <= side and (fast or one <= 64)]
    batch = min(64, max(8, 2 ** int(math.log2(max(1, images / 8)))))
    steps = math.ceil(images / batch)
    fewest, total, most = (10, 3000, 100) if fast else (5, 1000, 30)
    return Sizes(max(sides, default=_SIDES[0]), batch, min(most, max(fewest, math.ceil(total / steps))))


def _config(kind: type[ImageDataModule], **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"tmkd_lightning.data.{kind.__name__}", "init_args": arguments}


def _benchmark(name: str, root: Path, folder: Path) -> Data:
    kind, images, side = BENCHMARKS[name]
    config = _config(kind, root=relative(root, folder), download=True)
    module = kind(str(root), download=True)
    try:
        module.official("train")
    except DataError:
        if not module.published_classes:  # which nobody can download
            raise
        print(printable(f"{name}: {module.published_classes} classes; not in {root} yet, so the first run loads them"))
        return Data(name, config, module, images, side, [])
    return _read(name, config, module, [])


def _image_folder(name: str, folder: Path) -> Data:
    root = Path(name).expanduser()
    if not root.is_dir():
        beside = [path.name for path in root.parent.glob("*") if path.is_dir()]
        close = did_you_mean(root.name, [*beside, *BENCHMARKS, DIGITS])
        choices = close or f"; the benchmarks are {', '.join(BENCHMARKS)} and {DIGITS}"
        raise DataError(f"there is no folder {name}{choices}")
    if not any(path.is_dir() for path in root.iterdir()) and any(root.glob("*.*")):
        kinds = ", ".join(IMG_EXTENSIONS)
        raise DataError(f"{name} has no folders: put the images ({kinds}) of each class into a folder called after it")
    module = ImageFolderDataModule(str(root))
    names = module.class_names
    if len(names) < 2:
        raise DataError(f"{name} holds one class, {names[0]!r}, and telling apart takes two: is it the right folder?")
    if not (root / "train").is_dir() and Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(root)):
        raise DataError(
            f"{name} holds the classes, and {folder} for the configs and for runs/ is in it or the same: name a folder "
            "elsewhere, or move the classes into train/"
        )
    has_val, has_test = ((root / split).is_dir() for split in ("val", "test"))
    labels = module.samples("train").labels + ([] if has_val else module.samples("val").labels)
    counts = {names[label]: count for label, count in sorted(Counter(labels).items())}
    few = [name for name, count in counts.items() if count < _FEWEST]
    arguments: dict[str, Any] = {"root": relative(root, folder)}
    notes = []
    if few and not has_val:
        shown = ", ".join(f"{one} ({counts[one]})" for one in few[:_SHOWN]) + (" ..." if few[_SHOWN:] else "")
        notes.append(
            f"{len(few)} of {len(names)} classes have fewer than {_FEWEST} images, of which one is held out for "
            f"validation, and that says little of them: {shown}"
        )
    if not has_test and not few:
        arguments["test_fraction"] = _HELD_OUT
    elif not has_test:
        notes.append(f"there are no images for testing: add {name}/test/<class>/, or the report has no accuracy")
    module = ImageFolderDataModule(str(root), test_fraction=arguments.get("test_fraction", 0.0))
    return _read(name, _config(ImageFolderDataModule, **arguments), module, notes)


def may_have_seen(checkpoint: Path, data: Data) -> bool:
    """Whether a run that wrote a file may have trained on the images that the data hold out for testing."""
    if "test_fraction" not in data.config["init_args"]:
        return False
    content = read_checkpoint(checkpoint, tensors=False)
    theirs = (content.get("datamodule_hyper_parameters") if isinstance(content, Mapping) else None) or {}
    return any(theirs.get(name) != getattr(data.module, name) for name in ("test_fraction", "val_seed"))


def _read(name: str, config: dict[str, Any], module: ImageDataModule, notes: list[str]) -> Data:
    """Reads all images and prints what they are; DataError if some cannot be read."""
    module.prepare_data()
    module.check_classes()
    found = {split: one for split, one in read_splits(module, workers=2) if isinstance(one, Split)}
    sides = [side for one in found.values() for side in one.sides if side]
    print(printable(f"{name}: {sum(map(_count, found.values()))} images of {module.num_classes} classes"))
    for split, one in found.items():
        print(f"  {split:6} {_count(one)} images, {min(one.counts)} to {max(one.counts)} of a class")
    if sides:
        print(f"  shorter sides of {min(sides)} to {max(sides)} pixels, half of them up to {_median(sides)}")
    if problems := list(dict.fromkeys(problem for one in found.values() for problem in one.problems)):
        print("\n".join(f"  WRONG: {printable(problem)}" for problem in problems[:_SHOWN]))
        raise DataError(
            f"{len(problems)} image(s) of {name} cannot be read, which would end a run: replace or remove them "
            "(tmkd data check names all)"
        )
    return Data(name, config, module, _count(found["train"]), _median(sides), notes)


def _count(split: Split) -> int:
    return sum(split.counts)


def _median(sides: list[int]) -> int:
    return statistics.median_low(sides)
