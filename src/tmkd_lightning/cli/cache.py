"""``tmkd cache``: what teacher caches there are, whether they are whole, and how to be rid of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from tqdm import tqdm

from tmkd_lightning.cli.parser import Parser
from tmkd_lightning.teacher.cache import CacheError, RowFile
from tmkd_lightning.teacher.cache.folder import MANIFEST, on_disk, read_manifest, readable_size
from tmkd_lightning.utils.messages import printable, short

_SHOWN = 20  # damaged rows to name


def list_caches(directory: str) -> None:
    """Prints each cache of a directory: its key, teacher, views, images, what is written, and its size on the disk.

    Args:
        directory: as given to TeacherCache.
    """
    for folder in _folders(directory):
        try:
            about = read_manifest(folder)
            data, views = about["data"], ", ".join(view[0] for view in about["views"])
            images = f"{data['replicas']} replicas of {data['images']} images"
            told = f"{folder.name}  {about['teacher']['name']}, {views}, {images}, {readable_size(_size_of(folder))}"
            print(printable(told))
            for path, file in _arrays(folder):
                state = f"{file.written} of {file.rows} rows" if isinstance(file, RowFile) else f"DAMAGED: {file}"
                print(printable(f"  {path.name.removesuffix('.npy'):24} {state}"))
        except (CacheError, LookupError, TypeError, RecursionError) as error:
            cause = error if isinstance(error, CacheError) else short(error, kind=True)
            print(printable(f"{folder.name}  DAMAGED: {cause}"))


def check_caches(directory: str, key: str = "") -> None:
    """Reads every row that is written; one that is damaged is forgotten, and made anew when it is needed.

    Args:
        directory: as given to TeacherCache.
        key: how the caches to check begin; by default all.

    Raises:
        SystemExit: something is damaged; all of it has been printed.
    """
    damages = 0
    for folder in _folders(directory, key):
        for path, file in tqdm(
            list(_arrays(folder)), folder.name, unit="array", leave=False, disable=not sys.stderr.isatty()
        ):
            rows = file.damaged() if isinstance(file, RowFile) else []
            if isinstance(file, RowFile):
                if rows:
                    file.forget(rows)
                file.close()
                print(printable(f"{folder.name}  {path.name}: {file.written} rows are whole" + _named(rows)))
            else:
                print(printable(f"{folder.name}  {file}"))
            damages += len(rows) + isinstance(file, CacheError)
    if damages:
        raise SystemExit(f"{damages} damage(s) found")


def remove_caches(directory: str, key: str = "", all: bool = False) -> None:
    """Removes caches. A run that fills one at the moment goes on without it; a run that reads one may break off.

    Args:
        directory: as given to TeacherCache.
        key: how the caches to remove begin, as `tmkd cache list` shows them.
        all: whether to remove all of them, instead of naming a key.

    Raises:
        SystemExit: neither a key nor all, or no cache of that key.
    """
    if bool(key) == all:
        raise SystemExit("say which caches to remove: --key, as tmkd cache list shows it, or --all true")
    for folder in _folders(directory, key):
        freed = _size_of(folder)
        shutil.rmtree(folder)
        print(printable(f"{folder.name}  removed, {readable_size(freed)}"))


def cache_command(args: Sequence[str]) -> None:
    """Runs the verb on command-line arguments."""
    verbs: dict[str, Any] = {"list": list_caches, "check": check_caches, "remove": remove_caches}
    auto_cli(verbs, args=list(args), as_positional=False, prog="tmkd cache", parser_class=Parser)


def _folders(directory: str, key: str = "") -> list[Path]:
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise SystemExit(f"there is no directory {root}: name the one that TeacherCache was given")
    folders = [folder for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()]
    chosen = [folder for folder in folders if folder.name.startswith(key)]
    if key and not chosen:
        raise SystemExit(f"{directory} has no cache whose key begins with {key}; tmkd cache list shows them")
    return chosen


def _arrays(folder: Path) -> Iterator[tuple[Path, RowFile | CacheError]]:
    for path in sorted(folder.glob("*.npy")):
        if not path.name.endswith(".written.npy"):
            try:
                yield path, RowFile(path)
            except CacheError as error:
                yield path, error


def _size_of(folder: Path) -> int:
    return sum(map(on_disk, folder.iterdir()))


def _named(rows: list[int]) -> str:
    if not rows:
        return ""
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f", DAMAGED and forgotten: {', '.join(map(str, rows[:_SHOWN]))}{more}"
