"""A small world for training: coloured noise in three classes, networks of a few thousand weights."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tmkd_lightning.callbacks import PromptEmbeddings
from tmkd_lightning.text import HashingTextEncoder

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1")  # no test needs a network

logging.getLogger("lightning.pytorch").propagate = True  # caplog listens at the root, whoever was imported first

CLASSES = ["red", "green", "blue"]
TABLES = Path(__file__).parent.parent / "examples" / "tables"


class Net(nn.Module):
    """A classifier with a map: the smallest that has all an Output can hold."""

    def __init__(self, width: int = 8, num_classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.relu(self.bn(self.conv(image))).mean((2, 3)))


def make_images(count: int, size: int = 8, seed: int = 0) -> list[tuple[Tensor, int]]:
    """uint8 noise in which the channel of the class is brighter."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 200, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = [index % len(CLASSES) for index in range(count)]
    for image, label in zip(images, labels, strict=True):
        image[label] += 40
    return list(zip(images, labels, strict=True))


torch.set_num_threads(1)  # tiny tensors: handing them to more threads costs more than it gains


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def net() -> type[Net]:
    return Net


@pytest.fixture
def loader() -> Callable[..., DataLoader[Any]]:
    """Makes loaders that give the same batches every time."""

    def make(count: int = 24, batch_size: int = 6, size: int = 8, seed: int = 0) -> DataLoader[Any]:
        return DataLoader(make_images(count, size, seed), batch_size=batch_size)

    return make


@pytest.fixture
def prompts(tmp_path: Path) -> Callable[..., PromptEmbeddings]:
    """Makes the callback with the stand-in encoder and a cache of its own."""

    def make(**options: Any) -> PromptEmbeddings:
        options = {"class_names": CLASSES, "cache_dir": str(tmp_path / "cache"), **options}
        return PromptEmbeddings(HashingTextEncoder(), **options)

    return make


@pytest.fixture
def fit(tmp_path: Path, loader: Callable[..., DataLoader[Any]]) -> Callable[..., Trainer]:
    """Trains quietly for a few steps and gives the trainer."""

    def run(module: LightningModule, *, train: Any = None, val: Any = None, datamodule: Any = None, **options: Any):
        options = {
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            **options,
        }
        ckpt_path = options.pop("ckpt_path", None)
        trainer = Trainer(**options)
        if datamodule is not None:
            trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        else:
            train = loader() if train is None else train
            trainer.fit(module, train, val, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run


@pytest.fixture(scope="module")
def tables() -> Iterator[SimpleNamespace]:
    """The modules of examples/tables, which live beside their scripts and not in a package."""
    names = [path.stem for path in TABLES.glob("*.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TABLES))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
        for name in names:
            del sys.modules[name]
