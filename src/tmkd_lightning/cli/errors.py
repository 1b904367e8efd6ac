"""Tells a user in a few lines what to mend, and leaves faults of the code their traceback."""

import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from inspect import Signature, signature
from pathlib import Path
from typing import Any

from tmkd_lightning.cli.arguments import CLASS_PATH, Argument, arguments, config_files
from tmkd_lightning.cli.parser_errors import did_you_mean, module_of, read_error
from tmkd_lightning.utils.messages import printable, short
from tmkd_lightning.utils.secrets import redact

DEBUG = "TMKD_DEBUG"  # set by --debug; a value other than 0 shows tracebacks
COMMAND: ContextVar[list[str]] = ContextVar("command")  # verb and options of the running ``tmkd``
PAGES = {  # that explain the errors of a part of this library, or of a verb
    "cache": "docs/errors.md#the-teacher-cache",
    "callbacks": "docs/errors.md",
    "data": "docs/errors.md#folders-of-images",
    "distillers": "docs/methods/index.md",
    "embed": "docs/errors.md#texts",
    "export": "docs/errors.md#export-and-predict",
    "figures": "docs/errors.md#figures-and-checkpoints-of-runs",
    "feature_extraction": "docs/errors.md#networks",
    "models": "docs/errors.md#weights",
    "modules": "docs/errors.md#networks",
    "predict": "docs/errors.md#export-and-predict",
    "probe": "docs/foundation_teachers.md",
    "report": "docs/errors.md#export-and-predict",
    "teacher": "docs/errors.md#the-teacher-cache",
    "text": "docs/errors.md#texts",
    "views": "docs/concepts.md",
}
_PAGE = "docs/errors.md#the-command-line"
_BUILDING = "while building "
_PACKAGES = ("tmkd_lightning", "lightning", "jsonargparse", "fsspec")  # whose messages are for users
_STDLIB = sysconfig.get_path("stdlib")


class Refused(BaseException):
    """An exception of a constructor on its way past jsonargparse, which buries each Exception under its own text."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Construction:
    """Calls a class that a config names, and notes which one it was if it refuses its arguments."""

    def __init__(self, instantiator: Callable[..., Any]) -> None:
        self._instantiator = instantiator
        self.__signature__: Signature = signature(instantiator)  # by which jsonargparse knows what to pass

    def __call__(self, class_type: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Builds an object."""
        try:
            return self._instantiator(class_type, *args, **kwargs)
        except Exception as error:
            if not _owner(error):
                error.add_note(f"{_BUILDING}{class_type.__module__}.{class_type.__qualname__}")
            raise Refused(error) from error


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def explain(error: Exception, ours: bool) -> str | None:
    """What to mend, as a few lines; None for an exception that shows a fault of the code.

    Args:
        error: exception that ended a command.
        ours: whether the verb is one of this library, in which no code of the user runs but networks.
    """
    if not (is_for_users(error) or (ours and isinstance(error, (ValueError, OSError, ImportError)))):
        return None
    message = _message(error)
    if message.startswith("Does not validate against"):  # of jsonargparse about a class in a command of ours
        return explain_parsing(str(error))
    where = locate(message, _owner(error), arguments(command()[1:]))
    if where is not None and where.value and "did you mean" not in message and ".ckpt" not in where.value:
        message += did_you_mean(where.value, set(re.findall(r"['`]([^'`\s]+)['`]", message)) - {where.value})
    raiser = _raiser(error)
    return _told(message, where, _page("" if raiser is None else raiser.filename, _owner(error) or ""))


def explain_parsing(message: str, known: Sequence[str] = ()) -> str:
    """What to mend where jsonargparse refuses a command.

    Args:
        message: of jsonargparse.
        known: names of the options that there are.
    """
    verb, *words = command()
    finding = read_error(message, known)
    if finding is None:
        text = re.sub(r"NestedArg\(key='([^']*)', val=", r"NestedArg(\1=", message)
        text = short(ValueError(re.sub(r'^Parser key "([^"]+)":', r"\1:", text)))
        return _told(text, locate(text, None, arguments(words)), _PAGE)
    given = arguments(words)
    begins = {one.key[:1] for one in given}
    key = finding.key if finding.key[:1] in begins else finding.key[1:]  # without the verb
    where = _at(given, key, finding.value)
    text = finding.message
    if missing := re.match(r"the command needs (.*)", text):
        text = _needs(verb, missing[1], words)
    return _told(text, where, _page("", finding.owner or ""))


def is_for_users(error: Exception) -> bool:
    """Whether an exception was raised on purpose, for a user to read: by its type, and by who raised it."""
    kind, raiser = type(error), _raiser(error)
    if not str(error) or raiser is None:
        return False
    if kind.__module__.startswith("tmkd_lightning.") or kind.__name__ == "MisconfigurationException":
        return True
    known = _package(raiser.filename) in _PACKAGES
    if isinstance(error, OSError) and error.filename is not None:
        return known
    kinds = (ValueError, TypeError, OSError, ImportError, RuntimeError)
    on_purpose = linecache.getline(raiser.filename, raiser.lineno or 0).lstrip().startswith("raise ")
    return isinstance(error, kinds) and on_purpose and (known or _owner(error) is not None)


