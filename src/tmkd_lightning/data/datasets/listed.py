"""Datasets that are published as images and lists of them: a base class, and a reader of lists."""

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
        try:
            self.classes, files = self.read()
        except (KeyError, IndexError) as error:
            raise DataError(f"{self.root}: the dataset's lists do not agree ({error}): unpack them again") from error
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        if not files:
            raise DataError(f"{self.root} has no {split} image: its lists name none")
        for path, _ in files:
            if ".." in path.parts or not path.is_relative_to(self.root):
                raise DataError(f"{self.root}: its lists name {path}, which lies elsewhere")
        super().__init__(files)

    @abstractmethod
    def read(self) -> tuple[list[str], list[tuple[Path, int]]]:
        """Names of all classes, and path and label of each image of `split`, from the lists in `root`."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(index)
        image = self.transform(image) if self.transform else image
        return image, self.target_transform(label) if self.target_transform else label


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without blanks around them; empty lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # -sig: some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): unpack the data again, into an empty folder") from error
    return [line.strip() for line in lines if line.strip()]


def read_table(path: Path) -> dict[str, str]:
    """Reads lines of a key and a value, in their order."""
    table: dict[str, str] = {}
    for line in read_lines(path):
        key, *value = line.split(maxsplit=1)
        if not value or key in table:
            raise DataError(f"{path}: expected two columns, and no first one twice, but found {line!r}")
        table[key] = value[0]
    return table
