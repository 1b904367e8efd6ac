"""Batches of the Describable Textures Dataset."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from tmkd_lightning.data.archives import Archive
from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule, Val
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.prepare import prepare
from tmkd_lightning.data.transforms import Transform


class DTDDataModule(BenchmarkDataModule):
    """Textures in 47 classes: 1,880 images for training, for validation and for testing, in ten partitions.

    The files are those of `torchvision.datasets.DTD`, whose folders can be used and which can use ours.

    Args:
        root: folder that holds ``dtd/dtd`` (torchvision's layout), or that the data shall be loaded to.
        partition: which of the ten partitions, 1 to 10.
        val: what validation reads: ``official``, ``held_out`` or ``test``; see `BenchmarkDataModule`.
        val_fraction: part of each class to hold out, between 0 and 1; only read with ``held_out``.
        val_seed: of the part held out; not `seed`, so that runs of all seeds and their teacher hold out the same.
        download: whether `prepare_data` loads what is not in `root`.
        batch_size: images in a batch, of each process.
        num_workers: processes that load, of each process that trains.
        image_size: side of the images in pixels.
        resize_to: short side of smaller copies to read; see `BenchmarkDataModule`.
        seed: of order and augmentation.
        augmentation_replicas: after how many epochs the augmentation comes again, for a `TeacherCache`; 0 for never.
        train_transform: from a PIL image (RGB) to a uint8 tensor ``(3, H, W)``, instead of random crop and flip.
        eval_transform: likewise for validation, test and prediction, instead of resize and central crop.

    Raises:
        DataError: data are missing, incomplete or cannot be loaded; the message names the file and what would help.
        ValueError: there is no such partition, or a number is outside its range.

    Source: Cimpoi et al., Describing Textures in the Wild, CVPR 2014; https://www.robots.ox.ac.uk/~vgg/data/dtd.
    """

    published_classes = 47
    vals = ("official", "held_out", "test")
    archives: ClassVar[tuple[Archive, ...]] = (
        Archive(
            name="dtd-r1.0.1.tar.gz",
            url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            size=625_239_812,
            holds=("dtd",),
        ),
    )

    def __init__(
        self,
        root: str,
        *,
        partition: int = 1,
        val: Val = "official",
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
            root,
            val=val,
            val_fraction=val_fraction,
            val_seed=val_seed,
            download=download,
            batch_size=batch_size,
            num_workers=num_workers,
            image_size=image_size,
            resize_to=resize_to,
            seed=seed,
            augmentation_replicas=augmentation_replicas,
            train_transform=train_transform,
            eval_transform=eval_transform,
        )
        if partition not in range(1, 11):
            raise ValueError(f"partition must be 1 to 10, got {partition}")
        self.partition = partition

    @cached_property
    def class_names(self) -> list[str]:
        """``banded``, ``blotchy`` and so on."""
        return sorted({name.split("/")[0] for name in self._read("train")})

    @property
    def class_phrases(self) -> list[str]:
        """``banded texture`` and so on."""
        return [f"{name} texture" for name in self.class_names]

    def official(self, split: str, download: bool = False) -> ImageFiles:
        """``train``, ``val`` or ``test`` of the partition; see `BenchmarkDataModule`."""
        names = self._read(split, download)
        found = {name.split("/")[0] for name in names}
        if strangers := found ^ set(self.class_names):
            raise DataError(f"{self._list(split)}: {min(strangers)} is not a class of it and of {self._list('train')}")
        images = self.root / "dtd" / "dtd" / "images"
        return ImageFiles([(images / name, self.class_names.index(name.split("/")[0])) for name in names])

    def _list(self, split: str) -> Path:
        return self.root / "dtd" / "dtd" / "labels" / f"{split}{self.partition}.txt"

    def _read(self, split: str, download: bool = False) -> list[str]:
        """``<class>/<image>`` of a split."""
        prepare(self.root / "dtd", self.archives, download)
        path = self._list(split)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read ({error}): unpack the data again") from error
        for number, line in enumerate(lines, start=1):
            if line.strip() and not re.fullmatch(r"[^/.][^/]*/[^/.][^/]*", line.strip()):
                raise DataError(f"{path}: every line must be <class>/<image>, but line {number}: {line!r}")
        return [line.strip() for line in lines if line.strip()]
