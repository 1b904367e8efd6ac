"""1,797 scans of handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.splits import stratified_split
from tmkd_lightning.data.transforms import Transform

_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class DigitsDataModule(ImageDataModule):
    """Handwritten digits, 8×8 pixels, enlarged.

    A third of the scans is the test split and a sixth the validation split, the rest is for training; the splits are
    stratified and the same for every seed, so that numbers of different runs can be compared.

    Args:
        train_samples: how many training scans to use, drawn evenly from the classes; None for all 899.
        batch_size: images in a batch.
        num_workers: processes that load.
        image_size: side of the images in pixels.
        seed: of order and augmentation.
        augmentation_replicas: after how many epochs the augmentation comes again, for a `TeacherCache`; 0 for never.
        train_transform: from a uint8 tensor ``(3, 8, 8)`` to one ``(3, H, W)``, instead of enlarging and shifting.
        eval_transform: likewise for validation, test and prediction, instead of enlarging.

    Raises:
        ValueError: `train_samples` is below 10 or more than there are.

    Source: UCI Optical Recognition of Handwritten Digits, as in ``sklearn.datasets.load_digits``.

    Example:
        >>> data = DigitsDataModule(train_samples=100)
        >>> data.setup("fit")
        >>> image, label = next(iter(data.train_dataloader()))
        >>> image.shape, image.dtype, len(data.samples("train"))
        (torch.Size([32, 3, 32, 32]), torch.uint8, 100)
    """

    def __init__(
        self,
        train_samples: int | None = None,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        image_size: int = 32,
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
        if train_samples is not None and train_samples < len(_NAMES):
            raise ValueError(f"train_samples must be at least {len(_NAMES)}, one a class, got {train_samples}")
        self.train_samples = train_samples

    @property
    def class_names(self) -> list[str]:
        """``zero`` to ``nine``."""
        return list(_NAMES)

    @property
    def class_phrases(self) -> list[str]:
        """``handwritten digit zero`` and so on."""
        return [f"handwritten digit {name}" for name in _NAMES]

    def default_train_transform(self) -> Transform:
        """Enlarges, and shifts by up to an eighth of the side."""
        return v2.Compose([self.default_eval_transform(), v2.RandomCrop(self.image_size, padding=self.image_size // 8)])

    def default_eval_transform(self) -> Transform:
        """Enlarges; takes image files too."""
        return v2.Compose([v2.PILToTensor(), v2.Resize((self.image_size, self.image_size), antialias=True)])

    def samples(self, split: str) -> list[tuple[Tensor, int]]:
        """Scans of a split; see `ImageDataModule`."""
        scans = _load()
        labels = [label for _, label in scans]
        rest, test = stratified_split(labels, 1 / 3, seed=0)
        train, val = _split(rest, labels, 1 / 4)
        if self.train_samples is not None and split == "train":
            if self.train_samples > len(train):
                raise DataError(f"train_samples={self.train_samples}, but there are {len(train)} training scans")
            train = _evenly(train, labels, self.train_samples)
        return [scans[index] for index in {"train": train, "val": val, "test": test}[split]]


def _load() -> list[tuple[Tensor, int]]:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    digits: Any = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)
    return [(image.expand(3, 8, 8), int(label)) for image, label in zip(images, digits.target, strict=True)]


def _split(indices: list[int], labels: list[int], fraction: float) -> tuple[list[int], list[int]]:
    kept, held_out = stratified_split([labels[index] for index in indices], fraction, seed=0)
    return [indices[index] for index in kept], [indices[index] for index in held_out]


def _evenly(indices: list[int], labels: list[int], count: int) -> list[int]:
    """The first of each class, then the second of each class, and so on."""
    rank: dict[int, int] = {}
    turns = []
    for index in indices:
        turns.append((rank.setdefault(labels[index], 0), labels[index], index))
        rank[labels[index]] += 1
    return [index for _, _, index in sorted(turns)[:count]]
