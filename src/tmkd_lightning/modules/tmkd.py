"""TMKD: a frozen teacher sees several views, text decides how they are fused, a student learns from the result."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from tmkd_lightning.callbacks import PromptEmbeddings, TeacherAccuracyCheck, TeacherCache
from tmkd_lightning.distillers import KD, Distiller, FeatureKL, Sum
from tmkd_lightning.distillers.text_alignment import TextAlignment
from tmkd_lightning.feature_extraction.ensemble import Ensemble
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses import cross_entropy
from tmkd_lightning.models import local_file
from tmkd_lightning.models.loading import adopt_preprocessing
from tmkd_lightning.models.remote_files import check_location
from tmkd_lightning.models.zero_shot import needs_class_names
from tmkd_lightning.modules import validation
from tmkd_lightning.modules.base import BaseModule, Normalization, NumClasses, as_extractor
from tmkd_lightning.modules.loading import NAMED, load_teacher, teacher_order
from tmkd_lightning.modules.optimizers import LRSchedulerCallable, OptimizerCallable
from tmkd_lightning.teacher.frozen import FrozenTeacher
from tmkd_lightning.teacher.fusion import WeightNet
from tmkd_lightning.teacher.multi_view_teacher import MultiViewTeacher
from tmkd_lightning.text.class_names import ClassList, datamodule_of, learned_classes
from tmkd_lightning.text.prompts import PromptBank
from tmkd_lightning.utils.labels import Mix
from tmkd_lightning.utils.state_dict import alias_submodule, exclude_from_state_dict, parameter_names
from tmkd_lightning.utils.validation import check_count, check_positive, check_weight
from tmkd_lightning.views import MultiView, RandomView, View

PAPER: dict[str, Any] = {
    "views": ("rgb", "edge", "high_frequency"),
    "fusion": "text",
    "fusion_objective": "distillation",
    "student_views": ("rgb",),
    "ce_weight": 1.0,
    "feature_weight": 1.0,
    "feature_temperature": 4.0,
    "text_weight": 0.8,
}
"""TMKD as published, for ``TMKDModule(teacher, student, **PAPER)``; `examples/ablations/paper.yaml` says the same.

