"""The teacher's accuracy before training: a weak one, or one that cannot read a view, costs a whole run."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from tmkd_lightning.callbacks.validation_batches import validation_batches
from tmkd_lightning.utils.distributed import largest
from tmkd_lightning.utils.labels import main_class
from tmkd_lightning.utils.progress import progress

_MEAN = "mean of views"


class TeacherAccuracyCheck(Callback):
    """Measures the teacher on a few validation images when training starts, on each view and on their mean.

    The images are spread over the first validation set, since those of a folder come sorted by class. Prints one line.
    Warns if the teacher is hardly better than guessing or predicts one class for all images, or if a view takes a
    fifth or more of its accuracy: then train it on its views (``ClassifierModule(views=...)``), weaken the view, or
    leave it out.

    Args:
        batches: number of batches to measure on, 0 for none; at most those that validation reads. Each process
            measures on its own; of a teacher that is split over them, on as many batches as all of them have.
    """

    def __init__(self, batches: int = 4) -> None:
        if batches < 0:
            raise ValueError(f"batches must be at least 0, got {batches}")
        self.batches = batches

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Measures and prints."""
        if pl_module.teacher is None or self.batches == 0 or not pl_module.runs_teacher:
            return
        extractor = pl_module.teacher.extractor
        if not extractor.knows_classes:
            rank_zero_info(f"Teacher {extractor.name} was not measured: it has no fitted head")
            return
        with torch.random.fork_rng(devices=[]):  # making a loader's iterator draws from the generator
            batches, spread = validation_batches(trainer, self.batches)
            if pl_module.teacher.frozen.sharded:  # every process runs it equally often
                held = list(batches)
                batches = iter(held[: -largest(-len(held))])
            shown = progress(batches, "Measuring the teacher", self.batches, "batches")
            measured = [_predict(pl_module, batch) for batch in shown]
        if not measured:
            rank_zero_info(f"Teacher {extractor.name} was not measured: there are no validation batches")
            return
        labels = torch.cat([label for _, label in measured])
        predictions = {view: torch.cat([one[view] for one, _ in measured]) for view in measured[0][0]}
        accuracy = {view: (one == labels).float().mean().item() for view, one in predictions.items()}
        reasons = [] if spread else [f"the first {len(measured)} batches, as this loader gives no others by index"]
        if len(labels) > 1 and len(labels.unique()) == 1:
            reasons.append(f"all of class {int(labels[0])}, so this says little")
        doubts = f" ({'; '.join(reasons)})" if reasons else ""
        rank_zero_info(
            f"Teacher {extractor.name} on {len(labels)} validation images{doubts}, "
            f"top-1: {', '.join(f'{view} {value:.1%}' for view, value in accuracy.items())}; normalised with mean "
            f"{_format(extractor.mean)} and std {_format(extractor.std)} ({extractor.statistics_source})"
        )
        plain, guessing = accuracy["rgb"], 1 / pl_module.num_classes
        collapsed = len(predictions["rgb"].unique()) == 1 < len(labels.unique())
        if collapsed or plain < min(2 * guessing, (1 + guessing) / 2):
            collapse = f", and it says class {int(predictions['rgb'][0])} to every image" if collapsed else ""
            rank_zero_warn(
                f"The teacher is hardly better than guessing (top-1 {plain:.1%}, guessing {guessing:.1%}{collapse}): "
                "were its weights loaded (teacher_checkpoint), and are its normalisation and the class order right?"
            )
            return
        for name, value in accuracy.items():
            if name != _MEAN and value < 0.8 * plain:
                rank_zero_warn(
                    f"The view {name!r} takes the teacher from {plain:.1%} to {value:.1%}: train the teacher on its "
                    "views (ClassifierModule(views=...)), weaken the view, or leave it out"
                )


def _predict(module: Any, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
    """The teacher's classes ``(B,)`` for the plain image, each view, and the mean of views; and the labels."""
    image, label = module.preprocess_labelled(batch)
    logits = {"rgb": module.teacher.frozen(image).logits}
    for view in module.views.views:
        if view.name != "rgb":
            logits[view.name] = module.teacher.frozen(view(image)).logits
    if len(module.views) > 1:
        logits[_MEAN] = torch.stack([logits[name] for name in module.views.names]).mean(0)
    return {name: part.argmax(1) for name, part in logits.items()}, main_class(label)


def _format(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
