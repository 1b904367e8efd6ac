"""Checks of a module's networks, arguments and data."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmkd_lightning.callbacks import Figures
from tmkd_lightning.distillers import Distiller, FeatureKL, Sum
from tmkd_lightning.feature_extraction.ensemble import Ensemble
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models.zero_shot import ZeroShotCLIP
from tmkd_lightning.teacher.sharding import check_torch
from tmkd_lightning.text.class_names import datamodule_of
from tmkd_lightning.utils.distributed import world_size
from tmkd_lightning.utils.drawn_parameters import split_parameters
from tmkd_lightning.views import MultiView

_NOT_DDP = (DeepSpeedStrategy, XLAStrategy)  # though Lightning derives them from it
_ASKING_ALONE = (Figures, WeightAveraging, StochasticWeightAveraging)


def _holds_clip(extractor: Extractor) -> bool:
    return any(isinstance(part, ZeroShotCLIP) for part in extractor.network.modules())


def _warn_of_short_embeddings(teacher: Extractor) -> None:
    """Warns where L_feat would read the embeddings of a CLIP."""
    if _holds_clip(teacher):
        rank_zero_warn(
            "the embeddings of a ZeroShotCLIP have length 1, so L_feat compares little but its own noise: set "
            "feature_weight=0"
        )


def check_pair(teacher: Extractor, student: Extractor, same_classes: bool, by_name: bool) -> None:
    """Refuses a teacher and a student that share weights or have different classes, and a student that is frozen.

    A head of the teacher that is not fitted yet gets the student's classes. A teacher may have more classes than the
    student if names tell, in setup, which of them are the student's.
    """
    if {id(parameter) for parameter in teacher.parameters()} & {id(parameter) for parameter in student.parameters()}:
        raise ValueError("teacher and student share weights: freezing one would freeze the other, pass a deepcopy")
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(f"student {student.name} has nothing to train: call requires_grad_(True) on it")
    if not teacher.knows_classes:
        teacher.resize_head(student.num_classes)
    if not same_classes:
        return
    if teacher.num_classes != student.num_classes:
        student.measure_classes()
    classes = measured_classes(teacher, student.num_classes)
    if classes != student.num_classes and not (by_name and classes > student.num_classes):
        if _holds_clip(teacher):
            raise ValueError(
                f"teacher {teacher.name} has {classes} class names, but student {student.name} has "
                f"{student.num_classes} classes: give ZeroShotCLIP(class_names=...) one name for each class, in the "
                "order of the labels, or none, for those of the data"
            )
        raise ValueError(
            f"teacher {teacher.name} has {teacher.num_classes} classes, student {student.name} has "
            f"{student.num_classes}, read off their heads {teacher.head_name!r} and {student.head_name!r}: if another "
            "layer is the head, name it with Extractor(network, head=...), if none is, say num_classes=... there; of a "
            "teacher that knows more classes, the data's are picked by name: Extractor(network, class_names=[...]); a "
            "network that gives embeddings goes into tmkd_lightning.models.Probe"
        )


def measured_classes(teacher: Extractor, expected: int) -> int:
    """Number of a teacher's classes; if it is not the expected one, the layer taken for its head may be none."""
    if teacher.num_classes != expected:
        teacher.measure_classes()
    return teacher.num_classes


def same_views(student: MultiView, teacher: MultiView, target: str) -> Tensor | None:
    """For each of the student's views its index among the teacher's; None where the target is fused."""
    if target == "fused":
        return None
    missing = [name for name in student.names if name not in teacher.names]
    if missing:
        raise ValueError(
            f"student_target='same_view' needs the teacher's answer to {missing}, which views leaves out: it has "
            f"{list(teacher.names)}"
        )
    return torch.tensor([teacher.names.index(name) for name in student.names])