def locate(message: str, owner: str | None, given: Sequence[Argument]) -> Argument | None:
    """The argument that a message is about, by the names and values that it repeats; None if that stays open.

    Args:
        message: of an exception.
        owner: class that refused its arguments.
        given: all arguments of the command.
    """
    name = (owner or "").rpartition(".")[2]
    keys = {one.key for one in given if name and (one.owner or "").rpartition(".")[2] == name}
    around = {key[:-1] for key in keys}
    mine = [one for one in given if one.key in keys or one.key[:-1] in around]
    named = [one for one in given if name and (one.value or "").rpartition(".")[2] == name]
    words = re.findall(r"[\w/.+-]+", message)

    def names(one: Argument) -> bool:
        return bool(one.key) and one.key[-1] in words and one.key[-1] != CLASS_PATH

    def repeats(one: Argument) -> bool:
        value = (one.value or "").rstrip("/")
        return bool(value) and any(word.rstrip(".") == value or word.startswith(f"{value}/") for word in words)

    def got(one: Argument) -> bool:
        return names(one) and bool(re.search(rf"got '?{re.escape(one.value or ' ')}(?![\w])", message))

    def speaks(one: Argument) -> bool:  # a number or a short word could stand in a message by chance
        return repeats(one) and len(one.value or "") > 3 and not (one.value or "").replace(".", "").isdigit()

    def quoted(one: Argument) -> bool:
        return bool(one.key) and f"`{one.key[-1]}`" in message

    def spoken(one: Argument) -> bool:  # class_names as "class names"
        return bool(one.key) and "_" in one.key[-1] and one.key[-1].replace("_", " ") in message

    def both(one: Argument) -> bool:  # and not as "num_classes=10", which is a remedy
        return names(one) and repeats(one) and f"{one.key[-1]}={one.value}" not in message

    rules: list[tuple[Sequence[Argument], Callable[[Argument], bool]]] = [
        (mine, got),
        (mine, both),
        (given, both),
        (mine, speaks),
        (mine, names),
        (given, speaks),
        (given, quoted),
        (given, spoken),
        (named, bool),
    ]
    for candidates, fits in rules:
        if found := [one for one in candidates if fits(one)]:
            return min(reversed(found), key=lambda one: message.find(one.value or " "))  # the first that it speaks of
    return None


def command() -> list[str]:
    """Verb and options of the running ``tmkd``."""
    return COMMAND.get(["tmkd"])


def _told(message: str, where: Argument | None, page: str) -> str:
    lines = [f"tmkd {command()[0]}: error: {message}"]
    lines += [f"  at  {where}"] if where else []
    lines += [f"  see {page}; --debug shows the traceback"]
    return redact(printable("\n".join(lines), keep="\n"))


def _needs(verb: str, names: str, words: Sequence[str]) -> str:
    """What a command lacks: most often its config."""
    plain = names.replace(f"'{verb}.", "'")
    if plain == names:  # of a verb of ours
        options = re.sub(r"'(\w+)'", r"--\1", plain)
        return f"tmkd {verb} needs {options}"
    configs = ", ".join(str(path) for _, path in config_files(words))
    if configs:
        return f"{configs} has no {plain}, which tmkd {verb} needs"
    return f"tmkd {verb} needs {plain}: name a config with --config run.yaml, such as one of examples/"


def _at(given: Sequence[Argument], key: tuple[str, ...], value: str | None) -> Argument | None:
    """The argument with a key; of several in a list, the one with the value; else the nearest one around it."""
    for end in range(len(key), 0, -1):
        same = [one for one in given if one.key == key[:end]] or [one for one in given if one.key[:end] == key[:end]]
        exact = [one for one in given if one.key in (key[:end], (*key[:end], CLASS_PATH)) and one.value == value]
        if found := (value is not None and exact) or same:
            return found[-1]
    return next((one for one in given if value is not None and one.value == value), None)


def _message(error: Exception) -> str:
    """The message on one line; of an error in a loader's process, that of the error itself."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split())


def _owner(error: BaseException) -> str | None:
    """The class that was being built, if one was."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(_BUILDING)]
    return notes[-1].removeprefix(_BUILDING) if notes else None


def _raiser(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line of an exception's way that is not the standard library's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _package(frame.filename)]
    return frames[-1] if frames else None


def _package(file: str) -> str:
    """The top-level package of a file; nothing for the standard library."""
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    if Path(file).is_relative_to(Path(__file__).parents[1]):
        return "tmkd_lightning"
    return "" if file.startswith((_STDLIB, "<frozen ")) else file


def _page(file: str, class_path: str) -> str:
    """The page of the documentation that explains an error."""
    root = Path(__file__).parents[1]
    parts = [Path(file).relative_to(root).parts[0]] if Path(file).is_relative_to(root) else []
    parts += [path.split(".")[1] for path in (class_path, module_of(class_path)) if path.startswith("tmkd_lightning.")]
    return next((PAGES[part] for part in [*parts, command()[0]] if part in PAGES), _PAGE)
