"""Looks at the teacher before it teaches: a weak one, or one that cannot read a view, costs a whole run."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from tmkd_lightning.callbacks.validation_batches import validation_batches

_NEAR_CHANCE = 2.0  # times the accuracy of guessing
_RUINED = 0.8  # of the accuracy on the plain image
_MEAN = "mean of views"


class TeacherCheck(Callback):
    """Measures the teacher on a few validation images when training starts, on each view and on their mean.

    The images are from all over the first validation set, since those of a folder come sorted by class. Prints one
    line. Warns if the teacher is hardly better than guessing or says one class to all images, or if a view takes a
    fifth or more of its accuracy: then train it on its views (``ClassifierModule(views=...)``), weaken the view, or
    leave it out.

    Args:
        batches: how many batches of images to look at, 0 for none; no more than ``limit_val_batches`` or
            ``fast_dev_run`` let validation read. Each process looks at its own.

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
        module: Any = pl_module  # with a teacher (or None), views, num_classes and take
        if module.teacher is None or self.batches == 0 or not module.runs_teacher:
            return
        with torch.random.fork_rng(devices=[]):  # making a loader's iterator draws from the generator
            batches, spread = validation_batches(trainer, self.batches)
            shown = [_look(module, batch) for batch in batches]
        name = module.teacher.extractor.name
        if not shown:
            rank_zero_info(f"Teacher {name} was not measured: there are no validation batches")
            return
        label = torch.cat([its for _, its in shown])
        answers = {view: torch.cat([one[view] for one, _ in shown]) for view in shown[0][0]}
        accuracy = {view: (answer == label).float().mean().item() for view, answer in answers.items()}
        rank_zero_info(
            f"Teacher {name} on {len(label)} validation images{_which(label, len(shown), spread)}, top-1: "
            + ", ".join(f"{view} {value:.1%}" for view, value in accuracy.items())
            + f"; normalised with {_statistics(module.teacher.extractor)}"
        )
        one_answer = len(answers["rgb"].unique()) == 1 < len(label.unique())
        _warn(accuracy, module.num_classes, int(answers["rgb"][0]) if one_answer else None)


def _look(module: Any, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
    """The teacher's answers ``(B,)``: plain, in each view, and in the mean of several views; and the labels."""
    image, label = module.preprocess_labelled(batch)
    teacher = module.teacher.frozen
    logits = {"rgb": teacher(image).logits}
    logits |= {view.name: teacher(view(image)).logits for view in module.views.views if view.name != "rgb"}
    if len(module.views) > 1:
        logits[_MEAN] = torch.stack([logits[name] for name in module.views.names]).mean(0)
    return {name: part.argmax(1) for name, part in logits.items()}, label


def _statistics(extractor: Any) -> str:
    mean, std = (
        ", ".join(f"{value:.4g}" for value in part.flatten().tolist()) for part in (extractor.mean, extractor.std)
    )
    return f"mean {mean} and std {std} ({extractor.statistics_source})"


def _which(label: Tensor, batches: int, spread: bool) -> str:
    """What the images do not stand for, in brackets."""
    said = [] if spread else [f"the first {batches} batches, as this loader gives no others by index"]
    if len(label) > 1 and len(label.unique()) == 1:
        said.append(f"all of class {int(label[0])}, so this says little")
    return f" ({'; '.join(said)})" if said else ""


def _warn(accuracy: dict[str, float], num_classes: int, only_answer: int | None) -> None:
    plain = accuracy["rgb"]
    if only_answer is not None or plain < min(_NEAR_CHANCE / num_classes, (1 + 1 / num_classes) / 2):
        all_alike = "" if only_answer is None else f", and it says class {only_answer} to every image"
        rank_zero_warn(
            f"The teacher is hardly better than guessing (top-1 {plain:.1%}, guessing {1 / num_classes:.1%}{all_alike})"
            ": were its weights loaded (teacher_checkpoint), and are its normalisation and the class order right?"
        )
        return
    for name, value in accuracy.items():
        if name != _MEAN and value < _RUINED * plain:
            rank_zero_warn(
                f"The view {name!r} takes the teacher from {plain:.1%} to {value:.1%}: train the teacher on its views "
                "(ClassifierModule(views=...)), weaken the view, or leave it out"
            )
