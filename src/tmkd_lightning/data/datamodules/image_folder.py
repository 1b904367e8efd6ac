"""Datamodule of your own images, in one folder a class."""

import os
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from tmkd_lightning.data.datamodules.base import ImageDataModule, Loader, check_class_names
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles, find_images, is_broken_link
from tmkd_lightning.data.splits import check_fraction, stratified_split

_SPLITS = ("train", "val", "test")


class ImageFolderDataModule(ImageDataModule):
    """Images in ``train/<class>/``, ``val/<class>/`` and ``test/<class>/``, at any depth below a class.

    Classes are the folders of ``train`` in alphabetical order. Without ``val``, a part of every class of ``train`` is
    held out. ``test`` is only needed for testing and prediction. Linked folders are followed.

    The classes may also lie in `root` itself, ``<class>/``, if each of these folders holds images directly and none is
    called ``train``, ``val`` or ``test``; all of them then count as ``train``.

    A teacher can also teach on images without a class: those in `unlabelled` join the training images, with the label
    -1. With `classes` there may be no ``train`` at all, and no ``val`` either: then nothing is validated.

    Args:
        root: folder that holds ``train``, or the classes.
        val_fraction: part of each class to hold out if there is no ``val``, between 0 and 1.
        test_fraction: likewise if there is no ``test``, before the part for validation is drawn; 0 for none.
        val_seed: of the parts held out, so that runs of all `seed` and their teacher hold out the same images.
        unlabelled: folder of training images without a class, at any depth.
        classes: names of the class folders in the order of the labels; by default those in ``train``.
        **kwargs: arguments of `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        *,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        val_seed: int = 0,
        unlabelled: str | None = None,
        classes: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_fraction(val_fraction)
        if test_fraction != 0:
            check_fraction(test_fraction, "test_fraction")
        self.root = Path(root).expanduser()
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.val_seed = val_seed
        self.unlabelled = None if unlabelled is None else Path(unlabelled).expanduser()
        self.classes = None if classes is None else list(classes)

    @property
    def class_names(self) -> list[str]:
        """Names of the class folders, with blanks for underscores."""
        return [name.replace("_", " ") for name in self._classes()]

    def check_classes(self) -> None:
        """Raises DataError if two folders give the same class name."""
        check_class_names(self._classes())

    def prepare_data(self) -> None:
        """Checks that all images are there."""
        for split in _SPLITS:
            if split == "train" or _is_folder(self.root / split):
                ImageFiles(self._files(split)).check("mend, replace or remove it")
        ImageFiles(self._unlabelled_files()).check("mend, replace or remove it")

    def samples(self, split: str) -> ImageFiles:
        """Image files and labels of ``train``, ``val`` or ``test``."""
        labelled = self._labelled(split)
        return ImageFiles(labelled.files + self._unlabelled_files()) if split == "train" else labelled

    def _labelled(self, split: str) -> ImageFiles:
        """The images of a folder, or what a held-out part leaves of ``train``, or that part."""
        if _is_folder(self.root / split) and split != "train":
            return ImageFiles(self._files(split))
        if split == "test" and not self.test_fraction:
            return ImageFiles(self._files("test"))  # which says that there is none
        images = ImageFiles(self._files("train"))
        for part, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
            if fraction and not _is_folder(self.root / part):
                rest, held_out = stratified_split(images.labels, fraction, self.val_seed, self._classes())
                if part == split:
                    return images.select(held_out)
                images = images.select(rest)
        return images

    def val_dataloader(self) -> Loader:
        """Validation batches in order; none where there is neither ``val`` nor ``train``."""
        return super().val_dataloader() if len(self._datasets["val"]) else []  # type: ignore[return-value]

    def _classes(self) -> list[str]:
        return _class_folders(self._folder("train")) if self.classes is None else self.classes

    def _folder(self, split: str) -> Path:
        """The folder with the classes of a split."""
        flat = split == "train" and self.unlabelled is None and _holds_classes(self.root)
        return self.root if flat else self.root / split

    def _files(self, split: str) -> list[tuple[Path, int]]:
        folder, classes = self._folder(split), self._classes()
        if self.classes is not None and self.unlabelled is not None and split == "train" and not _is_folder(folder):
            if not _is_folder(self.root):
                raise DataError(f"no folder {self.root}: root holds val and test, or is an empty folder without them")
            return []
        if unknown := sorted(set(_class_folders(folder)) - set(classes)):
            known = self._folder("train") if self.classes is None else "the argument classes"
            raise DataError(f"{folder / unknown[0]} is a class that {known} lacks")
        images = [find_images(folder / name) for name in classes]
        empty = [folder / name for name, paths in zip(classes, images, strict=True) if not paths]
        if empty and (split == "train" or not any(images)):
            raise DataError(f"{empty[0]} holds no image ({', '.join(IMG_EXTENSIONS)})")
        return [(path, label) for label, paths in enumerate(images) for path in paths]

    def _unlabelled_files(self) -> list[tuple[Path, int]]:
        if self.unlabelled is None:
            return []
        for split in ("train", "val", "test"):
            one, other = (self.root / split).resolve(), self.unlabelled.resolve()
            if one.exists() and (one.is_relative_to(other) or other.is_relative_to(one)):
                raise DataError(
                    f"unlabelled={str(self.unlabelled)!r} shares images with {one}: name a folder beside it"
                )
        paths = find_images(self.unlabelled)
        if not paths:
            wrong = "holds no image" if _is_folder(self.unlabelled) else "is no folder"
            raise DataError(f"unlabelled={str(self.unlabelled)!r} {wrong} ({', '.join(IMG_EXTENSIONS)})")
        return [(path, -1) for path in paths]


def _holds_classes(root: Path) -> bool:
    """Whether the folders in a root are classes, and not splits or data sets: each has images of its own."""
    if root.name in _SPLITS or any(_is_folder(root / split) for split in _SPLITS) or not root.is_dir():
        return False
    folders = [path for path in root.iterdir() if not path.name.startswith(".") and _is_folder(path)]
    return bool(folders) and all(map(_holds_images, folders))


def _holds_images(folder: Path) -> bool:
    """Whether images lie in a folder itself, not only deeper down; of one that cannot be read, opening it tells."""
    try:
        return any(name.lower().endswith(IMG_EXTENSIONS) and name[0] != "." for name in os.listdir(folder))
    except OSError:
        return True


def _class_folders(folder: Path) -> list[str]:
    """Names of the folders of a split, in alphabetical order."""
    if not _is_folder(folder):
        raise DataError(f"no folder {folder}: images are expected in {folder}/<class>/")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and _is_folder(path))
    if not names:
        raise DataError(f"{folder} holds no folders: images are expected in {folder}/<class>/")
    return names


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; a link to one that is missing, or not mounted, is an error."""
    if is_broken_link(path):
        raise DataError(f"{path} is a link that leads nowhere: mend or remove it")
    return path.is_dir()
