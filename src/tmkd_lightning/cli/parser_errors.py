"""Reads what is wrong out of jsonargparse's errors, which repeat all that was given and all that was tried."""

import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from tmkd_lightning.utils.secrets import redact

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'|class_path='([^']+)'")
_GIVEN = re.compile(r"(?:Given|Got) value: (.*)")
_NO_SUBCLASS = re.compile(r"Import path ([\w.]+) does not correspond to a subclass of")
_FORM = re.compile(  # how lines begin that say nothing by themselves, or that the readers below know
    "Does not validate|Subtypes:|Errors:|Given value|Parser key|Problem with|Expected a|Import path|Not a valid|Type "
    "|Subclass types|a class path|a dict "
)
_PACKAGES = [f"tmkd_lightning.{part}" for part in ("callbacks", "data", "distillers", "models", "text", "views")]
_PACKAGES += ["lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.optim", "torch.optim.lr_scheduler"]
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a word",
    "dict": "a mapping",
    "list": "a list",
    "Sequence": "a list",
    "Iterable": "a list",
    "NoneType": "null",
}


class Finding(NamedTuple):
    """What is wrong with one argument.

    Attributes:
        message: one sentence.
        key: of the argument, from the outside in.
        owner: class_path of the class that takes it.
        value: what was given, if it was a scalar.
    """

    message: str
    key: tuple[str, ...] = ()
    owner: str | None = None
    value: str | None = None


class _Leaf(NamedTuple):
    """A line that says something, under the keys and the class that it is about."""

    line: str
    key: tuple[str, ...]
    owner: str | None


def read_error(message: str, known: Iterable[str] = ()) -> Finding | None:
    """Finds what is wrong in an error of jsonargparse; None if that is not one of its usual forms.

    Args:
        message: of the error.
        known: names of the parser's own options.

    Example:
        >>> read_error("Subcommand 'fit' does not accept option 'trainer.max_epoch'", ["trainer.max_epochs"]).message
        "there is no argument 'trainer.max_epoch': did you mean 'trainer.max_epochs'?"
    """
    leaves = _leaves(message)
    named = (_alone, _unknown_argument, _unknown_class, _missing, _no_file)
    for read in (*named, _other, _raised, _wrong_kind, _wrong_type):
        for leaf in leaves:
            if finding := read(leaf, leaves, list(known)):
                return finding
    return None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question that names the nearest of the known names, or one that begins so; nothing if none is like it.

    Example:
        >>> did_you_mean("dir", ["key", "directory"]), did_you_mean("keys", ["key", "directory"])
        (": did you mean 'directory'?", ": did you mean 'key'?")
    """
    names = list(dict.fromkeys(map(str, known)))
    begun = [each for each in names if len(name) > 1 and each.startswith(name)]
    close = get_close_matches(name, names, n=1, cutoff=cutoff) or begun
    return f": did you mean '{close[0]}'?" if close else ""


def _leaves(message: str) -> list[_Leaf]:
    """All lines of the tree that an error is, those that lie deepest first."""
    levels: list[tuple[int, tuple[str, ...], str | None]] = []  # indent, names and class that begin there
    found = []
    for line in filter(str.strip, message.splitlines()):
        text = line.lstrip(" ")
        indent, text = len(line) - len(text), text.removeprefix("- ")
        while levels and levels[-1][0] >= indent:
            levels.pop()
        key = _KEY.search(text)
        names = tuple(part for part in key[1].split(".") if part not in ("init_args", "dict_kwargs")) if key else ()
        named = None if text.startswith("Given value") else _CLASS.search(text)
        levels.append((indent, names, (named[1] or named[2]) if named else None))
        keys = tuple(name for level in levels for name in level[1])
        owners = [level[2] for level in levels if level[2]]
        found.append((len(levels), _Leaf(text, keys, owners[-1] if owners else None)))
    return [leaf for _, leaf in sorted(found, key=lambda pair: -pair[0])]


def _alone(leaf: _Leaf, *_: object) -> Finding | None:
    """A word without an option, most often a config."""
    found = re.match(r"unrecognized arguments: ([^-]\S*)", leaf.line)
    if found is None:
        return None
    config = found[1].removeprefix("config=")
    remedy = f"--config {config}" if config.endswith((".yaml", ".yml")) else "--<name> before it"
    return Finding(f"'{found[1]}' stands there without an option: write {remedy}")


def _unknown_argument(leaf: _Leaf, _: object, known: list[str]) -> Finding | None:
    found = re.search(r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'", leaf.line)
    found = found or re.match(r"unrecognized arguments: --?([\w.]+)", leaf.line)
    if found is None:
        return None
    name = next(filter(None, found.groups()))
    if leaf.owner is None:
        names = [part for part in name.split(".") if part not in ("init_args", "dict_kwargs")]
        groups = [each.split(".")[0] for each in known]
        name, among = (".".join(names), known) if names[0] in groups else (names[0], groups)
        return Finding(f"there is no argument '{name}'{did_you_mean(name, among)}", (*leaf.key, *name.split(".")))
    name, names = name.split(".")[0], arguments_of(leaf.owner)
    close = did_you_mean(name, names) or (f": it takes {', '.join(names)}" if names else ": is a class_path missing?")
    if "did you mean" not in close and _takes_others(leaf.owner):
        close += "; others go under dict_kwargs, beside init_args"
    return Finding(f"{_short(leaf.owner)} has no argument '{name}'{close}", (*leaf.key, name), leaf.owner)


def _unknown_class(leaf: _Leaf, *_: object) -> Finding | None:
    lacking = re.search(r"module '([^']+)' has no attribute '([^']+)'", leaf.line)
    missing = re.search(r"No module named '([^']+)'", leaf.line)
    path = leaf.owner or (f"{lacking[1]}.{lacking[2]}" if lacking else "")
    if lacking:
        close = did_you_mean(lacking[2], _names_in(lacking[1]))
        return Finding(f"{lacking[1]} has no '{lacking[2]}'{close}", leaf.key, path, path)
    if missing and (path == missing[1] or path.startswith(f"{missing[1]}.")):
        package, _dot, name = missing[1].rpartition(".")
        close = (
            did_you_mean(name, _names_in(package), cutoff=0.8)
            or ": is it installed, or in the folder that tmkd is called in?"
        )
        return Finding(f"there is no module '{missing[1]}'{close}", leaf.key, path, path)
    if missing:
        return Finding(f"{path} cannot be imported, as there is no module '{missing[1]}'", leaf.key, path, path)
    return None


def _missing(leaf: _Leaf, leaves: list[_Leaf], _: object) -> Finding | None:
    found = re.search(r"the following arguments are required: (.+?)(?:\. Got value: .*)?$", leaf.line)
    if found is None:
        return None
    names = " and ".join(f"'{name.strip()}'" for name in found[1].split(","))
    inner = _CLASS.search(_given(leaf, leaves)) if leaf.line.startswith("Type ") else None  # of an optimizer
    owner = inner[2] if inner else leaf.owner
    return Finding(f"{_short(owner or 'the command')} needs {names}", leaf.key, owner)


def _no_file(leaf: _Leaf, *_: object) -> Finding | None:
    found = re.search(r"File does not exist: '?([^']+)'?", leaf.line)
    if found is None:
        return None
    folder, name = os.path.split(found[1])
    beside = os.listdir(folder) if os.path.isdir(folder) else []
    return Finding(f"there is no file {found[1]}{did_you_mean(name, beside)}", leaf.key, value=found[1])


def _other(leaf: _Leaf, *_: object) -> Finding | None:
    """A reason in words of its own, such as those of a constructor."""
    return Finding(redact(leaf.line), leaf.key, leaf.owner) if leaf.key and not _FORM.match(leaf.line) else None


def _raised(leaf: _Leaf, leaves: list[_Leaf], _: object) -> Finding | None:
    """What a function that a config names has raised, told among the types that its result was tried for."""
    tried = [one for other in leaves if other.key == leaf.key and (one := _NO_SUBCLASS.match(other.line))]
    if _FORM.match(leaf.line) or not tried:
        return None
    path = tried[0][1]
    return Finding(f"{path} failed: {redact(leaf.line)}", leaf.key, path, path)


def _wrong_kind(leaf: _Leaf, leaves: list[_Leaf], _: object) -> Finding | None:
    found = re.search(r"does not correspond to a subclass of (\w+)|Not a valid subclass of (\w+)", leaf.line)
    if found is None or any(other.key[: len(leaf.key)] == leaf.key != other.key for other in leaves):
        return None  # something inside of it was wrong
    named, kind = re.search(r"Import path ([\w.]+) does not", leaf.line), found[1] or found[2]
    value = named[1] if named else _given(leaf, leaves)
    if re.fullmatch(r"\w+", value):
        return Finding(_no_such_class(value), leaf.key, value=value)
    paths = [next(filter(None, one)) for one in re.findall(r"'?class_path'?[:=] ?'([^']+)'|^([\w.]+)$", value)]
    if not paths:
        return Finding(f"'{'.'.join(leaf.key)}' needs a class_path, that of a {kind}", leaf.key)
    path_of = next((path for path in paths if "." not in path), paths[0])  # in a list, the one that is not resolved
    if "." not in path_of:
        return Finding(_no_such_class(path_of), leaf.key, value=path_of)
    return Finding(f"{path_of} is no {kind}, which is expected here", leaf.key, value=path_of)


def _wrong_type(leaf: _Leaf, leaves: list[_Leaf], _: object) -> Finding | None:
    same = [other.line for other in leaves if other.key == leaf.key]
    if path := next(
        filter(None, (re.match(r"Expected a dot import path string: (\w+)$", line) for line in same)), None
    ):
        return Finding(_no_such_class(path[1]), leaf.key, value=path[1])
    found = [re.match(r"Expected an? (.*?)(?:\. Got value: .*)?$", line) for line in same]
    choices = [word for one in found if one and not one[1].startswith("path ") for word in _in_words(one[1])]
    if not choices or not leaf.key:
        return None
    expected = ", ".join({choice.strip("'"): choice for choice in choices})
    expected = " or ".join(expected.rsplit(", ", 1))
    value = redact(_given(leaf, leaves), leaf.key[-1])
    close = did_you_mean(value, [choice.strip("'") for choice in choices if choice.startswith("'")])
    if value in ("True", "False", "None"):
        close = "; put quotes around no, yes, on, off and null where they are words"
    return Finding(f"'{leaf.key[-1]}' must be {expected}, got {value}{close}", leaf.key, leaf.owner, value)


def _no_such_class(name: str) -> str:
    """What to write for a class that is named without its package."""
    names = {
        each: f"{package}.{each}" for package in _PACKAGES if package in sys.modules for each in _names_in(package)
    }
    close = get_close_matches(name, names, n=1)
    return f"there is no class '{name}': " + (
        f"did you mean '{names[close[0]]}'?" if close else "write its package too, as in tmkd_lightning.distillers.KD"
    )


def _given(leaf: _Leaf, leaves: list[_Leaf]) -> str:
    values = [found[1] for other in leaves if other.key == leaf.key and (found := _GIVEN.search(other.line))]
    if not values:
        return ""
    nested = re.match(r"NestedArg\(key='(.*?)', val=(.*)\)$", values[0])
    return redact(nested[2].strip("'"), nested[1]) if nested else values[0]


def _in_words(expected: str) -> list[str]:
    """The names of a type, or its values, as they are written in YAML."""
    literal = re.match(r"typing\.Literal\[(.*)\]", expected)
    if literal:
        return literal[1].split(", ")
    name = re.sub(r"<class '(.*)'>", r"\1", expected.removesuffix(" is abstract")).rpartition(".")[2]
    return [_TYPES.get(name, f"a {name}")]


def arguments_of(class_path: str) -> list[str]:
    """Names of the arguments that a class or function takes in a config."""
    target: Any = _find(class_path)
    parser = ArgumentParser(exit_on_error=False)
    add: Callable[..., list[str]] = (
        parser.add_class_arguments if isinstance(target, type) else parser.add_function_arguments
    )
    try:
        return add(target, fail_untyped=False)
    except Exception:  # a signature that jsonargparse cannot read has no names to suggest
        return []


def _names_in(package: str) -> list[str]:
    """Public names in a module, and the modules beside or below it."""
    if not package:
        return [module.name for module in pkgutil.iter_modules()]
    try:
        module = importlib.import_module(package)
    except ImportError:
        return []
    below = pkgutil.iter_modules(getattr(module, "__path__", []))
    names = [*dir(module), *getattr(module, "__all__", []), *(each.name for each in below)]
    return [name for name in names if not name.startswith("_")]


def module_of(class_path: str) -> str:
    """The module that defines a class or function; nothing if there is no such one."""
    return getattr(_find(class_path), "__module__", "")


def _takes_others(class_path: str) -> bool:
    """Whether a function takes arguments that it does not name."""
    target = _find(class_path)
    kinds = [] if isinstance(target, type) else [one.kind for one in inspect.signature(target).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _find(class_path: str) -> Any:
    package, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError, ValueError):
        return object


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2] if re.fullmatch(r"[\w.]+", class_path) else class_path
