"""What a function's code names beyond itself, and whether somebody else's package defines it."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import types
from pathlib import Path
from typing import Any

_INSTALLED = {"site-packages", "dist-packages"}


def used_by(function: types.FunctionType) -> dict[str, Any]:
    """Finds the globals that a function's code reads, through modules too, but not through installed ones.

    A module in its closure is looked through likewise.

    Args:
        function: written in Python.

    Returns:
        Values by their dotted names as the code has them; builtins are left out.

    Example:
        >>> sorted(used_by(used_by))
        ['_closed', '_imported', '_names', 'library', 'types']
    """
    scope, (read, imported, named) = function.__globals__, _names(function.__code__)
    found = {name: scope[name] for name in read if name in scope}
    for name in imported:
        found |= _imported(name, scope)
    waiting = [*found.items(), *_closed(function)]
    seen: set[int] = set()
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, types.ModuleType) and id(value) not in seen and library(value.__name__) is None:
            seen.add(id(value))
            inner = {f"{path}.{name}": vars(value)[name] for name in named if name in vars(value)}
            found |= inner
            waiting += inner.items()
    return dict(sorted(found.items()))


@functools.cache
def library(module: str) -> str | None:
    """Says which version of an installed package a module is of.

    Args:
        module: its name.

    Returns:
        The package, its version and a digest of the module's file if that is Python; None for code of one's own.

    Example:
        >>> library("math").startswith("Python 3."), library("__main__")
        (True, None)
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"Python {sys.version_info.major}.{sys.version_info.minor}"
    files = [getattr(sys.modules.get(name), "__file__", None) for name in (module, top)]
    file = next((Path(name) for name in files if name), None)
    if top == "__main__" or file is None or not _INSTALLED & set(file.parts):
        return None
    return f"{top} {getattr(sys.modules.get(top), '__version__', '')} {source(file)}"


def source(file: Path | str | None) -> str:
    """Digests the file that a module is read from.

    Args:
        file: its path, or None for a module without one.

    Returns:
        64 hexadecimal digits; nothing if there is no such file, or it is not Python.

    Example:
        >>> len(source(__file__)), source(None)
        (64, '')
    """
    path = Path(file or "")
    return digest_of_text(path.read_bytes()) if path.suffix == ".py" and path.is_file() else ""


def digest_of_text(*parts: str | Any) -> str:
    """Digests texts or bytes, one after the other; where one ends counts.

    Example:
        >>> digest_of_text("ab", "c") == digest_of_text("a", "bc")
        False
    """
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode(errors="surrogatepass") if isinstance(part, str) else memoryview(part)
        whole.update(b"%d:" % len(content))
        whole.update(content)
    return whole.hexdigest()


@functools.cache
def _names(code: types.CodeType) -> tuple[list[str], list[str], list[str]]:
    """Names of globals, of modules imported within, and of globals and attributes; of functions within it too."""
    read, imported, named = set(), set(), set(code.co_names)
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(step.argval)
        elif step.opname == "IMPORT_NAME":
            imported.add(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for mine, theirs in zip((read, imported, named), _names(inner), strict=True):
                mine.update(theirs)
    return sorted(read), sorted(imported), sorted(named)


def _closed(function: types.FunctionType) -> list[tuple[str, types.ModuleType]]:
    """Modules in its closure; one that is not imported yet is an empty cell, or none."""
    names = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = [(name, cell.cell_contents) for name, cell in names if cell != types.CellType()]
    return [(name, value) for name, value in held if isinstance(value, types.ModuleType)]


def _imported(name: str, scope: dict[str, Any]) -> dict[str, Any]:
    """A module that is loaded by now, by its full name or from within the function's package."""
    package = str(scope.get("__package__") or "").split(".")
    above = [".".join(package[:length]) for length in range(len(package), 0, -1)]
    paths = [name, *(f"{parent}.{name}".strip(".") for parent in above)]
    return {path: sys.modules[path] for path in paths if path in sys.modules}
