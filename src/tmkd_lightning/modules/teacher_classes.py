"""What the classes of a teacher's file are called, and its head in the order of the data's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tmkd_lightning.modules.hyperparameters import CLASS_NAMES, TRAINED_CLASS_NAMES
from tmkd_lightning.text.class_names import (
    ClassList,
    data_classes,
    given_classes,
    learned_classes,
    parse_class_names,
)
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint, read_metadata


def teacher_order(module: Any, path: str | Path | None, data: object) -> list[int] | None:
    """Where in a teacher's head the classes stand that a student learns.

    Args:
        module: the student's.
        path: file with the teacher's weights; None if the teacher came with its own.
        data: the student's datamodule, or None.

    Returns:
        Row of the teacher's head for each label of the student; None where it has them in order or nobody knows.

    Raises:
        ValueError: the teacher knows other classes.
    """
    resumed = module._trainer is not None and module._trainer.training and module._trainer.ckpt_path
    learned = reversed(learned_classes(module)) if resumed or module._trainer is None else ()
    # The most trusted first: what is on the disk, what the user says, what the student's checkpoint knew.
    ours = [each for each in (data_classes(module, data), given_classes(module), *learned) if each is not None]
    theirs = _names_of(module, path) if ours else []
    for here in ours:
        for there in theirs:
            rows = there.rows_for(here)
            if rows is not None:
                return None if rows == sorted(rows) else rows
    if ours and theirs:
        where = "" if path is None else f"{path}: "
        raise ValueError(
            f"{where}the teacher knows other classes than the student learns: {theirs[0].against(ours[0])}; take a "
            "teacher of these classes, or, if they are other names of the same ones, say so with class_names=[...], "
            "the teacher's names in the order of the data"
        )
    return None


def describe_order(teacher: str, rows: Sequence[int]) -> str:
    """Says that a head is put in another order."""
    moved = sum(row != label for label, row in enumerate(rows))
    return (
        f"{teacher} has the classes of the data in another order: the teacher's head is put in that of the data, "
        f"{moved} of {len(rows)} classes move"
    )


def _names_of(module: Any, path: str | Path | None) -> list[ClassList]:
    """What the teacher calls its classes, as its file or the module that it came in says."""
    if path is None:
        return list(module.teacher_classes)
    return [ClassList("the teacher's file", names) for names in _names_in(Path(path), module)]


def _names_in(path: Path, module: Any) -> Iterable[list[str]]:
    """What the data of the teacher's training called the classes, and what its file does, where it is one of ours."""
    if path.suffix == ".safetensors":
        names = [read_metadata(path).get("class_names")]
    else:
        content = read_checkpoint(path, tensors=False)
        keys = (TRAINED_CLASS_NAMES, CLASS_NAMES) if isinstance(content, Mapping) else ()
        names = [content.get(key) for key in keys]
    fitting = (parse_class_names(each, module.num_classes) for each in names)
    numbers = [str(label) for label in range(module.num_classes)]  # as exports call classes without names
    return [each for each in fitting if each is not None and each != numbers]
