"""What the classes of a teacher's file are called, and its head in the order of the data's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tmkd_lightning.class_order import ClassList, data_classes, given_classes, learned_classes
from tmkd_lightning.modules.state import CLASS_NAMES, TRAINED_CLASS_NAMES
from tmkd_lightning.prompts import fitting_names
from tmkd_lightning.safe_files import read_checkpoint, read_metadata


def teacher_order(module: Any, path: str | Path, data: object) -> list[int] | None:
    """Where in a teacher's file the classes stand that a student learns.

    Args:
        module: the student's.
        path: file with the teacher's weights.
        data: the student's datamodule, or None.

    Returns:
        Row of the teacher's head for each label of the student; None where they agree or nobody knows.

    Raises:
        ValueError: the file names other classes.
    """
    given = (data_classes(module, data), given_classes(module), *reversed(learned_classes(module)))
    ours = [each for each in given if each is not None]
    theirs = [ClassList("the teacher's file", names) for names in _names_in(Path(path), module)] if ours else []
    pairs = list(product(theirs, ours))
    for file, here in pairs:
        if file.reorders(here):
            rows = file.rows_for(here)
            if rows is None:
                raise ValueError(f"{path}: {_refusal(file, here)}")
            return rows
    if pairs and not any(file.same(here) for file, here in pairs):
        raise ValueError(f"{path}: {_refusal(*pairs[0])}")
    return None


def describe_order(path: str | Path, rows: Sequence[int]) -> str:
    """Says aloud that a head is put in another order."""
    moved = sum(row != label for label, row in enumerate(rows))
    return (
        f"{path} has the classes of the data in another order: the teacher's head is put in that of the data, "
        f"{moved} of {len(rows)} classes move"
    )


def _names_in(path: Path, module: Any) -> Iterable[list[str]]:
    """What the data of the teacher's training called the classes, and what its file does, where it is one of ours."""
    if path.suffix == ".safetensors":
        names = [json.loads(read_metadata(path).get("class_names", "null"))]
    else:
        content = read_checkpoint(path, tensors=False)
        keys = (TRAINED_CLASS_NAMES, CLASS_NAMES) if isinstance(content, Mapping) else ()
        names = [content.get(key) for key in keys]
    fitting = (fitting_names(each, module.num_classes) for each in names)
    numbers = [str(label) for label in range(module.num_classes)]  # as exports call classes without names
    return [each for each in fitting if each is not None and each != numbers]


def _refusal(file: ClassList, here: ClassList) -> str:
    return (
        f"the teacher knows other classes than the student learns: {file.against(here)}; take a teacher of these "
        "classes, or, if they are other names of the same ones, say so with class_names=[...], the teacher's names in "
        "the order of the data"
    )
