"""Finds the line of a config, or the option, where an argument of a command stands."""

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import yaml

from tmkd_lightning.utils.configs import check_extent

CLASS_PATH = "class_path"
_WRAPPERS = ("init_args", "dict_kwargs")  # which the command line leaves out


class Argument(NamedTuple):
    """An argument as it was written.

    Attributes:
        key: its names from the outside in, without ``init_args``; an entry of a list has the key of the list.
        value: of a scalar, as written; None for others.
        place: the file and its line, or the command line.
        owner: class_path of the class that takes it, if the file names one.
        file: the config; None for the command line.
        appends: whether it is added to a list that was given before, as ``callbacks+`` is.
    """

    key: tuple[str, ...]
    value: str | None
    place: str
    owner: str | None
    file: str | None
    appends: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {'' if self.file else '--'}{'.'.join(self.key)}"


def config_files(words: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Path]]:
    """The config files that a command names, for all of a run or for a part of it, with the part's key."""
    for option, value in _options(words):
        whole = option in ("--config", "-c")
        path = Path(os.path.expanduser(value))
        if (whole or value.endswith((".yaml", ".yml"))) and os.path.isfile(path):
            yield () if whole else _key(option), path


def arguments(words: Sequence[str]) -> list[Argument]:
    """All arguments of a command, in its configs and on the command line; a later one of the same key counts."""
    found: list[Argument] = []
    for option, value in _options(words):
        for key, path in config_files([option, value]):
            found += _read(path, key)
            break
        else:
            found.append(Argument(_key(option), value, "the command line", None, None, option.endswith("+")))
    return found


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, given as two words or with an equals sign."""
    for word, following in pairwise([*words, ""]):
        if word.startswith("-") and "=" in word:
            option, value = word.split("=", 1)
            yield option, value
        elif word.startswith("-") and not word[1:2].isdigit():
            yield word, following


def _key(option: str) -> tuple[str, ...]:
    names = option.lstrip("-").removesuffix("+").split(".")
    return tuple(name for name in names if name not in _WRAPPERS)


def _read(path: Path, key: tuple[str, ...]) -> Iterator[Argument]:
    """The arguments of a config file, or none if it cannot be read, of which others tell."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        check_extent(node)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return
    yield from _walk(node, key, None, path)


def _walk(node: yaml.Node | None, key: tuple[str, ...], owner: str | None, path: Path) -> Iterator[Argument]:
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            if isinstance(entry, yaml.ScalarNode):
                yield Argument(key, entry.value, _place(path, entry), owner, str(path))
            yield from _walk(entry, key, owner, path)
    if not isinstance(node, yaml.MappingNode):
        return
    named = [value.value for name, value in node.value if name.value == CLASS_PATH and isinstance(value.value, str)]
    owner = named[-1] if named else owner
    for name, value in node.value:
        part = key if name.value in _WRAPPERS else (*key, str(name.value).removesuffix("+"))
        scalar = value.value if isinstance(value, yaml.ScalarNode) else None
        if name.value not in _WRAPPERS:
            yield Argument(part, scalar, _place(path, name), owner, str(path), str(name.value).endswith("+"))
        if scalar is not None and scalar.endswith((".yaml", ".yml")) and (path.parent / scalar).is_file():
            if path.parent / scalar != path:
                yield from _read(path.parent / scalar, part)
        else:
            inner = None if named and name.value not in _WRAPPERS else owner
            yield from _walk(value, part, inner, path)


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"
