"""Measures the teachers and trains the students; both are measured on whole test sets, after the last epoch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from conditions import METHODS, VIEWS, Condition
from lightning.pytorch import Callback, LightningModule, seed_everything
from other_views import OTHER
from sets import ImageSet, fit, optimisation_of
from shares import Measured
from torch import nn
from torch.nn import functional as F

from tmkd_lightning import ClassifierModule, Extractor
from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.data.datamodules.base import ImageDataModule
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.text import EmbeddingFile, write_embeddings
from tmkd_lightning.text.prompts import prompts_of
from tmkd_lightning.utils.fingerprint import fingerprint
from tmkd_lightning.views import MultiView, View

PROMPT = "a {class}"


def teacher(images: ImageSet, name: str) -> dict[str, Any]:
    """Trains a teacher, if that was not done; measures it on each view."""
    start = time.process_time()
    network, data = images.teacher(name), images.data()
    seed_everything(0, verbose=False)  # of noise and TrivialAugment
    measured = accuracy(network, data, VIEWS) | {"others": accuracy(network, data, list(OTHER.values()))}
    return {"top1": measured, "cpu_seconds": time.process_time() - start}


@torch.no_grad()
def accuracy(network: nn.Module, data: ImageDataModule, names: Sequence[str | View]) -> dict[str, float]:
    """Top-1 in % on each of some views, of the mean of their logits, and where any view is right."""
    data.setup("test")
    extractor = network if isinstance(network, Extractor) else Extractor(network)
    extractor.to(memory_format=torch.channels_last)
    frozen, views = FrozenTeacher(extractor), MultiView(names)
    right = torch.zeros(len(views) + 2)
    for image, label in data.test_dataloader():
        logits = frozen(views(image / 255).flatten(0, 1)).logits.unflatten(0, (len(views), -1))
        found = torch.cat([logits, logits.mean(0, keepdim=True)]).argmax(2) == label
        right += torch.cat([found, found[:-1].any(0, keepdim=True)]).sum(1)
    percent = (100 * right / len(data.samples("test"))).tolist()
    return dict(zip([*views.names, "mean of views", "any view"], percent, strict=True))


def student(images: ImageSet, condition: Condition, seed: int) -> dict[str, Any]:
    """Trains one student, and measures it on the plain images."""
    start = time.process_time()
    data = images.data()
    data.seed = seed  # of the order
    seed_everything(seed, verbose=False)
    epochs = images.epochs * condition.longer
    network, optimisation = images.student(), optimisation_of(images.lr, epochs)
    callbacks: list[Callback] = []
    weights = None
    if condition.method is None:
        module: LightningModule = ClassifierModule(network, **condition.options, **optimisation)
    else:
        method, taught = METHODS[condition.method](), images.teacher("views")
        weights = fingerprint(taught.state_dict(), "teacher")
        module = Measured(taught, network, distiller=method, **condition.options, **optimisation)
        texts = EmbeddingFile(images.folder / f"texts_{condition.texts}_{images.texts}.npz")
        callbacks = [
            PromptEmbeddings(texts, templates=PROMPT, cache_dir=str(images.folder / "texts")),
            TeacherAccuracyCheck(0),
        ]
        if "mix" not in condition.options:  # which makes images that come once
            module.student_views = images.shown(module.student_views)
            callbacks.append(TeacherCache(str(images.folder / "cache"), dtype="float32"))
    trainer = fit(module, data, epochs, images.precision, callbacks)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    test = trainer.test(module, datamodule=data, verbose=False)[0]
    shares = module.shares() if isinstance(module, Measured) else {}
    return {
        "top1": 100 * test["test/top1"],
        "logged": logged,
        "shares": shares,
        "epochs": epochs,
        "seed": seed,
        "condition": described(condition),
        "teacher": weights,
        "cpu_seconds": time.process_time() - start,
    }


def read_run(file: Path) -> dict[str, Any]:
    """What a run has left."""
    try:
        found = json.loads(file.read_text())
        if not isinstance(found["top1"], dict) and not math.isfinite(found["top1"]):
            raise ValueError(f"top1 is {found['top1']}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no finished run ({error!r}): remove it, and run it again") from error
    return found


def described(condition: Condition) -> dict[str, Any]:
    """A condition as JSON has it; views and transforms by their names."""
    return json.loads(json.dumps(vars(condition), default=lambda one: getattr(one, "name", type(one).__name__)))


def keep_vectors(sources: Sequence[Path], array: str, names: str, classes: Sequence[str], folder: Path) -> str:
    """Writes genuine class vectors, the same of other classes, and random ones of the same lengths, as texts.

    Returns what tells these vectors from others.
    """
    named, found = [str(name) for name in _array(sources, names)], _array(sources, array)
    if found.ndim != 2 or found.dtype.kind != "f" or not (np.isfinite(found).all() and found.any(1).all()):
        raise ValueError(
            f"{array!r} has shape {found.shape} of {found.dtype}, where a row of numbers, not all 0, is due"
        )
    if len(named) != len(found) or len(set(named)) < len(named):
        raise ValueError(f"{len(named)} {names!r} stand beside {len(found)} vectors {array!r}: each class wants one")
    if nameless := sorted(set(classes) - set(named)):
        raise ValueError(f"the vectors {array!r} are those of {named}, and none is of {nameless}")
    prompts, vectors = prompts_of(PROMPT, named), F.normalize(torch.from_numpy(found).float())
    which = fingerprint((prompts, vectors), "vectors")[:16]
    # Turned by a random rotation, they have the same angles to each other, and nothing else is left of them.
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(vectors.shape[1], vectors.shape[1], generator=generator)).Q
    kinds = {"genuine": vectors, "permuted": vectors.roll(3, 0), "random": vectors @ rotation}
    for name, values in kinds.items():
        write_embeddings(folder / f"texts_{name}_{which}.npz", prompts, values, f"class vectors {array}, {name}")
    return which


def _array(sources: Sequence[Path], name: str) -> np.ndarray:
    """The array of this name, which one of the files has."""
    found: dict[Path, np.ndarray] = {}
    held: set[str] = set()
    for source in sources:
        try:
            with source.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                held |= set(arrays)
                if name in arrays:
                    found[source] = arrays[name]
        except (TypeError, ValueError, BadZipFile) as error:
            raise ValueError(f"{source} is no .npz file of arrays: {error}") from error
    if not found:
        raise ValueError(f"{', '.join(map(str, sources))}: no array {name!r}, but {sorted(held)}")
    if len(found) > 1:
        raise ValueError(f"{' and '.join(map(str, found))} both have an array {name!r}, of which one must go")
    return next(iter(found.values()))
