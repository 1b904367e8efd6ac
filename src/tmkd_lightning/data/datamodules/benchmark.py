"""What the datamodules of the benchmarks share: splits, and data that are there before training starts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

from lightning.pytorch.utilities import rank_zero_info

from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.resized import resized_copies
from tmkd_lightning.data.splits import check_fraction, stratified_split
from tmkd_lightning.data.transforms import Transform

Val = Literal["held_out", "official", "test"]


class Split(Protocol):
    """One of a dataset's own splits: a sequence of (PIL image, label). `ImageFiles` is one."""

    @property
    def labels(self) -> list[int]:
        """Labels in the order of the images."""

    def select(self, indices: Sequence[int]) -> Any:
        """The images at some indices, as a sequence again."""

    def check(self) -> Self:
        """Raises DataError if an image is missing."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, int]: ...


class BenchmarkDataModule(ImageDataModule):
    """A published dataset with its own training and test split.

    The test split is for testing: the best epoch is chosen on a part held out of the training split, or on the official
    validation split where there is one. Many published numbers were chosen on the test split instead, and trained on
    the whole training split; ``val="test"`` does so to compare with them, and says so.

    A dataset of your own is one subclass: give `class_names` and `official`.

    Args:
        root: folder that holds the data, or that they shall be loaded to.
        val: what validation reads: ``held_out``, a part of every class of the training split; ``official``, the
            dataset's own validation split, where it has one; ``test``, the test split.
        val_fraction: part of each class to hold out, between 0 and 1; only read with ``held_out``.
        val_seed: of the part held out; not `seed`, so that runs of all seeds and their teacher hold out the same.
        download: whether `prepare_data` loads what is not in `root`.
        batch_size: images in a batch, of each process.
        num_workers: processes that load, of each process that trains.
        image_size: side of the images in pixels.
        resize_to: short side in pixels of smaller copies, which `prepare_data` makes once in ``root/.resized`` and
            which are read from then on (faster, but not the same pixels); None reads the originals.
        seed: of order and augmentation.
        augmentation_replicas: after how many epochs the augmentation comes again, for a `TeacherCache`; 0 for never.
        train_transform: from a PIL image (RGB) to a uint8 tensor ``(3, H, W)``, instead of the default augmentation.
        eval_transform: likewise for validation, test and prediction.

    Raises:
        DataError: data are missing, incomplete or cannot be loaded; the message names the file and what would help.
        ValueError: a `val` that the dataset does not have, or a number outside its range.
    """

    vals: ClassVar[tuple[Val, ...]] = ("held_out", "test")  # what `val` may be
    published_classes: ClassVar[int | None] = None  # how many there are, for runs that begin with a download

    def __init__(
        self,
        root: str,
        *,
        val: Val = "held_out",
        val_fraction: float = 0.1,
        val_seed: int = 0,
        download: bool = False,
        batch_size: int = 64,
        num_workers: int = 2,
        image_size: int = 224,
        resize_to: int | None = None,
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
        if val not in self.vals:
            raise ValueError(f"val must be one of {', '.join(self.vals)} for {type(self).__name__}, got {val!r}")
        check_fraction(val_fraction)
        self.root = Path(root).expanduser()
        self.val = val
        self.val_fraction = val_fraction
        self.val_seed = val_seed
        self.download = download
        self.copies = resized_copies(self.root, resize_to, image_size, own_eval=eval_transform is not None)

    @property
    def num_classes(self) -> int:
        """Number of classes in `root`; the published one while the data are still to be downloaded."""
        try:
            return len(self.class_names)
        except DataError:
            if not self.download or self.published_classes is None:
                raise
            return self.published_classes

    @abstractmethod
    def official(self, split: str, download: bool = False) -> Split:
        """One of the dataset's own splits.

        Args:
            split: ``train`` or ``test``, or ``val`` where `vals` has ``official``.
            download: whether to load what is not in `root`.
        """

    def prepare_data(self) -> None:
        """Loads and unpacks what is not there, on one process, and looks whether all images are; resizes them."""
        splits = ("train", "val", "test") if "official" in self.vals else ("train", "test")
        images = [self.official(split, self.download).check() for split in splits]
        _check_apart(dict(zip(splits, images, strict=True)))
        if self.copies:
            self.copies.make(images)

    def setup(self, stage: str) -> None:
        """Opens the splits that the stage reads."""
        if self.val == "test" and stage in ("fit", "validate") and "val" not in self._datasets:
            rank_zero_info(
                f"{type(self).__name__}: validation reads the test split (val='test'), so an epoch chosen by it scores "
                "better than it should; compare it only with numbers that were chosen so too"
            )
        super().setup(stage)

    def samples(self, split: str) -> Any:
        """Images of a split; see `ImageDataModule`. Image files are listed in its `files`, with their labels."""
        images = self._originals(split)
        return self.copies.of(images) if self.copies else images

    def _originals(self, split: str) -> Split:
        if split not in ("train", "val", "test"):
            raise DataError(f"there is no split {split!r}: train, val and test are")
        if split == "val" and self.val == "test":
            return self.official("test")
        if split == "test" or self.val != "held_out":
            return self.official(split)
        train = self.official("train")
        kept, held_out = stratified_split(train.labels, self.val_fraction, self.val_seed, self.class_names)
        return train.select(kept if split == "train" else held_out)


def _check_apart(images: dict[str, Any]) -> None:
    """Refuses lists by which a split would be tested on what another was trained on."""
    split_of: dict[Path, str] = {}
    for split, each in images.items():
        for path, _ in each.files if isinstance(each, ImageFiles) else ():
            if split_of.setdefault(path, split) != split:
                raise DataError(f"{path} is listed in {split_of[path]} and in {split}: unpack the data again")
