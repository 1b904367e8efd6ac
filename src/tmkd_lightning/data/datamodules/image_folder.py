"""Your own images, one folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from tmkd_lightning.data.below import dangling, images_below
from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.errors import DataError, check_told_apart
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.resized import resized_copies
from tmkd_lightning.data.splits import check_fraction, stratified_split
from tmkd_lightning.data.transforms import Transform


class ImageFolderDataModule(ImageDataModule):
    """Images in ``train/<class>/``, ``val/<class>/`` and ``test/<class>/``, at any depth below a class.

    Linked folders are followed.
    Classes are the folders of ``train``, in alphabetical order. Where there is no ``val``, a part of every class is
    held out of ``train``, the same for one seed. ``test`` is only needed for testing and prediction.

    Args:
        root: folder that holds ``train``.
        batch_size: images in a batch, of each process.
        num_workers: processes that load, of each process that trains.
        image_size: side of the images in pixels.
        resize_to: short side in pixels of smaller copies, which `prepare_data` makes once in ``root/.resized`` and
            which are read from then on (faster, but not the same pixels); None reads the originals.
        val_fraction: part of each class to hold out where there is no ``val``, between 0 and 1.
        seed: of order, augmentation and split.
        augmentation_replicas: after how many epochs the augmentation comes again, for a `TeacherCache`; 0 for never.
        train_transform: from a PIL image to a uint8 tensor ``(3, H, W)``, instead of random crop and flip.
        eval_transform: likewise for validation, test and prediction, instead of resize and central crop.

    Raises:
        DataError: a missing or empty folder, a class in ``val`` or ``test`` that ``train`` lacks, a link that leads
            nowhere, or an image that cannot be read (when it is loaded); the message names it.
    """

    def __init__(
        self,
        root: str,
        *,
        batch_size: int = 64,
        num_workers: int = 2,
        image_size: int = 224,
        resize_to: int | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        augmentation_replicas: int = 0,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            image_size=image_size,
            seed=seed,
            augmentation_replicas=augmentation_replicas,
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
        check_fraction(val_fraction)
        self.root = Path(root).expanduser()
        self.val_fraction = val_fraction
        self.copies = resized_copies(self.root, resize_to, image_size, own_eval=eval_transform is not None)

    @property
    def class_names(self) -> list[str]:
        """Names of the folders in ``train``, with blanks for underscores."""
        return [name.replace("_", " ") for name in self._folders()]

    def check_classes(self) -> None:
        """Looks whether each folder gives a name of its own; see `ImageDataModule`."""
        check_told_apart(self.class_names, [self.root / "train" / name for name in self._folders()])

    def prepare_data(self) -> None:
        """Looks through all folders once, so that what is missing is known before anything starts; resizes images."""
        splits = [split for split in ("train", "val", "test") if split == "train" or self._has(split)]
        images = [ImageFiles(self._files(split)).check("mend, replace or remove it") for split in splits]
        self.check_classes()
        if self.copies:
            self.copies.make(images)

    def samples(self, split: str) -> Any:
        """Images of a split; see `ImageDataModule`."""
        images = self._originals(split)
        return self.copies.of(images) if self.copies else images

    def _originals(self, split: str) -> ImageFiles:
        if split == "test" or self._has("val"):
            return ImageFiles(self._files(split))
        train = ImageFiles(self._files("train"))
        kept, held_out = stratified_split(train.labels, self.val_fraction, self.seed, self._folders())
        return train.select(kept if split == "train" else held_out)

    def _has(self, split: str) -> bool:
        """Whether there is a folder of a split; one that is a link which leads nowhere was meant to be there."""
        _check_links([path for path in dangling(self.root) if path.name == split])
        return (self.root / split).is_dir()

    def _folders(self) -> list[str]:
        train = self.root / "train"
        if not train.is_dir():
            raise DataError(f"no folder {train}: images are expected in {self.root}/train/<class>/")
        _check_links(dangling(train))
        folders = sorted(path.name for path in train.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise DataError(f"{train} holds no folders: images are expected in {train}/<class>/")
        return folders

    def _files(self, split: str) -> list[tuple[Path, int]]:
        folder = self.root / split
        if not folder.is_dir():
            raise DataError(f"no folder {folder}: images are expected in {folder}/<class>/")
        classes = self._folders()
        _check_links(dangling(folder))
        strangers = sorted({path.name for path in folder.iterdir() if path.is_dir()} - set(classes))
        strangers = [name for name in strangers if not name.startswith(".")]
        if strangers:
            raise DataError(f"{folder / strangers[0]} is a class that {self.root / 'train'} lacks")
        files = [(path, label) for label, name in enumerate(classes) for path in images_below(folder / name)]
        found = {label for _, label in files}
        for label, name in enumerate(classes):
            if split == "train" and label not in found:
                raise DataError(f"{folder / name} holds no image ({', '.join(IMG_EXTENSIONS)})")
        if not files:
            raise DataError(f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)})")
        return files


def _check_links(links: list[Path]) -> None:
    if links:
        raise DataError(f"{links[0]} is a link that leads nowhere: mend or remove it")
