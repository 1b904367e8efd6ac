"""Base class of the published datasets: splits and downloads."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_info

from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.splits import check_fraction, stratified_split

Val = Literal["held_out", "official", "test"]


class BenchmarkDataModule(ImageDataModule):
    """A published dataset with its own training and test split.

    Many published numbers were chosen on the test split, after training on the whole training split; ``val="test"``
    does so for comparison, and says so in the log. A dataset of your own is one subclass: define `official`.

    Args:
        root: folder that holds the data, or to which they are downloaded.
        val: what validation reads: ``held_out``, a part of every class of the training split; ``official``, the
            dataset's own validation split, if it has one; ``test``, the test split.
        val_fraction: part of each class to hold out, between 0 and 1; only read with ``held_out``.
        val_seed: of the part held out, so that runs of all `seed` and their teacher hold out the same images.
        download: whether `prepare_data` downloads data that are not in `root`.
        **kwargs: arguments of `ImageDataModule`.
    """

    vals: ClassVar[tuple[Val, ...]] = ("held_out", "test")  # possible values of `val`
    published_classes: ClassVar[int | None] = None  # number of classes, for runs that begin with a download

    def __init__(
        self,
        root: str,
        *,
        val: Val = "held_out",
        val_fraction: float = 0.1,
        val_seed: int = 0,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if val not in self.vals:
            raise ValueError(f"val must be one of {', '.join(self.vals)} for {type(self).__name__}, got {val!r}")
        check_fraction(val_fraction)
        self.root = Path(root).expanduser()
        self.val = val
        self.val_fraction = val_fraction
        self.val_seed = val_seed
        self.download = download

    @cached_property
    def class_names(self) -> list[str]:
        """The `classes` of the test split."""
        return list(self.official("test").classes)

    @property
    def num_classes(self) -> int:
        """Number of classes in `root`; the published one before the data are downloaded."""
        try:
            return len(self.class_names)
        except DataError:
            if not self.download or self.published_classes is None:
                raise
            return self.published_classes

    @abstractmethod
    def official(self, split: str, download: bool = False) -> Any:
        """The published split ``train`` or ``test``, or ``val`` if `vals` has ``official``.

        Returns:
            `ImageFiles`, or another sequence of (PIL image, label) with `labels` and `select`.
        """

    def prepare_data(self) -> None:
        """Downloads and unpacks missing data, on one process, and checks that all images are there."""
        splits = ("train", "val", "test") if "official" in self.vals else ("train", "test")
        split_of: dict[Path, str] = {}
        for split in splits:
            images = self.official(split, self.download)
            for path, _ in images.check().files if isinstance(images, ImageFiles) else ():
                if split_of.setdefault(path, split) != split:
                    raise DataError(f"{path} is listed in {split_of[path]} and in {split}: unpack the data again")

    def samples(self, split: str) -> Any:
        """Raw images and labels of ``train``, ``val`` or ``test``."""
        if split not in ("train", "val", "test"):
            raise DataError(f"there is no split {split!r}: train, val and test are")
        if split == "val" and self.val == "test":
            rank_zero_info("val='test': validation reads the test split, so the accuracy of its best epoch is too high")
            split = "test"
        if split == "test" or self.val != "held_out":
            return self.official(split)
        train = self.official("train")
        rest, held_out = stratified_split(train.labels, self.val_fraction, self.val_seed, self.class_names)
        return train.select(rest if split == "train" else held_out)