def check_fusion(fusion: str, views: MultiView) -> None:
    """Refuses an unknown fusion; warns where what was asked for has nothing to weigh."""
    check_choice("fusion", fusion, ["text", "image", "mean"])
    if fusion == "image" and len(views) == 1:
        rank_zero_warn(
            f"fusion='image' weighs several views, and views has {views.names[0]!r} alone: name more of them, such as "
            "views=['rgb', 'edge', 'high_frequency'], or leave fusion out"
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuses a word that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def weight_beside(distiller: Distiller | None, logit_weight: float | None) -> float:
    """The weight of L_logit: as given, else 0 where the distiller is itself the logit term, else 1."""
    if distiller is not None and not isinstance(distiller, Distiller):
        raise TypeError(f"distiller must be a Distiller, got {type(distiller).__name__}")
    if logit_weight is not None:
        return logit_weight
    return 0.0 if distiller is not None and distiller.is_logit_term else 1.0


def check_device(name: str, device: str | torch.device | None) -> None:
    """Refuses what is no device, or one that this machine lacks."""
    if device is None:
        return
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{name} must be a device such as cpu, cuda or cuda:1, got {device!r}") from error
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA asserts
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(f"{name}={str(device)!r} cannot be used here: choose from {there}") from error


def check_teacher_place(device: str | torch.device | None, dtype: str | None, sharded: bool, compile: bool) -> None:
    """Checks the arguments that say where and in what dtype the teacher is kept."""
    check_device("teacher_device", device)
    if dtype is not None:
        check_choice("teacher_dtype", dtype, ["float32", "float16", "bfloat16"])
    if not sharded:
        return
    check_torch()
    for name, given in (("teacher_device", device is not None), ("compile", compile)):
        if given:
            raise ValueError(f"{name} does not go with teacher_sharded=True: leave one of the two out")


def check_sharding(module: Any) -> None:
    """Refuses a run in which some process would run a teacher that is split over all of them, and others not."""
    trainer, cache = module.trainer, module.teacher_cache
    if module.teacher.frozen.sharded:
        raise ValueError("the teacher is still split over the processes of an earlier run: build the module anew")
    if trainer.world_size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy) or isinstance(trainer.strategy, _NOT_DDP):
        kind = type(trainer.strategy).__name__
        raise ValueError(f"teacher_sharded=True goes with strategy='ddp', got {kind}: take that, or leave it out")
    asking = [each for each in trainer.callbacks if isinstance(each, _ASKING_ALONE)]
    if asking:
        raise ValueError(
            f"{type(asking[0]).__name__} copies the teacher or runs it in one process alone, but teacher_sharded=True "
            "splits it over all of them: leave one of the two out"
        )
    if cache is not None and cache.complete is False:  # None: not known yet
        raise ValueError(
            "some processes would read the TeacherCache while others run the teacher, which teacher_sharded=True "
            "splits over all of them: fill it first, with tmkd cache fill, or leave one of the two out"
        )


def check_all(check: Callable[[str, Any], object], **arguments: object) -> None:
    """Checks arguments by their names; None stands for a default."""
    for name, value in arguments.items():
        if value is not None:
            check(name, value)


def check_arguments(num_classes: object, optimizer: object, lr_scheduler: object) -> None:
    """Refuses what is no number of classes, and an optimizer or a scheduler instead of a function that makes it."""
    if num_classes not in (None, "data") and not (type(num_classes) is int and num_classes >= 1):
        raise ValueError(f"num_classes must be a number from 1 on, 'data' or None, got {num_classes!r}")
    if not callable(optimizer):
        raise TypeError(f"optimizer must be a function from parameter groups to an optimizer, got {optimizer!r}")
    if lr_scheduler is not None and not callable(lr_scheduler):
        raise TypeError(f"lr_scheduler must be a function from an optimizer to a scheduler, got {lr_scheduler!r}")


def build_parts(distiller: Sum, student: Extractor, teacher: Extractor, training_images: int | None = None) -> None:
    """Has the methods make the layers that depend on what the networks give; refuses networks that lack it.

    Where the number of training images is told, only methods that need it are asked.
    """
    parts = [part for part in distiller.parts if training_images is None or part.needs_index]
    for part in parts:
        for name in sorted(part.reads & {"embedding", "maps"}):
            for extractor in (student, teacher):
                extractor.require(name, reader=part.method_name)
        if isinstance(part, FeatureKL):
            _warn_of_short_embeddings(teacher)
        if "maps" in part.reads:
            student.match_maps(teacher)
            teacher.match_maps(student)
        part.build(*(replace(one.spec, training_images=training_images) for one in (student, teacher)))


def number_samples(data: Any) -> None:
    """Asks a datamodule of ours that its training batches say which images they hold."""
    ask = getattr(data, "number_samples", None)  # a foreign one may say so by itself
    if ask is not None:
        ask()


def count_images(distiller: Sum, data: Any) -> int:
    """Number of training images, for a method that needs it."""
    count = getattr(data, "training_images", None)
    if not isinstance(count, int):
        reader = next(part.method_name for part in distiller.parts if part.needs_index)
        raise ValueError(
            f"{reader} must know how many training images there are, and which ones a batch holds: take a datamodule "
            "of tmkd_lightning, or give yours a property training_images, and batches (images, labels, places)"
        )
    return count


