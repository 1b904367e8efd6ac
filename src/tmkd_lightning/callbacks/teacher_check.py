"""Looks at the teacher before it teaches: a weak one, or one that cannot read a view, costs a whole run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_leaves

_NEAR_CHANCE = 2.0  # times the accuracy of guessing
_RUINED = 0.8  # of the accuracy on the plain image


class TeacherCheck(Callback):
    """Measures the teacher on a few validation batches when training starts, on each view and on their mean.

    Prints one line. Warns if the teacher is hardly better than guessing, or if a view takes a fifth or more of its
    accuracy: then train it on its views (``ClassifierModule(views=...)``), weaken the view, or leave it out.

    Args:
        batches: how many batches to look at, 0 for none. Each process looks at its own.

    Raises:
        ValueError: `batches` is negative.
    """

    def __init__(self, batches: int = 4) -> None:
        if batches < 0:
            raise ValueError(f"batches must be at least 0, got {batches}")
        self.batches = batches

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and prints."""
        module: Any = pl_module  # with a teacher, views, num_classes and take
        with torch.random.fork_rng(devices=[]):  # making a loader's iterator draws from the generator
            shown = [_look(module, batch) for batch in self._batches(trainer)]
        if not shown:
            return
        right = torch.cat(shown, dim=1).float().mean(1).tolist()
        names = [*module.views.names, "mean of views"]
        accuracy = dict(zip(names, right, strict=True))
        images = sum(part.shape[1] for part in shown)
        rank_zero_info(
            f"Teacher {module.teacher.extractor.name} on {images} validation images, top-1: "
            + ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items())
        )
        _warn(accuracy, module.num_classes)

    def _batches(self, trainer: Trainer) -> Iterable[Any]:
        loader = tree_leaves(trainer.val_dataloaders)[0]  # of one or several; None if there are none
        if loader is None:
            return
        for batch in islice(loader, self.batches):
            yield trainer.strategy.batch_to_device(batch)


def _look(module: Any, batch: Any) -> Tensor:
    """Which images the teacher gets right, ``(V + 1, B)``: in each view, and in the mean of views."""
    image, label = module.take(batch)
    logits = module.teacher(module.views(image).flatten(0, 1)).logits.unflatten(0, (-1, len(image)))
    return torch.cat([logits, logits.mean(0, keepdim=True)]).argmax(2) == label


def _warn(accuracy: dict[str, float], num_classes: int) -> None:
    best = max(accuracy.values())
    if best < min(_NEAR_CHANCE / num_classes, (1 + 1 / num_classes) / 2):
        rank_zero_warn(
            f"The teacher is hardly better than guessing (best view {best:.1%}, guessing {1 / num_classes:.1%}): were "
            "its weights loaded (teacher_checkpoint), and are its normalisation and the class order right?"
        )
        return
    plain = accuracy.get("rgb", best)
    for name, value in accuracy.items():
        if value < _RUINED * plain:
            rank_zero_warn(
                f"The view {name!r} takes the teacher from {plain:.1%} to {value:.1%}: train the teacher on its views "
                "(ClassifierModule(views=...)), weaken the view, or leave it out"
            )
