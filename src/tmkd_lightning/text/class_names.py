"""Class names: where they are found, and whether two lists name the same classes in the same order."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np


def check_class_names(names: Sequence[object], num_classes: int | None) -> list[str]:
    """Checks a user's class names and returns them as strings; `num_classes` is None where it is not known yet."""
    if isinstance(names, str):
        raise TypeError(f"class names must be a list, got the word {names!r}")
    not_words = [name for name in names if name is None or isinstance(name, bool)]
    if not_words:
        raise TypeError(f"class names must be words, got {not_words[0]}: put quotes around it in YAML")
    if num_classes is not None and len(names) != num_classes:
        first = f"(first names: {list(names[:3])})"
        raise ValueError(f"{len(names)} class names for a network of {num_classes} classes {first}")
    words = [str(name) for name in names]
    empty = [index for index, word in enumerate(words) if not word.strip()]
    if empty:
        raise ValueError(f"the name of class {empty[0]} is empty: every class needs words of its own")
    twice = sorted(word for word, count in Counter(words).items() if count > 1)
    if twice:
        raise ValueError(f"class names must differ, but {twice[0]!r} stands for several classes")
    return words


def parse_class_names(value: object, num_classes: int) -> list[str] | None:
    """Returns the names if a foreign object lists a different one for each class, else None."""
    if isinstance(value, Mapping) and set(value) == set(range(num_classes)):
        value = [value[label] for label in range(num_classes)]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, (str, int)) for name in value):
        return None
    names = [str(name) for name in value]
    return names if len(set(names)) == len(names) == num_classes else None


def datamodule_of(trainer: Any) -> Any:
    """Returns the datamodule of the running call or None; `trainer.datamodule` may be that of an earlier one."""
    hooks = trainer._data_connector._datahook_selector
    return None if hooks is None else hooks.datamodule


def find_class_names(module: Any, data: object = None) -> list[str] | None:
    """Returns the names of a module's argument, of `data` (by default its datamodule) or of its checkpoint."""
    if data is None and module._trainer is not None:
        data = datamodule_of(module._trainer)
    candidates = (module.class_names, getattr(data, "class_names", None), module.saved_class_names)
    parsed = (parse_class_names(names, module.num_classes) for names in candidates)
    return next((names for names in parsed if names is not None), None)


def names_for_prompts(module: Any, data: object, given: Sequence[object] | None, source: str) -> Sequence[object]:
    """Words for prompts: those given to `source`, which may rename and not reorder, else the module's or the data's."""
    if given is not None:
        words = ClassList(source, [str(name) for name in given])
        for place, known in (("TMKDModule", module.class_names), ("the data", getattr(data, "class_names", None))):
            names = parse_class_names(known, len(words.names))
            check_same_classes([ClassList(place, names)] if names else [], words, None)
        return given
    of_data = (getattr(data, attribute, None) for attribute in ("class_phrases", "class_names"))
    for found in (module.class_names, *of_data, module.saved_class_names):
        if isinstance(found, (list, tuple)):
            return found
    raise ValueError(
        f"no class names to write prompts with: pass TMKDModule(class_names=...), {source}(class_names=...), or a "
        "datamodule with a class_names property"
    )


def resolve_class_names(
    num_classes: int,
    given: Sequence[object] | None = None,
    known: Sequence[str] | None = None,
    source: str = "the checkpoint",
) -> list[str]:
    """Returns the given names, which may rename the known ones but not reorder them, else those, else numbers."""
    if given is None:
        return check_class_names(range(num_classes) if known is None else known, num_classes)
    names = check_class_names(given, num_classes)
    if known is not None:
        check_same_classes([ClassList(source, known)], ClassList("the names given", names), None)
    return names


