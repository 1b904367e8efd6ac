"""Words for views and classes: the prompts of the paper's Table 1 and the bank of their embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLACEHOLDER = "{class}"

TEMPLATES = {
    "rgb": "a photo of a {class}",
    "edge": "an edge enhanced image of a {class}",
    "high_frequency": "a high-frequency enhanced image of a {class}",
}
"""Prompt template of each built-in view (Table 1)."""

ANCHOR_TEMPLATE = TEMPLATES["rgb"]
"""Prompt template of the anchors of Eq. 10, whatever the views."""


def check_template(template: str) -> None:
    """Refuses a template that does not say where the class goes.

    Raises:
        ValueError: the template has no ``{class}``.

    Example:
        >>> check_template("a photo of a {class}")
    """
    if PLACEHOLDER not in template:
        raise ValueError(f"prompt template {template!r} has no {PLACEHOLDER}: nothing would tell the classes apart")


def check_class_names(names: Sequence[object], num_classes: int | None) -> list[str]:
    """Gives class names as words, and refuses those that cannot stand for the classes.

    Args:
        names: class names in the order of the labels; numbers, as YAML makes of digits, are taken as they are written.
        num_classes: how many the networks have; None where nobody knows yet.

    Returns:
        The names.

    Raises:
        TypeError: one word instead of a list, or a name that YAML has taken for no word.
        ValueError: another number of names, an empty name, or a name given twice.

    Example:
        >>> check_class_names(["cat", 2], num_classes=2)
        ['cat', '2']
    """
    if isinstance(names, str):
        raise TypeError(f"class names must be a list, got the word {names!r}")
    strange = [name for name in names if name is None or isinstance(name, bool)]
    if strange:
        raise TypeError(f"class names must be words, got {strange[0]}: put quotes around it in YAML")
    if num_classes is not None and len(names) != num_classes:
        raise ValueError(
            f"{len(names)} class names for a network of {num_classes} classes (first names: {list(names[:3])})"
        )
    words = [str(name) for name in names]
    empty = [index for index, word in enumerate(words) if not word.strip()]
    if empty:
        raise ValueError(f"the name of class {empty[0]} is empty: every class needs words of its own")
    twice = sorted(word for word, count in Counter(words).items() if count > 1)
    if twice:
        raise ValueError(f"class names must differ, but {twice[0]!r} stands for several classes")
    return words


def known_class_names(module: Any, data: object, phrases: bool = False) -> Iterator[list[str]]:
    """Looks up what the classes are called: by the module's argument, the datamodule, or the checkpoint it came from.

    Args:
        module: a module of ours, with `class_names` and `saved_class_names`, each of which may be None.
        data: a datamodule, or None; a foreign one may lack names, or have something else by that name.
        phrases: whether the datamodule's `class_phrases` come before its `class_names`, as prompts want.

    Yields:
        Names in the order of the labels, the most trusted first; nobody has checked how many there are.

    Example:
        >>> from types import SimpleNamespace
        >>> module = SimpleNamespace(class_names=None, saved_class_names=["cat", "dog"])
        >>> list(known_class_names(module, SimpleNamespace(class_names=("a", "b"))))
        [['a', 'b'], ['cat', 'dog']]
    """
    of_data = ("class_phrases", "class_names") if phrases else ("class_names",)
    for names in (module.class_names, *(getattr(data, name, None) for name in of_data), module.saved_class_names):
        if isinstance(names, (list, tuple)):
            yield [str(name) for name in names]


def fitting_class_names(module: Any, data: object = None) -> list[str] | None:
    """The first names of as many classes as a module has, see `known_class_names`.

    Args:
        module: a module of ours.
        data: a datamodule; None for that of the module's trainer, if it has one.

    Returns:
        Names in the order of the labels, or None where nobody has as many as there are classes.

    Example:
        >>> from types import SimpleNamespace
        >>> module = SimpleNamespace(class_names=None, saved_class_names=["cat", "dog"], num_classes=2)
        >>> fitting_class_names(module, SimpleNamespace(class_names=["a", "b", "c"]))
        ['cat', 'dog']
    """
    if data is None and module._trainer is not None:
        data = datamodule_of(module._trainer)
    return next((names for names in known_class_names(module, data) if len(names) == module.num_classes), None)


def datamodule_of(trainer: Any) -> Any:
    """The datamodule of the call that runs, or None; `trainer.datamodule` may be that of an earlier one."""
    hooks = trainer._data_connector._datahook_selector
    return None if hooks is None else hooks.datamodule


def fitting_names(names: object, num_classes: int) -> list[str] | None:
    """Gives names if there is another for each class, else None; a foreign datamodule's may be anything.

    Args:
        names: of classes, perhaps.
        num_classes: K.

    Example:
        >>> fitting_names(("cat", 2), num_classes=2), fitting_names(5, num_classes=2)
        (['cat', '2'], None)
        >>> fitting_names({1: "dog", 0: "cat"}, num_classes=2)
        ['cat', 'dog']
    """
    if isinstance(names, Mapping) and set(names) == set(range(num_classes)):
        names = [names[label] for label in range(num_classes)]
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, int)) for name in names):
        return None
    words = [str(name) for name in names]
    return words if len(set(words)) == len(words) == num_classes else None


def names_or_numbers(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Gives class names, or where nobody knows them the numbers of the classes.

    Args:
        names: in the order of the labels, or None.
        num_classes: K.

    Example:
        >>> names_or_numbers(None, num_classes=2)
        ['0', '1']
    """
    return [str(number) for number in range(num_classes)] if names is None else list(names)


