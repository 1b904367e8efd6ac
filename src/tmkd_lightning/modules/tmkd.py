"""TMKD: a frozen teacher sees several views, text decides how they are fused, a student learns from the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmkd_lightning.distillers import KD, Distiller, FeatureKL, Sum
from tmkd_lightning.distillers.text_alignment import TextAlignment
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.modules import checks
from tmkd_lightning.modules.base import ClassificationModule, as_extractor
from tmkd_lightning.modules.batches import Normalization
from tmkd_lightning.modules.classes import NumClasses
from tmkd_lightning.modules.optimizers import LRSchedulerCallable, OptimizerCallable
from tmkd_lightning.modules.taught import TaughtModule
from tmkd_lightning.teacher.frozen import Frozen
from tmkd_lightning.teacher.fusion import WeightNet
from tmkd_lightning.text.class_names import learned_classes
from tmkd_lightning.text.prompts import PromptBank
from tmkd_lightning.utils.precision import at_least_float32
from tmkd_lightning.utils.state_dict import leave_out, names_under, save_under
from tmkd_lightning.views import MultiView, View


class TMKDModule(TaughtModule):
    """Distils a teacher into a student, any two classifiers, by TMKD with or without a base method.

    The total loss is ``ce_weight · CE + base method + feature_weight · L_feat + logit_weight · L_logit + text_weight ·
    L_text`` (Eq. 12). With one view and the last three weights 0 it is exactly the base method.

    Args:
        teacher: classifier from normalised images to logits, or an Extractor around one. It is frozen.
        student: likewise, with the same classes.
        distiller: base method, or several whose terms are added; None for TMKD's own terms alone.
        views: names of built-in views or views of your own that the teacher sees.
        fusion: ``text`` lets a WeightNet weigh the views by their prompts, ``mean`` weighs them equally.
        fusion_objective: what trains the WeightNet: the ``label``, through the cross-entropy of the fused logits with
            the fused target detached for the student, or the ``distillation`` losses, as in the paper.
        ce_weight: factor of the cross-entropy with the label.
        logit_weight: factor of L_logit; None for 1, or 0 where the distiller is itself the logit term.
        feature_weight: factor of L_feat.
        text_weight: factor of L_text.
        temperature: T of L_logit.
        feature_temperature: T of L_feat.
        text_temperature: τ of L_text.
        text_negatives: with how many other classes, drawn anew at every step, L_text contrasts those of a batch; None
            for all, which is dear where there are thousands.
        noise_scale: λ, how strongly the teacher's embedding is perturbed in L_feat.
        num_classes: K, for which networks made for another number are given fresh heads; ``data`` for that of the
            datamodule, None for that of the networks.
        class_names: names of the classes in the order of the labels; by default the datamodule's.
        text_dim: width of the text embeddings; CLIP ViT-B/32 has 512.
        text_head_dim: width of the space in which L_text compares.
        fusion_hidden: width of the WeightNet's hidden layer.
        normalized_with: mean and standard deviation of each channel, if the images of a batch arrive normalised.
        teacher_checkpoint: file with the teacher's weights, read when training starts and at no other time.
        teacher_key: part of that file where it holds several networks that fit, such as ``state_dict_ema``.
        compile: whether to compile both networks before the first step.
        teacher_chunk: most images, of all views, in one forward of the teacher; None for all at once, or on a CPU for
            pieces of one view.
        head_lr_factor: learning-rate factor of projector, text heads and WeightNet.
        optimizer: makes the optimizer from parameter groups; the paper's SGD by default.
        lr_scheduler: makes a scheduler from the optimizer, or Lightning's dict around one; None for warm-up and step
            decay. Stepped once an epoch, OneCycleLR and CyclicLR after every step, where the dict says no other.

    Raises:
        ValueError: teacher and student have different classes or are one object, or an argument is out of its range.

    Source: Fig. 2 and Eq. 12.

    Example:
        >>> from torchvision.models import resnet18
        >>> module = TMKDModule(resnet18(num_classes=5), resnet18(num_classes=5), distiller=KD())
        >>> module.view_weights(torch.tensor([0, 4])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        teacher: nn.Module | Extractor,
        student: nn.Module | Extractor,
        *,
        distiller: Distiller | list[Distiller] | None = None,
        views: Sequence[str | View] = ("rgb", "edge", "high_frequency"),
        fusion: Literal["text", "mean"] = "text",
        fusion_objective: Literal["distillation", "label"] = "label",
        ce_weight: float = 1.0,
        logit_weight: float | None = None,
        feature_weight: float = 1.0,
        text_weight: float = 0.8,
        temperature: float = 4.0,
        feature_temperature: float = 4.0,
        text_temperature: float = 0.07,
        text_negatives: int | None = None,
        noise_scale: float = 0.1,
        num_classes: NumClasses = None,
        class_names: Sequence[str] | None = None,
        text_dim: int = 512,
        text_head_dim: int = 128,
        fusion_hidden: int = 256,
        normalized_with: Normalization | None = None,
        teacher_checkpoint: str | None = None,
        teacher_key: str | None = None,
        compile: bool = False,
        teacher_chunk: int | None = None,
        head_lr_factor: float = 1.0,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            student,
            num_classes=num_classes,
            class_names=class_names,
            normalized_with=normalized_with,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            head_lr_factor=head_lr_factor,
            compile=compile,
        )
        self.remember()
        distiller = Sum(*distiller) if isinstance(distiller, (list, tuple)) else distiller
        logit_weight = checks.weight_beside(distiller, logit_weight)
        checks.check_loss_weights(
            {"ce": ce_weight, "logit": logit_weight, "feature": feature_weight, "text": text_weight}
        )
        checks.check_temperatures(
            {
                "temperature": temperature,
                "feature_temperature": feature_temperature,
                "text_temperature": text_temperature,
            }
        )
        widths = {"text_dim": text_dim, "text_head_dim": text_head_dim, "fusion_hidden": fusion_hidden}
        checks.check_widths({**widths, "text_negatives": text_negatives, "teacher_chunk": teacher_chunk})
        checks.check_path("teacher_checkpoint", teacher_checkpoint)
        checks.check_choice("fusion", fusion, ["text", "mean"])
        checks.check_choice("fusion_objective", fusion_objective, ["distillation", "label"])

        self.teacher_classes = learned_classes(teacher) if isinstance(teacher, ClassificationModule) else []
        teacher = as_extractor(teacher, num_classes if teacher_checkpoint else None)
        checks.check_pair(teacher, self.extractor, same_classes=num_classes != "data")
        self.count_classes()  # which may have been measured only now
        self.teacher = Frozen(teacher, teacher_chunk)
        self.teacher_checkpoint = None if teacher_checkpoint is None else os.path.expanduser(teacher_checkpoint)
        self.teacher_key = teacher_key
        self.views = MultiView(views)
        self.ce_weight, self.fusion_objective = ce_weight, fusion_objective

        own = Sum(
            *([KD(temperature, logit_weight, name="logit")] if logit_weight else []),
            *([self._feature_kl(feature_temperature, noise_scale, feature_weight)] if feature_weight else []),
        )
        self.distiller = own if distiller is None else Sum(distiller, *own.parts)
        self.teacher.map_size = self.distiller.map_size
        for extractor in self.extractors():
            extractor.keep_map = "feature_map" in self.distiller.reads

        weighs = fusion == "text" and len(self.views) > 1 and self.reads_teacher
        self.weight_net = WeightNet(text_dim, len(self.views), fusion_hidden) if weighs else None
        self.text_alignment: TextAlignment | None = None
        if text_weight:
            self.extractor.require("embedding", reader="L_text")
            anchor = (text_dim, text_head_dim, text_temperature, text_weight, text_negatives)
            self.text_alignment = TextAlignment(self.extractor.embedding_dim, *anchor)
        self.prompt_bank = PromptBank(len(self.views), self.num_classes, text_dim) if weighs or text_weight else None

        save_under(self, "extractor.network", "student")
        leave_out(self, "teacher")
        self._ddp_params_and_buffers_to_ignore += names_under(self, "teacher", "prompt_bank")

    @property
    def student(self) -> nn.Module:
        """The bare student."""
        return self.extractor.network

    @property
    def student_extractor(self) -> Extractor:
        """The student as a source of outputs."""
        return self.extractor

    def _feature_kl(self, temperature: float, noise_scale: float, weight: float) -> FeatureKL:
        student, teacher = self.extractor, self.teacher.extractor
        for extractor in (student, teacher):
            extractor.require("embedding", reader="L_feat")
        return FeatureKL(student.embedding_dim, teacher.embedding_dim, temperature, noise_scale, weight)

    def make_ready(self, image: Tensor) -> None:
        """Confirms both networks, and that they and the batch have what the losses need."""
        super().make_ready(image)
        if self.text_alignment is not None:
            self.extractor.require("embedding", reader="L_text")
        checks.check_needs(self.distiller, list(self.extractors()), images=len(image))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """One step, as in the paper's Fig. 2."""
        image, label = self.take_labelled(batch)
        if self.too_small(label):
            return self.no_loss()
        checks.warn_small_batch(self.distiller, images=len(label))
        teacher = self.teach(image, label) if self.reads_teacher else None  # first: it leaves no activations behind
        student = self.student_extractor(image, checked=True)
        terms = {"ce": self.ce_weight * F.cross_entropy(at_least_float32(student.logits), label)}
        if teacher is not None:
            distilled = self.distiller(student, self.target(teacher), label)
            terms |= self.train_fusion(teacher, label) | distilled
        if self.text_alignment is not None and self.prompt_bank is not None:
            terms |= self.text_alignment(student.require("embedding"), self.prompt_bank.anchors, label)
        return self.total(terms)

    def train_fusion(self, teacher: Output, label: Tensor) -> dict[str, Tensor]:
        """The WeightNet's own term, where it has one."""
        if self.weight_net is None or self.fusion_objective == "distillation":
            return {}
        return {"fusion": F.cross_entropy(at_least_float32(teacher.logits), label)}

    def target(self, teacher: Output) -> Output:
        """What the student learns from: detached unless the distillation losses train the WeightNet."""
        return teacher if self.fusion_objective == "distillation" else teacher.map(Tensor.detach)
