"""Datamodule of Stanford Dogs."""

from __future__ import annotations

from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule
from tmkd_lightning.data.datasets import StanfordDogs


class StanfordDogsDataModule(BenchmarkDataModule):
    """Dogs of 120 breeds: 12,000 training and 8,580 test images, all of them from ImageNet; see `StanfordDogs`.

    Takes the arguments of `BenchmarkDataModule`; `root` holds ``Images``, ``train_list.mat`` and ``test_list.mat``.
    """

    published_classes = 120

    def official(self, split: str, download: bool = False) -> StanfordDogs:
        """The published split ``train`` or ``test``."""
        return StanfordDogs(self.root, split, download=download)