With a teacher that has not been trained on its views, add ``"fusion_objective": "label"`` (docs/method.md).
"""


class TMKDModule(BaseModule):
    """Distils a teacher into a student, any two classifiers, by a base method, by terms of TMKD, or by both.

    The total loss is ``ce_weight · CE + base method + feature_weight · L_feat + logit_weight · L_logit + text_weight ·
    L_text`` (Eq. 12). With one view and the last three weights 0 it is exactly the base method. The defaults are what
    was ahead where it was measured (docs/results.md): one view, no texts, and a strong L_feat. ``**PAPER`` is TMKD as
    published, with its views and texts.

    Args:
        teacher: classifier from normalised images to logits, an Extractor around one, or an Ensemble of several. It is
            frozen. Where the names of its classes are known, by its file or by ``Extractor(class_names=...)``, the rows
            of its head are put in the order of the data's names, and rows of other classes are dropped.
        student: likewise, with the same classes.
        distiller: base method, or several whose terms are added; None for TMKD's own terms alone.
        views: names of built-in views or views of your own that the teacher sees, ``rgb``, ``edge`` and
            ``high_frequency`` in the paper.
        fusion: ``text`` lets a WeightNet weigh the views by the prompts of the image's class, ``image`` also by what
            the teacher says of each view of the image, ``mean`` weighs them equally.
        fusion_objective: what trains the WeightNet: the ``label``, by the cross-entropy of the fused logits, which are
            detached for the student, or the ``distillation`` losses, as in the paper.
        student_views: views of which the student sees one of each training image, drawn by `student_view_shares`;
            validation, test and export are on the plain image.
        student_view_shares: how often each is drawn, as many positive numbers as views; None for equal shares.
        student_target: what the student learns of a view: the ``fused`` answer of the teacher to all its views, or its
            answer to the ``same_view``, for which `views` must have it.
        mix: mixes a training batch, as torchvision's ``MixUp(num_classes=K)`` does: from images ``(B, 3, H, W)`` in
            [0, 1] and labels to both of them mixed, labels ``(B, K)``; teacher and student see the mixed images. Its
            randomness is torch's.
        ce_weight: factor of the cross-entropy with the label.
        logit_weight: factor of L_logit; None for 1, or 0 where the distiller is itself the logit term.
        feature_weight: factor of L_feat; 0 leaves it out. The default was found with embeddings behind a ReLU and a
            mean; those of a larger scale, as of a ViT, pull harder, and those of length 1, as of CLIP, are lost in the
            noise. The paper's, 1 at a `feature_temperature` of 4, has next to no gradient.
        text_weight: factor of L_text, 0.8 in the paper.
        temperature: T of L_logit.
        feature_temperature: T of L_feat.
        text_temperature: τ of L_text.
        text_negatives: number of other classes, drawn at every step, that L_text contrasts with; None for all. Of
            labels that are distributions, every class that one of them has counts as its own.
        noise_scale: λ, how strongly the teacher's embedding is perturbed in L_feat.
        num_classes: K; networks made for another number get fresh heads. ``data`` is the datamodule's, None theirs.
        class_names: names of the classes in the order of the labels; by default the datamodule's.
        text_dim: width of the text embeddings; CLIP ViT-B/32 has 512.
        text_head_dim: width of the space in which L_text compares.
        fusion_hidden: width of the WeightNet's hidden layer.
        normalized_with: mean and standard deviation of each channel, if the images of a batch arrive normalised.
        teacher_checkpoint: file with the teacher's weights, read when training starts and at no other time: a path,
            ``hf://<owner>/<repository>/<file>@<revision>`` or ``https://<host>/<...>/<file>``, which is fetched once.
        teacher_key: part of that file where it holds several networks that fit, such as ``state_dict_ema``.
        teacher_device: such as ``cuda:1``, where the teacher is put and stays; views go there and its answers come
            back. None for the student's device.
        teacher_dtype: ``float32``, ``float16`` or ``bfloat16``, in which the teacher's weights are kept and run,
            whatever the trainer's precision is; its BatchNorms and the normalisation of its images stay in float32.
            The network that is passed is changed itself, and stays so. None for that of its weights.
        teacher_sharded: whether processes of ``strategy="ddp"`` split the teacher's weights among them, so that each
            keeps a part; see `tmkd_lightning.teacher.sharding`. One process alone keeps all.
        compile: whether to compile both networks before the first step.
        teacher_chunk: most images, of all views, in one forward of the teacher; None for all, on a CPU for one view's.
        head_lr_factor: learning-rate factor of projector, text heads and WeightNet.
        optimizer: makes the optimizer from parameter groups; the paper's SGD by default.
        lr_scheduler: makes a scheduler from the optimizer, or Lightning's dict around one; None for warm-up and step
            decay. OneCycleLR and CyclicLR are stepped after every step, others once an epoch.

    Source: Fig. 2 and Eq. 12.

    Example:
        >>> from torchvision.models import resnet18
        >>> module = TMKDModule(resnet18(num_classes=5), resnet18(num_classes=5), distiller=KD())
        >>> module.distiller.method_name
        'KD, FeatureKL'
        >>> module = TMKDModule(resnet18(num_classes=5), resnet18(num_classes=5), distiller=KD(), **PAPER)
        >>> module.teacher.view_weights(torch.tensor([0, 4])).shape
        torch.Size([2, 3])
    """

    teacher: MultiViewTeacher
    teacher_cache: TeacherCache | None = None  # the trainer's, if it has one
    training_images: int | None = None  # number of them, where a method asks for it; known in setup
    teacher_lacks_logits: bool = False  # whether its head is not fitted; known in setup

    def __init__(
        self,
        teacher: nn.Module | Extractor,
        student: nn.Module | Extractor,
        *,
        distiller: Distiller | list[Distiller] | None = None,
        views: Sequence[str | View] = ("rgb",),
        fusion: Literal["text", "image", "mean"] = "text",
        fusion_objective: Literal["distillation", "label"] = "label",
        student_views: Sequence[str | View] = ("rgb",),
        student_view_shares: Sequence[float] | None = None,
        student_target: Literal["fused", "same_view"] = "fused",
        mix: Mix | None = None,
        ce_weight: float = 1.0,
        logit_weight: float | None = None,
        feature_weight: float = 50.0,
        text_weight: float = 0.0,
        temperature: float = 4.0,
        feature_temperature: float = 1.0,
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
        teacher_device: str | torch.device | None = None,
        teacher_dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        teacher_sharded: bool = False,
        compile: bool = False,
        teacher_chunk: int | None = None,
        head_lr_factor: float = 1.0,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            student, num_classes, class_names, normalized_with, optimizer, lr_scheduler, head_lr_factor, compile, mix
        )
        self._save_hparams()
        distiller = Sum(*distiller) if isinstance(distiller, (list, tuple)) else distiller
        logit_weight = validation.weight_beside(distiller, logit_weight)
        weights = {"logit_weight": logit_weight, "feature_weight": feature_weight, "text_weight": text_weight}
        validation.check_all(check_weight, ce_weight=ce_weight, **weights)
        temperatures = {"feature_temperature": feature_temperature, "text_temperature": text_temperature}
        validation.check_all(check_positive, temperature=temperature, **temperatures)
        counts = {"text_dim": text_dim, "text_head_dim": text_head_dim, "fusion_hidden": fusion_hidden}
        validation.check_all(check_count, text_negatives=text_negatives, teacher_chunk=teacher_chunk, **counts)
        multi_view = MultiView(views)
        validation.check_fusion(fusion, multi_view)
        validation.check_choice("fusion_objective", fusion_objective, ["distillation", "label"])
        validation.check_choice("student_target", student_target, ["fused", "same_view"])

        validation.check_teacher_place(teacher_device, teacher_dtype, teacher_sharded, compile)
        teacher = self._own_teacher(teacher, num_classes, teacher_checkpoint)
        self.extractor.role, teacher.role = "student ", "teacher "
        frozen = FrozenTeacher(teacher, teacher_chunk, teacher_device, teacher_dtype and getattr(torch, teacher_dtype))
        self.teacher_checkpoint = teacher_checkpoint and check_location("teacher_checkpoint", teacher_checkpoint)
        self.teacher_key, self.ce_weight, self.fusion_objective = teacher_key, ce_weight, fusion_objective

        tmkd_terms: list[Distiller] = [KD(temperature, logit_weight, name="logit")] if logit_weight else []
        if feature_weight:
            tmkd_terms.append(FeatureKL(feature_temperature, noise_scale, feature_weight))
        self.distiller = Sum(*tmkd_terms) if distiller is None else Sum(distiller, *tmkd_terms)
        self.distiller.adapt_student(self.extractor, teacher)
        for extractor in (self.extractor, teacher):
            extractor.keep_map = "feature_map" in self.distiller.reads
            extractor.keep_maps = "maps" in self.distiller.reads
        validation.build_parts(self.distiller, self.extractor, teacher)
        self.reads_teacher, self.teacher_sharded = len(self.distiller.parts) > 0, teacher_sharded
        frozen.map_size = self.distiller.map_size

        if mix is not None and (reason := self.why_classes_needed()):
            raise ValueError(f"mix makes labels that are distributions, but {reason}")

        self.student_views = RandomView(student_views, student_view_shares, "student_view_shares")
        self.student_target = student_target
        self.same_views = validation.same_views(self.student_views.views, multi_view, student_target)
        fuses = student_target == "fused" and len(multi_view) > 1 and self.reads_teacher
        uses_weight_net = fusion != "mean" and fuses
        sizes = (text_dim, len(multi_view), fusion_hidden)
        weight_net = WeightNet(*sizes, by_image=fusion == "image") if uses_weight_net else None
        self.text_alignment: TextAlignment | None = None
        if text_weight:
            self.extractor.require("embedding", reader="L_text")
            options = (text_dim, text_head_dim, text_temperature, text_weight, text_negatives)
            self.text_alignment = TextAlignment(self.extractor.embedding_dim, *options)
        if uses_weight_net or text_weight:
            self.prompt_bank = PromptBank(len(multi_view), self.num_classes, text_dim)
        self.teacher = MultiViewTeacher(frozen, multi_view, weight_net, self.prompt_bank if uses_weight_net else None)

        alias_submodule(self, "extractor.network", "student")
        exclude_from_state_dict(self, "teacher.frozen")
        alias_submodule(self, "teacher.weight_net", "weight_net")
        alike = self.distiller.replicated_names("distiller")
        self._ddp_params_and_buffers_to_ignore = parameter_names(self, "teacher.frozen", "prompt_bank") + alike

    def _own_teacher(self, teacher: nn.Module, num_classes: NumClasses, checkpoint: str | None) -> Extractor:
        """Notes which classes the teacher knows, and holds it against the student."""
        self.teacher_classes = learned_classes(teacher) if isinstance(teacher, BaseModule) else []
        extractor = as_extractor(teacher, None)
        if extractor.class_names is not None:
            self.teacher_classes.append(ClassList(NAMED, extractor.class_names))
        if checkpoint is not None and isinstance(extractor, Ensemble):
            raise ValueError(
                "teacher_checkpoint holds the weights of one network, but the teacher is an Ensemble: load each "
                "member's with tmkd_lightning.models.load_weights, and leave teacher_checkpoint out"
            )
        if needs_class_names(extractor):
            extractor.resize_head(self.num_classes)
        elif checkpoint is not None and extractor.class_names is None:
            extractor = as_extractor(extractor, num_classes)
        by_name = bool(self.teacher_classes) or checkpoint is not None
        validation.check_pair(extractor, self.extractor, num_classes != "data", by_name)
        self._set_num_classes(self.extractor.num_classes)  # which may have been measured only now
        return extractor

    @property
    def student(self) -> nn.Module:
        """The bare student."""
        return self.extractor.network

    @property
    def student_extractor(self) -> Extractor:
        """The student as a source of outputs."""
        return self.extractor

    @property
    def views(self) -> MultiView:
        """What the teacher sees of each image."""
        return self.teacher.views

    @property
    def runs_teacher(self) -> bool:
        """Whether training runs the teacher, and does not read all of its outputs from a complete cache."""
        return self.reads_teacher and not (self.teacher_cache is not None and self.teacher_cache.complete)

    # The step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """One step, as in the paper's Fig. 2."""
        images, labels = self.preprocess_training(batch)
        if self._is_degenerate_batch(images):
            if self.teacher.frozen.sharded:  # the other processes run it, and wait for this one
                self.teacher.frozen(images, checked=True)
            return self._zero_loss()
        if len(images) < self.distiller.min_batch:
            validation.warn_small_batch(self.distiller, images=len(images))
        seen, drawn = self.student_views(images)
        teacher = None
        if self.reads_teacher:  # before the student, as it keeps no activations
            teacher, labels = self.teach(images, labels, seen, drawn)
        student = self.extractor(seen, checked=True)
        losses = {"ce": self.ce_weight * cross_entropy(student.logits, labels)}
        if teacher is not None:
            losses |= self.fusion_loss(teacher, labels)
            losses |= self.distiller(student, self.target(teacher), labels)
        if self.text_alignment is not None:
            losses |= self.text_alignment(student.embedding, self.prompt_bank.anchors, labels)
        return self.log_losses(losses)

    def teach(self, images: Tensor, labels: Tensor, seen: Tensor, drawn: Tensor) -> tuple[Output, Tensor]:
        """The teacher's output, fused or for the views `drawn` ``(B,)``, and labels, completed where they lack."""
        if self.same_views is not None and self.teacher.cache is None and not self.labels_lack:
            return self.teacher.frozen(seen, checked=True), labels  # no other views are needed
        outputs = self.teacher.read_or_forward(images)
        labels = self.teacher.complete(labels, outputs)
        if self.same_views is not None:
            return self.teacher.pick(outputs, self.same_views[drawn]), labels
        return self.teacher.fuse(outputs, labels), labels

    def target(self, teacher: Output) -> Output:
        """What the student learns from: detached unless the distillation losses train the WeightNet."""
        return teacher if self.fusion_objective == "distillation" else teacher.map(Tensor.detach)

    def fusion_loss(self, teacher: Output, labels: Tensor) -> dict[str, Tensor]:
        """The WeightNet's own loss term, where it has one; logs the mean weight of each view."""
        weights = self.teacher.mean_weights
        self.log_dict({f"fusion/{view}": weight for view, weight in weights.items()})
        if self.teacher.weight_net is None or self.fusion_objective == "distillation":
            return {}
        return {"fusion": cross_entropy(teacher.logits, labels)}

    def why_labels_needed(self) -> str | None:
        """No reason, where the teacher's answer to the RGB view stands in for a label."""
        if not self.reads_teacher:
            return "no term of the loss reads a teacher, whose answer could stand in for it"
        if "rgb" not in self.teacher.view_names:
            return "the teacher's answer to the view rgb stands in for it, which views leaves out"
        reads_label = self.ce_weight > 0 or self.text_alignment is not None or self.teacher.weight_net is not None
        if self.teacher_lacks_logits and reads_label:
            return (
                "the teacher has no fitted head whose answer could stand in for it: fit one with tmkd probe, or train "
                "on embeddings alone, with ce_weight=0, text_weight=0 and fusion='mean'"
            )
        return self.why_classes_needed()

    def why_classes_needed(self) -> str | None:
        """No reason, unless a method needs one class for each image."""
        needing = [part.method_name for part in self.distiller.parts if part.needs_class]
        return f"{needing[0]} needs one class for each image" if needing else None

    # Around the run

    def extractors(self) -> Iterator[Extractor]:
        """Student, and the teacher where it runs."""
        yield self.extractor
        if self.runs_teacher:
            yield self.teacher.extractor

    def configure_callbacks(self) -> list[Callback]:
        """Adds the text embeddings if something reads them, and a measurement of the teacher."""
        if self.trainer.training and self.reads_teacher:
            if self.teacher_sharded:
                validation.check_sharding(self)
            self.locate_teacher()  # before a TeacherCache asks what decides its outputs
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        self.teacher_cache = next((callback for callback in present if isinstance(callback, TeacherCache)), None)
        if self.distiller.needs_index:
            validation.number_samples(datamodule_of(self.trainer))
        self.teacher.cache = None if self.teacher_cache is None else self.teacher_cache.read_or_compute
        callbacks = super().configure_callbacks()
        if self.prompt_bank is not None and not self.prompt_bank.filled:
            callbacks += self._missing_callbacks([PromptEmbeddings()])
        if self.reads_teacher:
            callbacks += self._missing_callbacks([TeacherAccuracyCheck()])
        return callbacks

    def locate_teacher(self) -> None:
        """Fetches the file of `teacher_checkpoint`, in one process, and takes over its mean, std and image size."""
        if self.teacher_checkpoint is None:
            return
        path = self.teacher_checkpoint = str(local_file(self.teacher_checkpoint))
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no teacher_checkpoint at {path}: is the path right, was the teacher trained?")
        adopt_preprocessing(self.teacher.extractor, path)

    def setup(self, stage: str) -> None:
        """Refuses to train without text embeddings, or with a teacher of other classes."""
        shards = stage == "fit" and self.teacher_sharded and self.runs_teacher
        if shards:
            validation.check_sharding(self)
        super().setup(stage)
        if stage == "fit" and self.distiller.needs_index:
            self.training_images = validation.count_images(self.distiller, datamodule_of(self.trainer))
            validation.build_parts(self.distiller, self.extractor, self.teacher.extractor, self.training_images)
        if stage == "fit" and self.reads_teacher:
            if not self.runs_teacher:  # else read_weights has done so
                self.teacher_order()
            self.teacher_lacks_logits = not self.teacher.extractor.knows_classes
            if self.teacher_lacks_logits:
                net, fusion = self.teacher.weight_net, None
                if net is not None and (net.by_image or self.fusion_objective == "label"):
                    fusion = "image" if net.by_image else "text"
                validation.check_reads_no_logits(self.distiller, self.teacher.extractor, fusion)
            self.distiller.adapt_student(self.extractor, self.teacher.extractor)
        if stage == "fit" and self.prompt_bank is not None and not self.prompt_bank.filled:
            raise ValueError("the text embeddings are missing: add the callback PromptEmbeddings to the trainer")
        if shards and self.trainer.world_size > 1:  # with its weights, and before it is moved to the device
            self.teacher.frozen.shard(self.trainer.strategy.root_device)
        elif shards:
            rank_zero_info("teacher_sharded=True has no effect in one process, which keeps the whole teacher")

    def read_weights(self) -> None:
        """Reads the teacher's weights too, from its checkpoint if there is one; no other stage needs them."""
        complete = False if self.teacher_cache is None else self.teacher_cache.complete  # None: not known yet
        own = self.teacher_checkpoint is None  # a teacher that came with its weights: its head is put in order anyway
        if self.reads_teacher and complete is not None and (own or not complete):
            moved = load_teacher(self, self.teacher_checkpoint, self.teacher_key, datamodule_of(self.trainer))
            if moved is not None:
                rank_zero_warn(moved)
        super().read_weights()

    def teacher_order(self) -> list[int] | None:
        """Row of the teacher's head for each label, where the teacher has the classes in another order."""
        return teacher_order(self, self.teacher_checkpoint, datamodule_of(self.trainer))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tells methods the epoch, and the images where they ask for them.

        Lightning leaves out the hook of the epoch where a run is resumed within it.
        """
        super().on_train_batch_start(batch, batch_idx)
        self.distiller.set_epoch(self.current_epoch)
        if self.distiller.needs_index and self.training_images is not None:
            self.distiller.set_index(torch.from_numpy(self.sample_ids(batch)) % self.training_images)

    def verify_networks(self, images: Tensor) -> None:
        """Verifies also that networks and batch have what the losses need."""
        super().verify_networks(images)
        if self.text_alignment is not None:
            self.extractor.require("embedding", reader="L_text")
        validation.check_needs(self.distiller, list(self.extractors()), images=len(images))

    def resize_classes(self, num_classes: int) -> None:
        """Resizes the teacher's head, which its checkpoint then fills, and the prompt bank too."""
        teacher = self.teacher.extractor
        picked = len(self.teacher_classes) > 0 and teacher.num_classes > num_classes  # by name, in setup
        if self.runs_teacher and teacher.num_classes != num_classes and not picked:
            fixed = self.teacher_checkpoint is None and teacher.knows_classes and not needs_class_names(teacher)
            if fixed and validation.measured_classes(teacher, num_classes) != num_classes:
                raise ValueError(
                    f"teacher {teacher.name} has {teacher.num_classes} classes instead of {num_classes}: a fresh head "
                    "would know nothing; train it on these classes, or fit a head with tmkd probe, and pass it or its "
                    "teacher_checkpoint"
                )
            teacher.resize_head(num_classes)
        changes = num_classes != self.num_classes
        super().resize_classes(num_classes)
        if changes:
            validation.build_parts(self.distiller, self.extractor, teacher)
        if self.prompt_bank is not None:
            self.prompt_bank.resize(num_classes)
