"""Datamodule of CIFAR-100."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR100
from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule
from tmkd_lightning.data.download import Archive, download_and_unpack
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.transforms import Transform

_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"


class CIFAR100DataModule(BenchmarkDataModule):
    """Small images of 100 classes, 32×32 pixels: 50,000 for training, 10,000 for testing.

    The layout is that of `torchvision.datasets.CIFAR100`. Mean and standard deviation are (0.5071, 0.4867, 0.4408) and
    (0.2675, 0.2565, 0.2761), not those of CIFAR-10.

    Args:
        root: folder that holds ``cifar-100-python``, or to which it is downloaded.
        image_size: side of the images in pixels.
        **kwargs: arguments of `BenchmarkDataModule`.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
    https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    published_classes = 100
    archives: ClassVar[tuple[Archive, ...]] = (
        Archive("cifar-100-python.tar.gz", _URL, md5="eb9058c3a382ffc7106e4002c42a8d85", holds=("cifar-100-python",)),
    )

    def __init__(self, root: str, *, image_size: int = 32, **kwargs: Any) -> None:
        super().__init__(root, image_size=image_size, **kwargs)

    @cached_property
    def class_names(self) -> list[str]:
        """``apple``, ``aquarium fish`` and so on."""
        return [name.replace("_", " ") for name in self._read("test").classes]

    def official(self, split: str, download: bool = False) -> ImageArray:
        """The published split ``train`` or ``test``."""
        dataset = self._read(split, download)
        return ImageArray(dataset.data, dataset.targets)

    def default_train_transform(self) -> Transform:
        """Random crop of the padded image (by 4 pixels at 32) and flip."""
        crop = v2.RandomCrop(self.image_size, padding=self.image_size // 8)
        return v2.Compose([self.default_eval_transform(), crop, v2.RandomHorizontalFlip()])

    def default_eval_transform(self) -> Transform:
        """The image as it is, resized to other sizes than 32."""
        return v2.Compose([v2.RGB(), v2.PILToTensor(), v2.Resize((self.image_size, self.image_size), antialias=True)])

    def _read(self, split: str, download: bool = False) -> Any:
        download_and_unpack(self.root, self.archives, download)
        try:
            return CIFAR100(self.root, train=split == "train")  # checks the md5 of each file before unpickling it
        except (RuntimeError, OSError) as error:
            folder = self.root / "cifar-100-python"
            raise DataError(f"{folder} is damaged or incomplete: remove it, and unpack or load it again") from error


class ImageArray:
    """Images in memory by index: uint8 array ``(N, H, W, 3)`` and labels."""

    def __init__(self, images: Any, labels: Sequence[int]) -> None:
        self.images = images
        self.labels = list(labels)

    def select(self, indices: Sequence[int]) -> ImageArray:
        """The images at some indices."""
        return ImageArray(self.images[np.asarray(indices)], [self.labels[index] for index in indices])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), self.labels[index]
