"""Datamodule of RAF-DB."""

from __future__ import annotations

from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule
from tmkd_lightning.data.datasets import RAFDB
from tmkd_lightning.data.transforms import Transform, as_rgb

_ADJECTIVES = ("surprised", "fearful", "disgusted", "happy", "sad", "angry", "neutral")


class RAFDBDataModule(BenchmarkDataModule):
    """Faces in 7 emotions, heavily imbalanced: 12,271 training and 3,068 test images; see `RAFDB`.

    The authors send the data on request only; if they are missing, the error says where to ask.

    Takes the arguments of `BenchmarkDataModule`; `root` holds one of the layouts that `RAFDB` lists.
    """

    @property
    def class_names(self) -> list[str]:
        """``surprise`` and so on."""
        return list(RAFDB.CLASSES)

    @property
    def class_phrases(self) -> list[str]:
        """``surprised face`` and so on."""
        return [f"{adjective} face" for adjective in _ADJECTIVES]

    def official(self, split: str, download: bool = False) -> RAFDB:
        """The published split ``train`` or ``test``."""
        return RAFDB(self.root, split, download=download)

    def default_train_transform(self) -> Transform:
        """Resize and flip: faces are aligned, and a crop would cut them."""
        return v2.Compose([self.default_eval_transform(), v2.RandomHorizontalFlip()])

    def default_eval_transform(self) -> Transform:
        """Resize."""
        return v2.Compose([as_rgb, v2.PILToTensor(), v2.Resize((self.image_size, self.image_size), antialias=True)])
