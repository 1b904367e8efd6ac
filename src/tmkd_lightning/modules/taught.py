"""The teacher's side of distillation: how it comes to its weights, and how it is asked."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.distillers import Sum
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.models import load_pretrained, load_weights
from tmkd_lightning.models.loading import stated_by_file, use_statistics
from tmkd_lightning.modules import checks
from tmkd_lightning.modules.base import ClassificationModule
from tmkd_lightning.modules.teacher_classes import describe_order, teacher_order
from tmkd_lightning.modules.wanted import not_in_trainer
from tmkd_lightning.teacher.frozen import Frozen
from tmkd_lightning.teacher.fusion import WeightNet, fuse
from tmkd_lightning.text.class_names import ClassList
from tmkd_lightning.text.prompts import PromptBank, datamodule_of
from tmkd_lightning.views import MultiView


class TaughtModule(ClassificationModule):
    """A classifier with a teacher; how it learns from it is its subclass's.

    Attributes:
        teacher: the frozen teacher.
        teacher_checkpoint: file with its weights, or None.
        teacher_key: part of that file, or None.
        teacher_cache: the trainer's TeacherCache, if there is one.
        views: what the teacher sees.
        distiller: what reads the teacher's outputs.
        weight_net: weighs the views by their texts; None for equal weights.
        prompt_bank: the texts; None where nothing reads them.
    """

    teacher: Frozen
    teacher_checkpoint: str | None
    teacher_key: str | None
    teacher_cache: TeacherCache | None = None
    teacher_classes: list[ClassList]  # as the module that the teacher came in calls them
    views: MultiView
    distiller: Sum
    weight_net: WeightNet | None
    prompt_bank: PromptBank | None

    @property
    def reads_teacher(self) -> bool:
        """Whether any term of the loss does."""
        return len(self.distiller.parts) > 0

    @property
    def runs_teacher(self) -> bool:
        """Whether training needs the teacher itself, and not only what a complete cache holds of it."""
        return self.reads_teacher and not (self.teacher_cache is not None and self.teacher_cache.complete)

    def extractors(self) -> Iterator[Extractor]:
        """Student, and the teacher where it runs."""
        yield self.extractor
        if self.runs_teacher:
            yield self.teacher.extractor

    def configure_callbacks(self) -> list[Callback]:
        """Text embeddings if something reads them, and a look at the teacher; the trainer's own of a kind win."""
        if self.trainer.training and self.reads_teacher:
            checks.check_teacher_checkpoint(self.teacher_checkpoint)
            stated = None if self.teacher_checkpoint is None else stated_by_file(self.teacher_checkpoint)
            if stated is not None:  # before a TeacherCache asks what decides the teacher's outputs
                use_statistics(self.teacher.extractor, stated, str(self.teacher_checkpoint))
        theirs = self.trainer.callbacks  # type: ignore[attr-defined]
        self.teacher_cache = next((callback for callback in theirs if isinstance(callback, TeacherCache)), None)
        callbacks = super().configure_callbacks()
        wanted: list[Callback] = []
        if self.prompt_bank is not None and not self.prompt_bank.filled:
            wanted.append(PromptEmbeddings())
        if self.reads_teacher:
            wanted.append(TeacherAccuracyCheck())
        return callbacks + not_in_trainer(self.trainer, wanted)

    def setup(self, stage: str) -> None:
        """Refuses to train without text embeddings, or with a teacher of other classes."""
        super().setup(stage)
        if stage == "fit" and self.reads_teacher:
            self.teacher_order()
        if stage == "fit" and self.prompt_bank is not None and not self.prompt_bank.filled:
            raise ValueError("the text embeddings are missing: add the callback PromptEmbeddings to the trainer")

    def read_weights(self) -> None:
        """Reads the teacher's weights too, from its checkpoint if there is one; no other stage needs them."""
        if self.runs_teacher and not (self.teacher_cache is not None and self.teacher_cache.complete is None):
            self._read_teacher()
        super().read_weights()

    def _read_teacher(self) -> None:
        rows = self.teacher_order()
        if self.teacher_checkpoint is None:
            load_pretrained(self.teacher.extractor.network)
        else:
            load_weights(self.teacher.extractor, self.teacher_checkpoint, replace_head=False, key=self.teacher_key)
        if rows is not None:
            rank_zero_warn(describe_order(self.teacher_checkpoint or "the teacher", rows))
            self.teacher.extractor.reorder_classes(rows)
            self.teacher_classes = [known.reordered(rows) for known in self.teacher_classes]

    def teacher_order(self) -> list[int] | None:
        """Row of the teacher's head for each label, where the teacher has the classes in another order.

        Raises:
            ValueError: the teacher knows other classes than those of the data.
        """
        return teacher_order(self, self.teacher_checkpoint, datamodule_of(self.trainer))

    def teach(self, image: Tensor, label: Tensor) -> Output:
        """Fuses what the teacher says of all views.

        Args:
            image: ``(B, 3, H, W)`` in [0, 1].
            label: ``(B,)``, in 0..K-1.

        Returns:
            The teacher's output of B images; gradients flow into the WeightNet alone.
        """
        output = self.show(image) if self.teacher_cache is None else self.teacher_cache.recall(self, image)
        if len(self.views) == 1:
            return output
        weights = self.view_weights(label)
        shares = weights.detach().mean(0)
        self.log_dict({f"fusion/{name}": share for name, share in zip(self.views.names, shares, strict=True)})
        return fuse(output, weights)

    def show(self, image: Tensor) -> Output:
        """Shows the teacher all views.

        Args:
            image: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            The teacher's output of ``V * B`` rows, in the order of views; it carries no gradient.
        """
        output: Output = self.teacher(self.views(image).flatten(0, 1), views=len(self.views), checked=True)
        return output

    def view_weights(self, label: Tensor) -> Tensor:
        """Weights ``(B, V)`` of the views for each image's class (Eq. 3 and 4), each row summing to 1."""
        if self.weight_net is None or self.prompt_bank is None:
            return torch.full((len(label), len(self.views)), 1 / len(self.views), device=label.device)
        weights: Tensor
        if len(label) < self.num_classes:  # those of the other classes are not needed
            weights = self.weight_net(self.prompt_bank.rows(label))
            return weights
        weights = self.weight_net(self.prompt_bank.rows())
        return weights[label]
