"""Trains the teachers and the students of the study, and measures them on the whole test set after the last epoch."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import METHODS, SHARES, TEACHERS, VIEWS, Condition
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from other_views import OTHER
from photos import TEACHER, TRAIN, Photos
from shares import Measured
from student import Small
from torch.nn import functional as F

from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.models import WideResNet
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.text import EmbeddingFile, write_embeddings
from tmkd_lightning.text.prompts import prompts_of
from tmkd_lightning.views import MultiView, View

PROMPT = "a {class}"
REPLICAS = 8  # crops and flips that come again, so that the teacher's answers are stored


@dataclass(frozen=True)
class Setting:
    """What all runs of a study share."""

    folder: Path
    root: Path
    epochs: int
    teacher_epochs: int
    held_out: bool
    precision: Any  # of the teachers' training


def teacher(setting: Setting, name: str) -> dict[str, Any]:
    """Trains WRN-10-2 on plain images or on its views, if that was not done; measures it on each view."""
    start = time.monotonic()
    seed_everything(0, verbose=False)
    data = Photos(setting.root, TEACHER, setting.held_out, replicas=0)
    weights = setting.folder / f"teacher_{name}.pt"
    if not weights.exists():
        views, network = TEACHERS[name], large()
        shares = SHARES if len(views) > 1 else None
        optimisation = _optimisation(setting.teacher_epochs)
        module = ClassifierModule(network, views=views, view_shares=shares, **optimisation)
        _fit(module, data, setting.teacher_epochs, setting.precision, [])
        torch.save(network.state_dict(), weights)
    network = load_teacher(setting.folder, name)
    measured = accuracy(network, data, VIEWS) | {"others": accuracy(network, data, ["rgb", *OTHER.values()])}
    return {"top1": measured, "seconds": time.monotonic() - start}


def large() -> WideResNet:
    return WideResNet(depth=10, widen_factor=2, num_classes=10)


def load_teacher(folder: Path, name: str) -> WideResNet:
    network = large()
    network.load_state_dict(torch.load(folder / f"teacher_{name}.pt", weights_only=True))
    return network


@torch.no_grad()
def accuracy(network: WideResNet, data: Photos, names: Sequence[str | View]) -> dict[str, float]:
    """Top-1 in % on each of some views, of the mean of their logits, and where any view is right."""
    data.setup("test")
    frozen, views = FrozenTeacher(Extractor(network)), MultiView(names)
    right = torch.zeros(len(views) + 2)
    for image, label in data.test_dataloader():
        logits = frozen(views(image / 255).flatten(0, 1)).logits.unflatten(0, (len(views), -1))
        found = torch.cat([logits, logits.mean(0, keepdim=True)]).argmax(2) == label
        right += torch.cat([found, found[:-1].any(0, keepdim=True)]).sum(1)
    percent = (100 * right / len(data.samples("test"))).tolist()
    return dict(zip([*views.names, "mean of views", "any view"], percent, strict=True))


def student(setting: Setting, condition: Condition, seed: int) -> dict[str, Any]:
    """Trains one student, and measures it on the plain images after the last epoch."""
    start = time.monotonic()
    seed_everything(seed, verbose=False)
    data = photos(setting.root, setting.held_out)
    data.seed = seed  # of the order and the augmentation
    epochs = setting.epochs * condition.longer
    network, optimisation = Small(), _optimisation(epochs)
    callbacks: list[Callback] = []
    if condition.teacher is None:
        module: LightningModule = ClassifierModule(network, **condition.options, **optimisation)
    else:
        method = METHODS[condition.method]()
        taught = load_teacher(setting.folder, condition.teacher)
        module = Measured(taught, network, distiller=method, **condition.options, **optimisation)
        texts = EmbeddingFile(setting.folder / f"texts_{condition.texts}.npz")
        callbacks = [
            PromptEmbeddings(texts, templates=PROMPT, cache_dir=str(setting.folder / "texts")),
            TeacherAccuracyCheck(0),
        ]
        if "mix" not in condition.options:  # which makes images that come once
            callbacks.append(TeacherCache(str(setting.folder / "cache"), dtype="float32"))
    trainer = _fit(module, data, epochs, "32-true", callbacks)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    test = trainer.test(module, datamodule=data, verbose=False)[0]
    shares = module.shares() if isinstance(module, Measured) else {}
    return {"top1": 100 * test["test/top1"], "logged": logged, "shares": shares, "seconds": time.monotonic() - start}


@functools.cache
def photos(root: Path, held_out: bool) -> Photos:
    """Read once in each process."""
    return Photos(root, TRAIN, held_out, replicas=REPLICAS)


def keep_vectors(source: Path, array: str, folder: Path) -> None:
    """Writes genuine class vectors, the same of other classes, and random ones of the same lengths, as texts."""
    with np.load(source, allow_pickle=False) as file:
        prompts = prompts_of(PROMPT, [str(name) for name in file[f"{array}_names"]])
        vectors = F.normalize(torch.from_numpy(file[array]).float())
    # Turned by a random rotation, they have the same angles to each other, and nothing else is left of them.
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(vectors.shape[1], vectors.shape[1], generator=generator)).Q
    kinds = {"genuine": vectors, "permuted": vectors.roll(3, 0), "random": vectors @ rotation}
    for name, values in kinds.items():
        write_embeddings(folder / f"texts_{name}.npz", prompts, values, f"CLIP ViT-B/32 class vectors, {name}")


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
