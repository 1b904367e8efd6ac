"""Datamodule of scikit-learn's 1,797 handwritten digits, which need no download."""

from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.splits import stratified_split
from tmkd_lightning.data.transforms import Transform
from tmkd_lightning.utils.validation import check_count

_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class DigitsDataModule(ImageDataModule):
    """Handwritten digits of 8×8 pixels, enlarged.

    A third of the images is the test split, a sixth the validation split, and the rest the training split. The splits
    are stratified and the same for every seed, so that runs can be compared.

    Args:
        train_samples: number of training images, drawn evenly from the classes; None for all 899.
        labelled_samples: how many of them have a label, drawn evenly too; the others have -1. None for all.
        batch_size: images in a batch.
        num_workers: loading processes.
        image_size: side of the images in pixels.
        **kwargs: arguments of `ImageDataModule`; transforms are given uint8 tensors ``(3, 8, 8)``.

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
        labelled_samples: int | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        image_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, image_size=image_size, **kwargs)
        if train_samples is not None and train_samples < len(_NAMES):
            raise ValueError(f"train_samples must be at least {len(_NAMES)}, one a class, got {train_samples}")
        if labelled_samples is not None:
            check_count("labelled_samples", labelled_samples, minimum=0)
        self.train_samples, self.labelled_samples = train_samples, labelled_samples

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
        """Enlarges; accepts PIL images too."""
        return v2.Compose([v2.PILToTensor(), v2.Resize((self.image_size, self.image_size), antialias=True)])

    def samples(self, split: str) -> list[tuple[Tensor, int]]:
        """Raw images and labels of ``train``, ``val`` or ``test``."""
        from sklearn.datasets import load_digits  # slow to import

        digits: Any = load_digits()
        images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)
        labels = digits.target.tolist()
        rest, test = stratified_split(labels, 1 / 3, seed=0)
        train, val = stratified_split([labels[index] for index in rest], 1 / 4, seed=0)
        indices = test if split == "test" else [rest[index] for index in (train if split == "train" else val)]
        if split == "train":
            if self.train_samples is not None:
                indices = self._evenly(indices, labels, "train_samples", self.train_samples)
            if self.labelled_samples is not None:
                labelled = set(self._evenly(indices, labels, "labelled_samples", self.labelled_samples))
                labels = [label if index in labelled else -1 for index, label in enumerate(labels)]
        return [(images[index].expand(3, 8, 8), labels[index]) for index in indices]

    @staticmethod
    def _evenly(indices: list[int], labels: list[int], argument: str, count: int) -> list[int]:
        """The first image of each class, then the second of each, and so on, `count` in all."""
        if count > len(indices):
            raise DataError(f"{argument}={count}, but there are {len(indices)} training scans")
        by_class = [[index for index in indices if labels[index] == label] for label in range(len(_NAMES))]
        return [index for turn in zip_longest(*by_class) for index in turn if index is not None][:count]
