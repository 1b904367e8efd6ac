"""``tmkd data``: checks every image of a data set before a run does, makes smaller copies, and writes shards."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tmkd_lightning.data import DataError, ImageDataModule
from tmkd_lightning.data.resize import resize_folder
from tmkd_lightning.data.shards.writing import write_stream
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.progress import progress
from tmkd_lightning.utils.validation import check_count


class Split(NamedTuple):
    """The images of a split.

    Attributes:
        counts: how many of each class can be read.
        unlabelled: how many without a class.
        sides: their shorter sides in pixels; 0 for what is neither a PIL image nor a tensor.
        problems: error messages of the others.
    """

    counts: list[int]
    unlabelled: int
    sides: list[int]
    problems: list[str]


def check(data: ImageDataModule, per_class: bool = False, workers: int = 2) -> None:
    """Reads every image of every split, prints how many there are, and names what is missing or cannot be read.

    Args:
        data: datamodule, by class_path.
        per_class: whether to print the counts of each class too.
        workers: threads that read.
    """
    problems: list[str] = []
    for method in (data.prepare_data, data.check_classes):
        try:
            method()
        except DataError as error:
            problems.append(str(error))  # and the rest is still checked
    for name, split in read_splits(data, workers):
        if isinstance(split, DataError):
            print(f"{name}: none" + ("" if str(split) in problems else f" ({split})"))
            problems += [str(split)] if name == "train" else []
            continue
        problems += split.problems
        each, classes = split.counts, sum(count > 0 for count in split.counts)
        without = f", and {split.unlabelled} without a class" if split.unlabelled else ""
        print(f"{name}: {sum(each)} images of {classes} classes, {min(each)} to {max(each)} each{without}")
        if per_class:
            names = data.class_names
            print("\n".join(f"  {count:6} {printable(one)}" for one, count in zip(names, each, strict=True)))
    _exit_with(problems)
    print("All images can be read.")


def read_splits(data: ImageDataModule, workers: int) -> Iterator[tuple[str, Split | DataError]]:
    """Reads every image of ``train``, ``val`` and ``test``; the error of a split that there is not stands for it."""
    for name in ("train", "val", "test"):
        try:
            samples, names = data.samples(name), data.class_names
        except DataError as error:
            yield name, error
            continue
        results = _read(samples, name, workers)
        labels = Counter(result[0] for result in results if not isinstance(result, str))
        yield (
            name,
            Split(
                counts=[labels[label] for label in range(len(names))],
                unlabelled=labels[-1],
                sides=[result[1] for result in results if not isinstance(result, str)],
                problems=[result for result in results if isinstance(result, str)],
            ),
        )


def resize(root: Path, output: Path, side: int = 256, workers: int = 2) -> None:
    """Copies a data set in its layout, with smaller images, for a faster `root` of a datamodule.

    Images whose shorter side is above `side` become smaller and are turned upright by their EXIF orientation; all other
    files are copied as they are, except archives and hidden files. An interrupted run can be continued.

    Args:
        root: folder of the data set.
        output: new folder for the copy.
        side: shorter side of the copies in pixels; at least 256/224 of the datamodule's `image_size`, or evaluation
            enlarges them again.
        workers: threads that work.
    """
    _exit_with(resize_folder(root.expanduser(), output.expanduser(), side, workers))
    print(f"{output} is a copy of {root} with shorter sides of at most {side} pixels.")


def optimize(data: ImageDataModule, output: Path, shard_size: int = 64, workers: int = 2) -> None:
    """Writes the images of any datamodule as shards, which StreamDataModule reads from a folder or a bucket.

    Image files are stored as they are, byte by byte. Training images are shuffled once, the others keep their order.

    Args:
        data: datamodule, by class_path.
        output: new folder for the shards.
        shard_size: size of a shard in megabytes.
        workers: threads that read.
    """
    check_count("shard_size", shard_size)
    data.prepare_data()
    index, problems = write_stream(data, output.expanduser(), shard_size << 20, workers)
    _exit_with(problems)
    for name, split in index.splits.items():
        print(f"{name}: {split.images} images in {len(split.sizes)} shards, {sum(split.sizes.values())} bytes")
    print(printable(f"{output} is a stream of {len(index.class_names)} classes, {index.fingerprint[:16]}."))


def _exit_with(problems: list[str]) -> None:
    """Prints each problem once, and ends with status 1 if there are any."""
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        print(f"WRONG: {printable(problem)}")
    if problems:
        raise SystemExit(f"{len(problems)} problem(s) found")


def _read(samples: Any, split: str, workers: int) -> list[tuple[int, int] | str]:
    """Labels and shorter sides of the images that can be read, and error messages of the others."""

    def read(index: int) -> tuple[int, int] | str:
        try:
            image, label = samples[index][:2]
            sides = image.size if isinstance(image, Image.Image) else getattr(image, "shape", ())[-2:]
            return int(label), min(sides, default=0)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(workers) as threads:
        results = threads.map(read, range(len(samples)))
        return list(progress(results, f"Reading {split}", len(samples), "images"))
