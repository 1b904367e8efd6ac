"""Datamodule of CUB-200-2011."""

from __future__ import annotations

from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule
from tmkd_lightning.data.datasets import CUB200


class CUB200DataModule(BenchmarkDataModule):
    """Birds of 200 species: 5,994 training and 5,794 test images; see `CUB200`.

    Takes the arguments of `BenchmarkDataModule`; `root` holds ``CUB_200_2011``.
    """

    published_classes = 200

    def official(self, split: str, download: bool = False) -> CUB200:
        """The published split ``train`` or ``test``."""
        return CUB200(self.root, split, download=download)
