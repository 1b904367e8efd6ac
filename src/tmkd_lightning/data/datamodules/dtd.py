"""Datamodule of the Describable Textures Dataset."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule, Val
from tmkd_lightning.data.datasets.listed import read_lines
from tmkd_lightning.data.download import Archive, download_and_unpack
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles

_URL = "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"


class DTDDataModule(BenchmarkDataModule):
    """Textures of 47 classes: 1,880 images each for training, validation and test, in ten partitions.

    The layout is that of `torchvision.datasets.DTD`.

    Args:
        root: folder that holds ``dtd/dtd``, or to which it is downloaded.
        partition: which of the ten partitions, 1 to 10.
        val: what validation reads: ``official``, ``held_out`` or ``test``.
        **kwargs: arguments of `BenchmarkDataModule`.

    Source: Cimpoi et al., Describing Textures in the Wild, CVPR 2014; https://www.robots.ox.ac.uk/~vgg/data/dtd.
    """

    published_classes = 47
    vals = ("official", "held_out", "test")
    archives: ClassVar[tuple[Archive, ...]] = (
        Archive("dtd-r1.0.1.tar.gz", _URL, md5="fff73e5086ae6bdbea199a49dfb8a4c1", holds=("dtd",)),
    )

    def __init__(self, root: str, *, partition: int = 1, val: Val = "official", **kwargs: Any) -> None:
        super().__init__(root, val=val, **kwargs)
        if partition not in range(1, 11):
            raise ValueError(f"partition must be 1 to 10, got {partition}")
        self.partition = partition

    @cached_property
    def class_names(self) -> list[str]:
        """``banded``, ``blotchy`` and so on."""
        return sorted({path.parent.name for path in self._read("train")})

    @property
    def class_phrases(self) -> list[str]:
        """``banded texture`` and so on."""
        return [f"{name} texture" for name in self.class_names]

    def official(self, split: str, download: bool = False) -> ImageFiles:
        """``train``, ``val`` or ``test`` of the partition."""
        paths = self._read(split, download)
        if differing := {path.parent.name for path in paths} ^ set(self.class_names):
            raise DataError(f"{self.root}: {min(differing)} is not a class of both its {split} and its train list")
        return ImageFiles([(path, self.class_names.index(path.parent.name)) for path in paths])

    def _read(self, split: str, download: bool = False) -> list[Path]:
        """Paths of the images of a split."""
        download_and_unpack(self.root / "dtd", self.archives, download)
        folder = self.root / "dtd" / "dtd"
        return [folder / "images" / line for line in read_lines(folder / "labels" / f"{split}{self.partition}.txt")]
