"""``tmkd data check``: looks through a dataset before a run does."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jsonargparse import auto_cli
from tqdm import tqdm

from tmkd_lightning.cli.parser import Parser
from tmkd_lightning.data import DataError, ImageDataModule
from tmkd_lightning.data.image_files import ImageFiles
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
    problems, turned, count = [], 0, 0
    for look in (data.prepare_data, data.check_classes):
        try:
            look()
        except DataError as error:
            problems.append(str(error))  # what else is wrong is still looked for
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
        turned, count = turned + (samples.turned() if isinstance(samples, ImageFiles) else 0), count + len(labels)
    print(f"{turned} of {count} images carry an EXIF orientation other than upright" + ": read upright" * (turned > 0))
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        print(f"WRONG: {printable(problem)}")
    if problems:
        raise SystemExit(f"{len(problems)} problem(s) found")
    print("All images can be read.")


def data_command(args: Sequence[str]) -> None:
    """Runs the verb on command-line arguments."""
    auto_cli({"check": check}, args=list(args), as_positional=False, prog="tmkd data", parser_class=Parser)


def _read(samples: Any, split: str, workers: int) -> tuple[list[int], list[str]]:
    """Labels of the images that can be read, and what is wrong with the others."""

    def one(index: int) -> int | str:
        try:
            return int(samples[index][1])
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(workers) as threads:
        found = threads.map(one, range(len(samples)))
        seen = list(tqdm(found, split, total=len(samples), unit="image", disable=not sys.stderr.isatty(), leave=False))
    return [item for item in seen if isinstance(item, int)], [item for item in seen if isinstance(item, str)]


def _print_counts(split: str, counts: Counter[int], names: Sequence[str], per_class: bool) -> None:
    each = [counts[label] for label in range(len(names))]
    print(f"{split}: {sum(each)} images of {sum(count > 0 for count in each)} classes, {min(each)} to {max(each)} each")
    if per_class:
        print("\n".join(f"  {count:6} {printable(name)}" for name, count in zip(names, each, strict=True)))
