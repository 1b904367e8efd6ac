"""Configs in YAML, read without running what is in them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from tmkd_lightning.utils.messages import printable

RESOLVED_CONFIG = "resolved_config.yaml"
"""Name of the file in which the command line leaves a run's config beside its logs."""


_DEEPEST = 100  # levels of nesting
_MOST = 200_000  # values, where one that is referred to several times counts as often


def read_config(path: Path) -> dict[str, Any]:
    """Reads a mapping in YAML, UTF-8.

    Args:
        path: the file.

    Returns:
        What it holds: plain types.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no YAML, would run code, holds no mapping, or its aliases unfold to more than anybody wrote;
            the message names the file and the cause.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "run.yaml"
        >>> count = path.write_text("seed_everything: 0")
        >>> read_config(path)
        {'seed_everything': 0}
    """
    config = load_yaml(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config: it holds no mapping")
    return config


def load_yaml(path: Path) -> Any:
    """Reads any YAML, UTF-8; see `read_config`.

    Args:
        path: the file.

    Returns:
        What it holds: plain types.

    Raises:
        OSError: it cannot be opened.
        ValueError: as `read_config`, but for what it holds.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: other bytes, or a date that is none
        cause = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise ValueError(f"{path} is not a config that can be read safely: {printable(cause)}") from error


def parse_yaml(text: str) -> Any:
    """Parses YAML as ``yaml.safe_load`` does, unless a walk through the result would not come to an end.

    Args:
        text: the YAML.

    Returns:
        Plain types.

    Raises:
        ValueError: it is nested too deeply, or its aliases unfold to too many values or into themselves.
        yaml.YAMLError: it is no YAML, or would run code.

    Example:
        >>> parse_yaml("{a: &list [1, 2], b: *list}")
        {'a': [1, 2], 'b': [1, 2]}
        >>> parse_yaml("&list [*list]")
        Traceback (most recent call last):
        ValueError: it is nested more than 100 levels deep
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        check_extent(node)  # before values are made of it: "<<" unfolds aliases already then
        return None if node is None else loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from error
    finally:
        loader.dispose()


def check_extent(value: Any) -> None:
    """Refuses nested values that nothing could walk through to the end.

    Args:
        value: plain values, or a node of YAML.

    Raises:
        ValueError: there are too many levels, as in what holds itself, or too many values; one that is referred to
            several times counts as often.
    """
    level, seen = [value], 0
    for _ in range(_DEEPEST):
        level = list(islice(chain.from_iterable(map(_parts, level)), _MOST + 1))
        seen += len(level)
        if seen > _MOST:
            raise ValueError(f"it unfolds to more than {_MOST:,} values")
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, yaml.MappingNode):
        return chain.from_iterable(value.value)
    if isinstance(value, yaml.SequenceNode):
        return value.value
    if isinstance(value, dict):
        return chain(value, value.values())
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()
