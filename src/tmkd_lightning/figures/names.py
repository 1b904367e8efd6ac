"""What classes are called in figures."""

from __future__ import annotations

from typing import Any


def class_names(module: Any, data: object) -> list[str]:
    """The module's names of classes, else the datamodule's, else their numbers.

    Args:
        module: with `class_names`, or None, and `num_classes`.
        data: a datamodule, which may have `class_names`, or None.

    Returns:
        K names.

    Example:
        >>> from types import SimpleNamespace
        >>> class_names(SimpleNamespace(class_names=None, num_classes=2), data=None)
        ['0', '1']
    """
    names = module.class_names or getattr(data, "class_names", None)  # a foreign datamodule may lack them
    return [str(name) for name in names or range(module.num_classes)]
