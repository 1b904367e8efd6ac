"""Datamodule of the Describable Textures Dataset."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule, Val
from tmkd_lightning.data.download import Archive, download_and_unpack
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles


class DTDDataModule(BenchmarkDataModule):
    """Textures of 47 classes: 1,880 images each for training, validation and test, in ten partitions.

    The layout is that of `torchvision.datasets.DTD`.

    Args:
        root: folder that holds ``dtd/dtd``, or to which it is downloaded.
        partition: which of the ten partitions, 1 to 10.
        val: what validation reads: ``official``, ``held_out`` or ``test``; see `BenchmarkDataModule`.
        **kwargs: arguments of `BenchmarkDataModule`.

    Raises:
        ValueError: there is no such partition.

    Source: Cimpoi et al., Describing Textures in the Wild, CVPR 2014; https://www.robots.ox.ac.uk/~vgg/data/dtd.
    """

    published_classes = 47
    vals = ("official", "held_out", "test")
    archives: ClassVar[tuple[Archive, ...]] = (
        Archive(
            name="dtd-r1.0.1.tar.gz",
            url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            holds=("dtd",),
        ),
    )

    def __init__(self, root: str, *, partition: int = 1, val: Val = "official", **kwargs: Any) -> None:
        super().__init__(root, val=val, **kwargs)
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
        """``train``, ``val`` or ``test`` of the partition."""
        names = self._read(split, download)
        if differing := {name.split("/")[0] for name in names} ^ set(self.class_names):
            raise DataError(f"{self._list(split)}: {min(differing)} is not a class of it and of {self._list('train')}")
        images = self.root / "dtd" / "dtd" / "images"
        return ImageFiles([(images / name, self.class_names.index(name.split("/")[0])) for name in names])

    def _list(self, split: str) -> Path:
        return self.root / "dtd" / "dtd" / "labels" / f"{split}{self.partition}.txt"

    def _read(self, split: str, download: bool = False) -> list[str]:
        """``<class>/<image>`` of each image of a split."""
        download_and_unpack(self.root / "dtd", self.archives, download)
        path = self._list(split)
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read ({error}): unpack the data again") from error
        for number, line in enumerate(lines, start=1):
            if line and not re.fullmatch(r"[^/.][^/]*/[^/.][^/]*", line):
                raise DataError(f"{path}: every line must be <class>/<image>, but line {number}: {line!r}")
        return [line for line in lines if line]
