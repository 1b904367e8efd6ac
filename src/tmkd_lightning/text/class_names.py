"""Whether a network, its file and the data name the same classes in the same order."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from tmkd_lightning.text.prompts import fitting_names

_SHOWN = 2  # classes that a message names


class ClassList(NamedTuple):
    """Names of classes, and who says so.

    Args:
        source: for messages, as in "class 0 is 'cat' in <source>".
        names: in the order of the labels.
    """

    source: str
    names: Sequence[str]

    def same(self, other: ClassList) -> bool:
        """Whether both are alike but for capitals, blanks and underscores."""
        return not _differing(self, other)

    def reorders(self, other: ClassList) -> bool:
        """Whether a name of both stands for another label in the other one."""
        ours, theirs = _spelt_alike(self, other)
        place = {name: label for label, name in enumerate(theirs)}
        return any(place.get(name, label) != label for label, name in enumerate(ours))

    def rows_for(self, other: ClassList) -> list[int] | None:
        """Label here of each class there, or None where they are other classes."""
        ours, theirs = _spelt_alike(self, other)
        place = {name: label for label, name in enumerate(ours)}
        return [place[name] for name in theirs] if place.keys() == set(theirs) else None

    def reordered(self, rows: Sequence[int]) -> ClassList:
        """The same names where each label has the one at its row."""
        return ClassList(self.source, [self.names[row] for row in rows])

    def against(self, other: ClassList) -> str:
        """Names the first classes that are called otherwise in the other one."""
        differing = _differing(self, other)
        told = [
            f"class {label} is {self.names[label]!r} in {self.source} and {other.names[label]!r} in {other.source}"
            for label in differing[:_SHOWN]
        ]
        more = f" (and {len(differing) - _SHOWN} more)" if len(differing) > _SHOWN else ""
        return ", ".join(told) + more


def check_same_classes(learned: Sequence[ClassList], given: ClassList | None, data: ClassList | None) -> None:
    """Refuses data whose labels stand for other classes than those that a network has learned.

    Args:
        learned: what the network's file calls its classes, in one way or several.
        given: what the user calls them, which may be other words for the same classes.
        data: what the data call them.

    Raises:
        ValueError: a name stands for two labels; or the data's are none of the names that are known.

    Example:
        >>> learned = [ClassList("the checkpoint", ["cat", "dog"])]
        >>> check_same_classes(learned, None, ClassList("the data", ["Cat", "dog"]))
        >>> check_same_classes(learned, None, ClassList("the data", ["crow", "dog"]))
        Traceback (most recent call last):
        ValueError: the class names differ: class 0 is 'cat' in the checkpoint and 'crow' in the data; ...
    """
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
            f"the class names differ: {learned[-1].against(data)}; use the data's names of the training, or, if these "
            "are other names of the same classes, pass them to the module: class_names=[...]"
        )


def learned_classes(module: Any) -> list[ClassList]:
    """What the checkpoint that a module comes from, or its own training, called the classes.

    Args:
        module: a module of ours.
    """
    known = (module.saved_class_names, module.trained_class_names)
    source = "training" if module.saved_class_names is None else "the checkpoint"
    fitting = (fitting_names(names, module.num_classes) for names in known)
    return [ClassList(source, names) for names in fitting if names is not None]


def given_classes(module: Any) -> ClassList | None:
    """What a module's argument calls the classes."""
    names = fitting_names(module.class_names, module.num_classes)
    return None if names is None else ClassList("the argument class_names", names)


def data_classes(module: Any, data: object) -> ClassList | None:
    """What a datamodule or a dataset calls the classes, if it names as many as a module has.

    Args:
        module: a module of ours.
        data: a datamodule with ``class_names``, a dataset with ``classes`` as torchvision's have, or None; a foreign
            one may have something else by these names.
    """
    for attribute in ("class_names", "classes"):
        names = fitting_names(getattr(data, attribute, None), module.num_classes)
        if names is not None:
            return ClassList("the data", names)
    return None


def check_module_classes(module: Any, data: object) -> None:
    """Refuses data whose labels stand for other classes than those that a module has learned.

    Args:
        module: a module of ours.
        data: a datamodule, or None.

    Raises:
        ValueError: as `check_same_classes`.
    """
    check_same_classes(learned_classes(module), given_classes(module), data_classes(module, data))


def _differing(one: ClassList, other: ClassList) -> list[int]:
    pairs = zip(*_spelt_alike(one, other), strict=True)
    return [label for label, (ours, theirs) in enumerate(pairs) if ours != theirs]


def _spelt_alike(one: ClassList, other: ClassList) -> tuple[list[str], list[str]]:
    """Names without what is a matter of spelling, unless a list tells its classes apart by that."""
    plain = [[_plain(name) for name in each.names] for each in (one, other)]
    if all(len(set(names)) == len(names) for names in plain):
        return plain[0], plain[1]
    return list(one.names), list(other.names)


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())