def check_reads_no_logits(distiller: Sum, teacher: Extractor, fusion: str | None) -> None:
    """Refuses what reads the logits of a teacher whose head is not fitted; `fusion` is the one that does, if any."""
    readers = [part.method_name for part in distiller.parts if part.reads_logits or "head_weight" in part.reads]
    readers += [] if fusion is None else [f"fusion='{fusion}'"]
    if readers:
        remedy = "fit one with tmkd probe and name its file in teacher_checkpoint"
        if isinstance(teacher, Ensemble):
            remedy = "fit its members' with tmkd probe, one by one, and read them with load_weights"
        raise ValueError(
            f"{', '.join(readers)} would read the logits of {teacher.name}, which has no fitted head: {remedy}, or "
            "train on embeddings alone, with logit_weight=0, methods that read no logits (RKD, SP, PKT, AT, NST, "
            "FitNet, VID, ReviewKD, CRD, VkD, QueueKL) and fusion='mean'"
        )


def check_needs(distiller: Sum, extractors: Sequence[Extractor], images: int) -> None:
    """Refuses networks without the parts that the methods read, and batches too small for them."""
    for part in distiller.parts:
        for extractor in extractors:
            for name in sorted(part.reads):
                extractor.require(name, reader=part.method_name)
        if compared_images(part, images) < part.min_batch:
            together = f" and those of all processes {compared_images(part, images)}" if part.gather else ""
            raise ValueError(
                f"{part.method_name} compares the images of a batch with each other, but training batches hold "
                f"{images} on each device{together}: use a batch_size of at least {part.min_batch}"
            )


def warn_small_batch(distiller: Sum, images: int) -> None:
    """Warns of a last batch too small for a method, whose loss is 0 there."""
    for part in distiller.parts:
        if compared_images(part, images) < part.min_batch:
            rank_zero_warn(
                f"a training batch of {images} is too small for {part.method_name}, which compares images with each "
                "other: its loss is 0 there; drop_last=True avoids it"
            )


def compared_images(distiller: Distiller, images: int) -> int:
    """How many images a method compares, where each process has a batch of some."""
    return images * world_size() if distiller.gather else images


def check_data_classes(trainer: Trainer, extractor: Extractor) -> None:
    """Refuses a datamodule with another number of classes than the network."""
    classes = getattr(datamodule_of(trainer), "num_classes", None)  # a foreign one may lack it
    if classes is None or classes == extractor.num_classes:
        return
    remedy = f"build it with num_classes={classes}"
    if any(isinstance(part, ZeroShotCLIP) and part.class_names for part in extractor.network.modules()):
        remedy = f"give ZeroShotCLIP(class_names=...) one name for each of the {classes} classes, or none"
    elif trainer.state.fn != TrainerFn.FITTING:
        remedy = "name data with the classes that it was trained on"
    raise ValueError(
        f"the data has {classes} classes, but {extractor.role}{extractor.name} was built for "
        f"{extractor.num_classes}: {remedy}"
    )


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a network cannot train on a single image."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def describe(batch: Any) -> str:
    """Describes a batch in messages."""
    if isinstance(batch, dict):
        return f"a dict with the keys {list(batch)}"
    if isinstance(batch, (list, tuple)) and len(batch) <= 4:
        return f"a {type(batch).__name__} ({', '.join(type(part).__name__ for part in batch)})"
    return f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (list, tuple)) else "")


def how_to_unpack(batch: Any) -> str:
    """What to do about a batch that is not ``(images, labels)``."""
    if split_parameters(batch)[1] is not None:
        return "its device_augmentations are not done yet: hand the datamodule to the trainer, not its loader"
    parts = list(batch.values()) if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else [batch]
    if len(parts) == 2 and isinstance(parts[1], (list, tuple)) and parts[1] and isinstance(parts[1][0], str):
        return f"labels are words such as {parts[1][0]!r}; hand over their places in class_names, as integers"
    if any(isinstance(part, np.ndarray) for part in parts):
        return "make tensors of arrays in the collate_fn, or override unpack(self, batch) to return the two as tensors"
    if parts and all(isinstance(part, (list, tuple)) for part in parts):
        return "a batch of several loaders; override unpack(self, batch) to concatenate them, or to take one"
    return "override unpack(self, batch) to return the two"
