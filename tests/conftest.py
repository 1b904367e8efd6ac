"""Fixtures: a small world to train in."""

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
from torch.utils.data import DataLoader

from helpers.tiny import CLASSES, TABLES, Net, make_images
from tmkd_lightning.callbacks import PromptEmbeddings
from tmkd_lightning.text import HashingTextEncoder

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1")  # no test needs a network

logging.getLogger("lightning.pytorch").propagate = True  # caplog listens at the root, whoever was imported first

torch.set_num_threads(1)  # tiny tensors: handing them to more threads costs more than it gains


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def lightning_speaks() -> None:
    """Also after a script that has silenced it."""
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)


@pytest.fixture(autouse=True, scope="session")
def without_arguments() -> Iterator[None]:
    """Lightning's command line warns of the process's arguments, here pytest's, when it is called with others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tmkd"])
        yield


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
