"""Datamodule of your own images, in one folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.errors import DataError, check_class_names
from tmkd_lightning.data.image_files import ImageFiles, find_images, is_broken_link
from tmkd_lightning.data.splits import check_fraction, stratified_split


class ImageFolderDataModule(ImageDataModule):
    """Images in ``train/<class>/``, ``val/<class>/`` and ``test/<class>/``, at any depth below a class.

    Classes are the folders of ``train`` in alphabetical order. Without ``val``, a part of every class of ``train`` is
    held out. ``test`` is only needed for testing and prediction. Linked folders are followed.

    Args:
        root: folder that holds ``train``.
        val_fraction: part of each class to hold out if there is no ``val``, between 0 and 1.
        **kwargs: arguments of `ImageDataModule`; `seed` also decides which images are held out.

    Raises:
        DataError: a folder is missing or empty, ``val`` or ``test`` has a class that ``train`` lacks, a link is broken,
            or an image cannot be read (when it is loaded); the message names it.
    """

    def __init__(self, root: str, *, val_fraction: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_fraction(val_fraction)
        self.root = Path(root).expanduser()
        self.val_fraction = val_fraction

    @property
    def class_names(self) -> list[str]:
        """Names of the folders in ``train``, with blanks for underscores."""
        return [name.replace("_", " ") for name in self._classes()]

    def check_classes(self) -> None:
        """Raises DataError if two folders give the same class name."""
        check_class_names(self.class_names, [self.root / "train" / name for name in self._classes()])

    def prepare_data(self) -> None:
        """Checks that all images are there."""
        for split in ("train", "val", "test"):
            if split == "train" or self._has(split):
                ImageFiles(self._files(split)).check("mend, replace or remove it")

    def samples(self, split: str) -> ImageFiles:
        """Image files and labels of a split; see `ImageDataModule`."""
        if split == "test" or self._has("val"):
            return ImageFiles(self._files(split))
        train = ImageFiles(self._files("train"))
        rest, held_out = stratified_split(train.labels, self.val_fraction, self.seed, self._classes())
        return train.select(rest if split == "train" else held_out)

    def _has(self, split: str) -> bool:
        """Whether there is a folder of a split."""
        _check_link(self.root / split)
        return (self.root / split).is_dir()

    def _classes(self) -> list[str]:
        folders = _class_folders(self.root / "train")
        if not folders:
            raise DataError(f"{self.root}/train holds no folders: images are expected in {self.root}/train/<class>/")
        return folders

    def _files(self, split: str) -> list[tuple[Path, int]]:
        folder, classes = self.root / split, self._classes()
        if unknown := sorted(set(_class_folders(folder)) - set(classes)):
            raise DataError(f"{folder / unknown[0]} is a class that {self.root / 'train'} lacks")
        files = [(path, label) for label, name in enumerate(classes) for path in find_images(folder / name)]
        empty = [folder / classes[label] for label in range(len(classes)) if label not in {label for _, label in files}]
        if empty and (split == "train" or not files):
            place = empty[0] if split == "train" else folder
            raise DataError(f"{place} holds no image ({', '.join(IMG_EXTENSIONS)})")
        return files


def _class_folders(folder: Path) -> list[str]:
    """Names of the folders of a split, in alphabetical order."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: images are expected in {folder}/<class>/")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        _check_link(path)
    return [path.name for path in paths if path.is_dir()]


def _check_link(path: Path) -> None:
    if is_broken_link(path):
        raise DataError(f"{path} is a link that leads nowhere: mend or remove it")
