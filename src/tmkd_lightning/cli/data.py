"""``tmkd data``: checks every image of a data set before a run does, and makes smaller copies."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tmkd_lightning.data import DataError, ImageDataModule
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.resize import resize_folder
from tmkd_lightning.utils.messages import printable


def check(data: ImageDataModule, per_class: bool = False, workers: int = 2) -> None:
    """Reads every image of every split, prints how many there are, and names what is missing or cannot be read.

    Args:
        data: datamodule, by class_path.
        per_class: whether to print the counts of each class too.
        workers: threads that read.

    Raises:
        SystemExit: something is wrong; all of it has been printed.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    problems, rotated, count = [], 0, 0
    for method in (data.prepare_data, data.check_classes):
        try:
            method()
        except DataError as error:
            problems.append(str(error))  # and the rest is still checked
    for split in ("train", "val", "test"):
        try:
            samples, names = data.samples(split), data.class_names
        except DataError as error:
            print(f"{split}: none" + ("" if str(error) in problems else f" ({printable(error)})"))
            if split == "train":
                problems.append(str(error))
            continue
        labels, unreadable = _read(samples, split, workers)
        _print_counts(split, Counter(labels), names, per_class)
        problems += unreadable
        count += len(labels)
        rotated += samples.count_rotated() if isinstance(samples, ImageFiles) else 0
    remark = ": read upright" if rotated else ""
    print(f"{rotated} of {count} images carry an EXIF orientation other than upright{remark}")
    _exit_with(problems)
    print("All images can be read.")


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

    Raises:
        SystemExit: files cannot be read; all of them have been printed, and all others are copied.
    """
    _exit_with(resize_folder(root.expanduser(), output.expanduser(), side, workers))
    print(f"{output} is a copy of {root} with shorter sides of at most {side} pixels.")


def _exit_with(problems: list[str]) -> None:
    """Prints each problem once, and ends with status 1 if there are any."""
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        print(f"WRONG: {printable(problem)}")
    if problems:
        raise SystemExit(f"{len(problems)} problem(s) found")


def _read(samples: Any, split: str, workers: int) -> tuple[list[int], list[str]]:
    """Labels of the images that can be read, and error messages of the others."""

    def read(index: int) -> int | str:
        try:
            return int(samples[index][1])
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(workers) as threads:
        results = threads.map(read, range(len(samples)))
        items = list(tqdm(results, split, len(samples), unit="image", disable=not sys.stderr.isatty(), leave=False))
    return [item for item in items if isinstance(item, int)], [item for item in items if isinstance(item, str)]


def _print_counts(split: str, counts: Counter[int], names: Sequence[str], per_class: bool) -> None:
    each = [counts[label] for label in range(len(names))]
    print(f"{split}: {sum(each)} images of {sum(count > 0 for count in each)} classes, {min(each)} to {max(each)} each")
    if per_class:
        print("\n".join(f"  {count:6} {printable(name)}" for name, count in zip(names, each, strict=True)))
