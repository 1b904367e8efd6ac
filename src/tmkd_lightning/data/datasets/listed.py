"""Datasets that are published as images and lists of them: a base class, and a reader of lists."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tmkd_lightning.data.download import Archive, download_and_unpack
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles


class ListedImages(ImageFiles, ABC):
    """Images of one of the published splits.

    A dataset of your own is one subclass: define `archives` and `read`.

    Args:
        root: folder that holds the data, or to which they are downloaded.
        split: ``train`` or ``test``.
        transform: of the PIL image (RGB); None to leave it as it is.
        target_transform: of the label.
        download: whether to download data that are not in `root`.

    Attributes:
        classes: class names in the order of the labels, as used in prompts.
        class_to_idx: label of each class name.
        files: path and label of each image.

    Raises:
        DataError: data are missing or cannot be read; the message names the file and gives a remedy.
        ValueError: there is no such split.
    """

    archives: ClassVar[tuple[Archive, ...]] = ()

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        download: bool = False,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        self.root = Path(root).expanduser()
        self.split = split
        self.transform = transform
        self.target_transform = target_transform
        if any(self.root.name in archive.holds for archive in self.archives):
            raise DataError(f"{self.root} is one level too deep: root is the folder that holds {self.root.name}")
        download_and_unpack(self.root, self.archives, download)
        self.classes, files = self.read()
        if not files:
            raise DataError(f"{self.root} has no {split} image: its lists name none")
        for path, _ in files:
            if ".." in path.parts or not path.is_relative_to(self.root):
                raise DataError(f"{self.root}: its lists name {path}, which lies elsewhere")
        super().__init__(files)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}

    @abstractmethod
    def read(self) -> tuple[list[str], list[tuple[Path, int]]]:
        """Names of all classes, and path and label of each image of `split`, from the lists in `root`."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(index)
        return (
            self.transform(image) if self.transform else image,
            self.target_transform(label) if self.target_transform else label,
        )


def read_table(path: Path) -> dict[str, str]:
    """Reads lines of a key and a value, in their order; DataError names the file and line that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # -sig: some editors write a byte order mark
    except FileNotFoundError as error:
        raise DataError(f"no file {path}: unpack the data again, into an empty folder") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error
    table: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        columns = line.split(maxsplit=1)
        if len(columns) == 1:
            raise DataError(f"{path}, line {number}: expected two columns, found {line!r}")
        if columns and columns[0] in table:
            raise DataError(f"{path}, line {number}: {columns[0]} is there twice")
        if columns:
            table[columns[0]] = columns[1].strip()
    return table


def look_up(table: dict[str, str], key: str, path: Path, allowed: dict[str, int]) -> int:
    """Finds the value of a key in the table of a file, and gives its number in `allowed`."""
    if key not in table:
        raise DataError(f"{path} has no line for {key}")
    if table[key] not in allowed:
        raise DataError(f"{path}: {table[key]!r} for {key} is none of {', '.join(list(allowed)[:10])}")
    return allowed[table[key]]
