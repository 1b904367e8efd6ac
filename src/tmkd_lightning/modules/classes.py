"""How many classes there are, where not the networks but a number or the data decide."""

from __future__ import annotations

from typing import Any, Literal

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.modules.checks import classes_of
from tmkd_lightning.modules.metrics import LoaderMetrics
from tmkd_lightning.text.class_names import datamodule_of

NumClasses = int | Literal["data"] | None


def check_num_classes(num_classes: object) -> None:
    """Refuses what cannot say how many classes there are."""
    if num_classes in (None, "data") or (type(num_classes) is int and num_classes >= 1):
        return
    raise ValueError(f"num_classes must be a number from 1 on, 'data' or None, got {num_classes!r}")


def resize(module: Any, num_classes: int) -> None:
    """Gives networks made for another number of classes fresh heads, and everything else the new size.

    Args:
        module: a module of ours, before it has an optimizer.
        num_classes: K.

    Raises:
        ValueError: the teacher has other classes, and no checkpoint that would fill a fresh head.
    """
    extractors = list(module.extractors())
    if module.num_classes == num_classes and all(one.num_classes == num_classes for one in extractors):
        return  # also keeps texts that are already there
    for extractor in extractors:
        if extractor is not module.extractor and module.teacher_checkpoint is None:
            check_teacher(extractor, num_classes)
        extractor.resize_head(num_classes)
    module.num_classes = num_classes
    module.val_metrics = LoaderMetrics(num_classes, "val/")
    module.test_metrics = LoaderMetrics(num_classes, "test/")
    if module.prompt_bank is not None:
        module.prompt_bank.resize(num_classes)


def check_teacher(teacher: Extractor, num_classes: int) -> None:
    """Refuses to put a random head on a teacher that nothing will be loaded into.

    Raises:
        ValueError: it was made for another number of classes.
    """
    if classes_of(teacher, num_classes) != num_classes:
        raise ValueError(
            f"teacher {teacher.name} has {teacher.num_classes} classes instead of {num_classes}: a fresh head would "
            "know nothing; train it on these classes, and pass it or its teacher_checkpoint"
        )


def of_data(trainer: Any) -> int:
    """Asks the datamodule.

    Raises:
        ValueError: there is none, or it does not say.
    """
    classes: int | None = getattr(datamodule_of(trainer), "num_classes", None)  # a foreign one may lack it
    if classes is None:
        raise ValueError(
            "num_classes='data' takes the number of classes from the datamodule, but there is none with a num_classes "
            "property: give the number"
        )
    return classes


def take_classes(module: Any, num_classes: int, attached: bool) -> None:
    """Takes the number of classes from a checkpoint, unless the data have already been asked.

    Raises:
        ValueError: the data have another number.
    """
    if not attached:
        resize(module, num_classes)
    elif module.num_classes != num_classes:
        raise ValueError(
            f"the checkpoint was made for {num_classes} classes, but the data have {module.num_classes}: are they the "
            "data that it was trained on?"
        )
