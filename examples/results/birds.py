"""The other data of the study: the first 50 classes of CUB-200-2011; augmented copies are made once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from photos import digest
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.data.datasets.cub200 import CUB200

CLASSES, SIDE, COPIES = 50, 224, 8
_TRAIN = v2.Compose([v2.RandomResizedCrop(SIDE, scale=(0.5, 1.0)), v2.RandomHorizontalFlip()])
_TEST = v2.Compose([v2.Resize(256), v2.CenterCrop(SIDE)])


class Copies(Sequence[tuple[Tensor, int]]):
    """Images ``(N, 3, H, W)`` of a file, that stay there, with their labels."""

    def __init__(self, file: Path, labels: list[int]) -> None:
        self.images, self.labels = np.load(file, mmap_mode="r", allow_pickle=False), labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:  # type: ignore[override]
        return torch.from_numpy(np.array(self.images[index])), self.labels[index]


class Birds(ImageDataModule):
    """Crops of the training images, eight of each, as one epoch; the middle of the test images."""

    def __init__(self, root: Path, folder: Path, seed: int = 0) -> None:
        super().__init__(
            batch_size=128,
            num_workers=0,
            image_size=SIDE,
            seed=seed,
            augmentation_replicas=1,  # the copies are made: what the teacher says of each is stored
            train_transform=nn.Identity(),
            eval_transform=nn.Identity(),
        )
        self.root, self.folder = root, folder

    @property
    def class_names(self) -> list[str]:
        return CUB200(self.root, "train").classes[:CLASSES]

    def files(self, split: str) -> list[tuple[Path, int]]:
        """Photos and labels."""
        return [(path, label) for path, label in CUB200(self.root, split).files if label < CLASSES]

    def samples(self, split: str) -> Sequence[tuple[Tensor, int]]:
        if split == "val":
            return []
        images, copies = self.files(split), COPIES if split == "train" else 1
        file = self.folder / f"birds_{split}_{copies}_{digest(images, self.root)}.npy"
        with FileLock(file.with_suffix(".lock")):  # two teachers begin at once
            if not file.exists():
                _write(file, [path for path, _ in images], copies, _TRAIN if split == "train" else _TEST)
        return Copies(file, copies * [label for _, label in images])


def _write(file: Path, paths: list[Path], copies: int, transform: nn.Module) -> None:
    """Writes transformed copies of images, all of the first copy first, under another name until they are complete."""
    part = file.with_suffix(".part.npy")
    shape = (copies * len(paths), 3, SIDE, SIDE)
    array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for row, path in enumerate(copies * paths):
            array[row] = v2.functional.pil_to_tensor(transform(Image.open(path).convert("RGB"))).numpy()
    array.flush()
    part.rename(file)
