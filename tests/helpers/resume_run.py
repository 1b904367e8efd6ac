"""A small run on digits with everything random in it, for the tests of resuming and for the script of kills."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from helpers.tiny import tmkd_module
from tmkd_lightning import ClassifierModule, TMKDModule
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck
from tmkd_lightning.data import DigitsDataModule
from tmkd_lightning.distillers import TeKAP
from tmkd_lightning.lightning_compat.atomic_checkpoints import AtomicCheckpointIO
from tmkd_lightning.text import HashingTextEncoder


def network(width: int) -> nn.Module:
    """With dropout and batch statistics."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(width, 10),
    )


def tmkd(**options: Any) -> TMKDModule:
    """Perturbed embeddings, perturbed logits, a WeightNet that learns, momentum."""
    with torch.random.fork_rng(devices=[]):  # the same teacher in every run: checkpoints do not hold it
        torch.manual_seed(0)
        teacher = network(8)
    return tmkd_module(teacher, network(4), distiller=TeKAP(), optimizer=sgd, **options)


def classifier() -> ClassifierModule:
    """Each image in a view that is drawn."""
    return ClassifierModule(network(4), views=["rgb", "edge", "high_frequency"], optimizer=sgd)


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


def train(
    module: Any,
    folder: Path,
    *callbacks: Callback,
    epochs: int = 4,
    resume: Path | None = None,
    data: Any = None,
    **options: Any,
) -> tuple[dict[str, Tensor], Trainer]:
    """Trains to the end, or to where a callback raises; gives what was learnt, and the trainer."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=CSVLogger(folder, name=""),
        log_every_n_steps=1,
        num_sanity_val_steps=2 if resume is None else 1,  # draws as much as it likes
        callbacks=[
            *callbacks,
            TeacherAccuracyCheck(1),
            *([PromptEmbeddings(HashingTextEncoder(), cache_dir=str(folder / "texts"))] if module.prompt_bank else []),
            ModelCheckpoint(folder, filename="best", monitor="val/top1", mode="max", enable_version_counter=False),
            ModelCheckpoint(folder, filename="last", enable_version_counter=False),
        ],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    data = data or DigitsDataModule(train_samples=50, batch_size=16, image_size=16)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return {name: value.clone() for name, value in module.state_dict().items()}, trainer


def seeded(make: Any, seed: int) -> Any:
    """A module with the weights that a seed gives."""
    seed_everything(seed, verbose=False)
    return make()
