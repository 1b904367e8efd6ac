"""Trains the teachers and the students of the study, and measures them on the whole test set after the last epoch."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import METHODS, MILD, TEACHERS, VIEWS, Condition
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from photos import Photos
from shares import Measured
from student import Small
from torch.nn import functional as F

from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.models import WideResNet
from tmkd_lightning.teacher.frozen import Frozen
from tmkd_lightning.text import EmbeddingFile, write_embeddings
from tmkd_lightning.text.prompts import prompts_of
from tmkd_lightning.views import MultiView, View

PROMPT = "a {class}"


def teacher(folder: Path, root: Path, images: int, precision: Any, epochs: int, name: str) -> dict[str, Any]:
    """Trains WRN-10-2 on plain images or on its views, and keeps its weights; measures it on each view."""
    start = time.monotonic()
    seed_everything(0, verbose=False)
    data = Photos(root, images, augment=True)
    views = TEACHERS[name]
    shares = [0.4, 0.3, 0.3] if len(views) > 1 else None
    network = large()
    module = ClassifierModule(network, views=views, view_shares=shares, **_optimisation(epochs))
    _fit(module, data, epochs, precision, [])
    torch.save(network.state_dict(), folder / f"teacher_{name}.pt")
    return {"seconds": time.monotonic() - start, **accuracies(network, data)}


def large() -> WideResNet:
    return WideResNet(depth=10, widen_factor=2, num_classes=10)


def load_teacher(folder: Path, name: str) -> WideResNet:
    network = large()
    network.load_state_dict(torch.load(folder / f"teacher_{name}.pt", weights_only=True))
    return network


def accuracies(network: WideResNet, data: Photos) -> dict[str, float]:
    """Top-1 in % on each view, of the mean of their logits, and of both where the edges are drawn more faintly."""
    views, mild = accuracy(network, data, VIEWS), accuracy(network, data, MILD)
    return {**views, "mild edge": mild["edge"], "mean with mild edge": mild["mean of views"]}


@torch.no_grad()
def accuracy(network: WideResNet, data: Photos, names: Sequence[str | View]) -> dict[str, float]:
    """Top-1 in % on each of some views, and of the mean of their logits."""
    data.setup("test")
    frozen, views = Frozen(Extractor(network)), MultiView(names)
    right = torch.zeros(len(views) + 1)
    for image, label in data.test_dataloader():
        logits = frozen(views(image / 255).flatten(0, 1)).logits.unflatten(0, (len(views), -1))
        right += (torch.cat([logits, logits.mean(0, keepdim=True)]).argmax(2) == label).sum(1)
    return dict(zip([*views.names, "mean of views"], (100 * right / len(data.samples("test"))).tolist(), strict=True))


def student(
    folder: Path, root: Path, images: int, precision: Any, vectors: Path, epochs: int, condition: Condition, seed: int
) -> Any:
    """Trains one student."""
    start = time.monotonic()
    seed_everything(seed, verbose=False)
    data = photos(root, images)
    data.seed = seed  # of the order
    network = Small()
    callbacks: list[Callback] = []
    if condition.teacher is None:
        module: LightningModule = ClassifierModule(network, **_optimisation(epochs))
    else:
        distiller = None if condition.method is None else METHODS[condition.method]()
        options = {**condition.options, "distiller": distiller, **_optimisation(epochs)}
        module = Measured(load_teacher(folder, condition.teacher), network, **options)
        texts = PromptEmbeddings(EmbeddingFile(vectors), templates=PROMPT, cache_dir=str(folder / "texts"))
        callbacks = [texts, TeacherAccuracyCheck(0), TeacherCache(str(folder / "cache"))]
    trainer = _fit(module, data, epochs, precision, callbacks)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    test = trainer.test(module, datamodule=data, verbose=False)[0]
    shares = module.shares() if isinstance(module, Measured) else {}
    return {"top1": 100 * test["test/top1"], "logged": logged, "shares": shares, "seconds": time.monotonic() - start}


@functools.cache
def photos(root: Path, images: int) -> Photos:
    """Read once in each process."""
    return Photos(root, images)


def keep_vectors(source: Path, array: str, path: Path) -> None:
    """Writes genuine class vectors as embeddings of prompts, which the library reads like any others."""
    with np.load(source, allow_pickle=False) as file:
        prompts = prompts_of(PROMPT, [str(name) for name in file[f"{array}_names"]])
        write_embeddings(path, prompts, F.normalize(torch.from_numpy(file[array])), "CLIP ViT-B/32 class vectors")


def _optimisation(epochs: int) -> dict[str, Any]:
    return {
        "optimizer": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4),
        "lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    }


def _fit(module: LightningModule, data: Photos, epochs: int, precision: Any, callbacks: list[Callback]) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision=precision,
        logger=False,
        limit_val_batches=0,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return trainer
