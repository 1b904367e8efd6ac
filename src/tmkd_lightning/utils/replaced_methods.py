"""Other methods for one object, for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced_methods(instance: object, **methods: Callable[..., Any]) -> Iterator[None]:
    """Puts methods of one object before those of its class, until the block is left.

    Example:
        >>> class Data:
        ...     def loader(self):
        ...         return "all"
        >>> data = Data()
        >>> with replaced_methods(data, loader=lambda: "a part"):
        ...     data.loader()
        'a part'
        >>> data.loader()
        'all'
    """
    vars(instance).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(instance)[name]