class ClassList(NamedTuple):
    """Class names in the order of the labels, and their source, for messages."""

    source: str
    names: Sequence[str]

    def same(self, other: ClassList) -> bool:
        """Whether both are equal but for case, blanks and underscores."""
        ours, theirs = self._normalized(other)
        return ours == theirs

    def reorders(self, other: ClassList) -> bool:
        """Whether a name in both lists has different labels."""
        ours, theirs = self._normalized(other)
        label_of = {name: label for label, name in enumerate(theirs)}
        return any(label_of.get(name, label) != label for label, name in enumerate(ours))

    def rows_for(self, other: ClassList) -> list[int] | None:
        """Label here of each class of the other list, or None if some are not here."""
        ours, theirs = self._normalized(other)
        label_of = {name: label for label, name in enumerate(ours)}
        return [label_of[name] for name in theirs] if label_of.keys() >= set(theirs) else None

    def lacks(self, other: ClassList) -> list[str]:
        """Names of the other list that are not here."""
        ours, theirs = self._normalized(other)
        return [name for name, normalized in zip(other.names, theirs, strict=True) if normalized not in ours]

    def reordered(self, rows: Sequence[int]) -> ClassList:
        """The same names in the order of `rows`."""
        return ClassList(self.source, [self.names[row] for row in rows])

    def against(self, other: ClassList) -> str:
        """Describes the first differences, as in "class 0 is 'cat' in the checkpoint and 'crow' in the data"."""
        pairs = zip(*self._normalized(other), strict=True)
        labels = [label for label, (ours, theirs) in enumerate(pairs) if ours != theirs]
        described = [
            f"class {label} is {self.names[label]!r} in {self.source} and {other.names[label]!r} in {other.source}"
            for label in labels[:2]
        ]
        return ", ".join(described) + f" (and {len(labels) - len(described)} more)" * (len(labels) > len(described))

    def _normalized(self, other: ClassList) -> tuple[list[str], list[str]]:
        """Names without differences of spelling, unless two classes of a list differ by spelling alone."""
        ours, theirs = ([_normalize(name) for name in each.names] for each in (self, other))
        if len(set(ours)) < len(ours) or len(set(theirs)) < len(theirs):
            return list(self.names), list(other.names)
        return ours, theirs


def _normalize(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def check_same_classes(learned: Sequence[ClassList], given: ClassList | None, data: ClassList | None) -> None:
    """Refuses data whose labels mean other classes than the network has learned; `given` names may rename these."""
    known = [*learned, *([given] if given else [])]
    pairs = [*product(known, [data] if data else []), *product(learned, [given] if given else [])]
    for one, other in pairs:
        if one.reorders(other):
            raise ValueError(
                f"the class names stand in another order: {one.against(other)}; labels would be taken for other "
                "classes: name and sort them as they were in training"
            )
    if data and learned and not any(one.same(data) for one in known):
        raise ValueError(
            f"the class names differ: {learned[-1].against(data)}; use the data's names of the training, or, if "
            "these are other names of the same classes, pass them to the module: class_names=[...]"
        )


def learned_classes(module: Any) -> list[ClassList]:
    """Class names of a module's checkpoint and of its training, where they are known."""
    source = "training" if module.saved_class_names is None else "the checkpoint"
    known = (module.saved_class_names, module.trained_class_names)
    parsed = (parse_class_names(names, module.num_classes) for names in known)
    return [ClassList(source, names) for names in parsed if names is not None]


def given_classes(module: Any) -> ClassList | None:
    """Class names of a module's argument."""
    names = parse_class_names(module.class_names, module.num_classes)
    return None if names is None else ClassList("the argument class_names", names)


def data_classes(module: Any, data: object) -> ClassList | None:
    """Class names of a datamodule (``class_names``) or a dataset (``classes``, as in torchvision)."""
    for attribute in ("class_names", "classes"):
        names = parse_class_names(getattr(data, attribute, None), module.num_classes)
        if names is not None:
            return ClassList("the data", names)
    return None


def check_module_classes(module: Any, data: object) -> None:
    """Applies `check_same_classes` to a module and a datamodule."""
    check_same_classes(learned_classes(module), given_classes(module), data_classes(module, data))
