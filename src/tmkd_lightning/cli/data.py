"""``tmkd data``: checks every image of a data set before a run does, and makes smaller copies."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tmkd_lightning.data import DataError, ImageDataModule
from tmkd_lightning.data.resize import resize_folder
from tmkd_lightning.utils.messages import printable


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
    for split in ("train", "val", "test"):
        try:
            samples, names = data.samples(split), data.class_names
        except DataError as error:
            print(f"{split}: none" + ("" if str(error) in problems else f" ({error})"))
            problems += [str(error)] if split == "train" else []
            continue
        results = _read(samples, split, workers)
        problems += [result for result in results if isinstance(result, str)]
        counts = Counter(results)
        each = [counts[label] for label in range(len(names))]
        classes = sum(count > 0 for count in each)
        without = f", and {counts[-1]} without a class" if counts[-1] else ""
        print(f"{split}: {sum(each)} images of {classes} classes, {min(each)} to {max(each)} each{without}")
        if per_class:
            print("\n".join(f"  {count:6} {printable(name)}" for name, count in zip(names, each, strict=True)))
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


def _read(samples: Any, split: str, workers: int) -> list[int | str]:
    """Labels of the images that can be read, and error messages of the others."""

    def read(index: int) -> int | str:
        try:
            return int(samples[index][1])
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(workers) as threads:
        results = threads.map(read, range(len(samples)))
        return list(tqdm(results, split, len(samples), unit="image", disable=not sys.stderr.isatty(), leave=False))