def prompts_of(template: str, names: Sequence[str]) -> list[str]:
    """Writes a view's prompt for each class.

    Args:
        template: text with ``{class}`` in it; other braces are kept as they are, in the names too.
        names: class names or phrases.

    Returns:
        One prompt for each name.

    Example:
        >>> prompts_of("a photo of a {class}", ["cat", "{dog}"])
        ['a photo of a cat', 'a photo of a {dog}']
    """
    check_template(template)
    return [template.replace(PLACEHOLDER, name) for name in names]


def view_templates(views: Mapping[str, str], replacement: Mapping[str, str] | str | None) -> dict[str, str]:
    """Decides on each view's template.

    Args:
        views: template of each view by its name, in order.
        replacement: templates by view name to use instead, or one for all; None keeps the views' own.

    Returns:
        Template of each view by its name, in the same order.

    Raises:
        ValueError: a replacement for a view that is not there, or without ``{class}``.

    Example:
        >>> view_templates({"rgb": "a photo of a {class}"}, "a {class}")
        {'rgb': 'a {class}'}
    """
    if isinstance(replacement, str):
        replacement = dict.fromkeys(views, replacement)
    replacement = replacement or {}
    strangers = sorted(set(replacement) - set(views))
    if strangers:
        raise ValueError(f"templates name the view {strangers[0]!r}, but the views are {list(views)}")
    chosen = {**views, **replacement}
    for template in chosen.values():
        check_template(template)
    return chosen


class PromptBank(nn.Module):
    """Text embeddings of every class in every view, and of every class's anchor.

    Neither is saved in checkpoints: they follow from the class names and the text encoder.

    Args:
        views: number of views V.
        num_classes: number of classes K.
        text_dim: width E of the text embeddings.

    Example:
        >>> bank = PromptBank(views=2, num_classes=3, text_dim=4)
        >>> bank.fill(torch.ones(2, 3, 4), torch.zeros(3, 4))
        >>> bank.rows().shape
        torch.Size([3, 8])
    """

    embeddings: Tensor
    anchors: Tensor

    def __init__(self, views: int, num_classes: int, text_dim: int) -> None:
        super().__init__()
        self.filled = False
        self.register_buffer("embeddings", torch.zeros(views, num_classes, text_dim), persistent=False)
        self.register_buffer("anchors", torch.zeros(num_classes, text_dim), persistent=False)

    def fill(self, embeddings: Tensor, anchors: Tensor) -> None:
        """Takes the embeddings in.

        Args:
            embeddings: ``(V, K, E)``.
            anchors: ``(K, E)``.

        Raises:
            ValueError: another shape than the bank was built for.
        """
        expected = (tuple(self.embeddings.shape), tuple(self.anchors.shape))
        given = (tuple(embeddings.shape), tuple(anchors.shape))
        if given != expected:
            raise ValueError(
                f"text embeddings of shapes {given[0]} (views, classes, width) and {given[1]} (classes, width) do not "
                f"fit {expected[0]} and {expected[1]}; another width needs TMKDModule(text_dim={given[1][-1]})"
            )
        self.embeddings.copy_(embeddings)
        self.anchors.copy_(anchors)
        self.filled = True

    def resize(self, num_classes: int) -> None:
        """Makes room for another number of classes; the bank is empty then."""
        views, classes, width = self.embeddings.shape
        if num_classes != classes:
            self.embeddings = self.embeddings.new_zeros(views, num_classes, width)
            self.anchors = self.anchors.new_zeros(num_classes, width)
            self.filled = False

    def rows(self, label: Tensor | None = None) -> Tensor:
        """The embeddings of a class's views side by side.

        Args:
            label: classes ``(B,)``, None for all.

        Returns:
            ``(B, V * E)``, or ``(K, V * E)`` of all.
        """
        embeddings = self.embeddings if label is None else self.embeddings[:, label]
        return embeddings.transpose(0, 1).flatten(1)
