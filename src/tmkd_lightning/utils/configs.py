"""YAML configs, read without running code or unfolding endless aliases."""

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from tmkd_lightning.utils.messages import printable

_MAX_LEVELS = 100
_MAX_VALUES = 200_000  # counted again wherever an alias refers to them


def load_yaml(path: Path) -> Any:
    """Reads YAML in UTF-8 as plain types; raises ValueError, with file and cause, if that is not safe."""
    loader = None
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        check_extent(node)  # before values are made of it: "<<" unfolds aliases already then
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: other bytes, or a date that is none
        cause = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise ValueError(f"{path} is not a config that can be read safely: {printable(cause)}") from error
    finally:
        if loader is not None:
            loader.dispose()


def check_extent(value: Any) -> None:
    """Raises ValueError for plain values or a YAML node with too many levels, or too many values once unfolded."""
    level, seen = [value], 0
    for _ in range(_MAX_LEVELS):
        level = list(islice(chain.from_iterable(map(_parts, level)), _MAX_VALUES + 1))
        seen += len(level)
        if seen > _MAX_VALUES:
            raise ValueError(f"it unfolds to more than {_MAX_VALUES:,} values")
        if not level:
            return
    raise ValueError(f"it is nested more than {_MAX_LEVELS} levels deep")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, yaml.MappingNode):
        return chain.from_iterable(value.value)
    if isinstance(value, yaml.SequenceNode):
        return value.value
    if isinstance(value, dict):
        return chain(value, value.values())
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()
