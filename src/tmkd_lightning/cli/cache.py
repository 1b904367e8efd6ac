"""``tmkd cache``: lists, checks and removes teacher caches; filling them is in cache_fill.py."""

import reprlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from tmkd_lightning.teacher.cache import ArrayFile, CacheError
from tmkd_lightning.teacher.cache.folder import MANIFEST, on_disk, read_manifest
from tmkd_lightning.utils.messages import printable, short


def fill_caches(args: Sequence[str] | None = None) -> None:
    """Fills the TeacherCache of a run's config, with the teacher alone; see tmkd cache fill --help."""
    from tmkd_lightning.cli import cache_fill  # seconds to import, and the other verbs do without

    cache_fill.run(args)


def list_caches(directory: str) -> None:
    """Prints each cache of a directory: its key, teacher, views, images, what is written, and its size on the disk.

    Args:
        directory: as given to TeacherCache.
    """
    for folder in _folders(directory):
        try:
            manifest = read_manifest(folder)
            data, views = manifest["data"], ", ".join(view[0] for view in manifest["views"])
            images = f"{data['replicas']} replicas of {data['images']} images"
            print(printable(f"{folder.name}  {manifest['teacher']['name']}, {views}, {images}, {_size_of(folder)}"))
            for path, file in _arrays(folder):
                state = f"{file.written} of {file.rows} rows" if isinstance(file, ArrayFile) else f"DAMAGED: {file}"
                print(printable(f"  {path.name.removesuffix('.npy'):24} {state}"))
        except (CacheError, LookupError, TypeError, RecursionError) as error:
            print(printable(f"{folder.name}  DAMAGED: {short(error, kind=not isinstance(error, CacheError))}"))


def check_caches(directory: str, key: str = "") -> None:
    """Reads every row that is written, and erases damaged ones, which are computed again when they are needed.

    Args:
        directory: as given to TeacherCache.
        key: how the caches to check begin; by default all.
    """
    damages = 0
    for folder in _folders(directory, key):
        for path, file in _arrays(folder):
            if isinstance(file, CacheError):
                state = str(file)
                damages += 1
            else:
                rows = file.damaged()
                file.erase(rows)
                file.close()
                state = f"{path.name}: {file.written} rows are whole"
                state += f", DAMAGED and erased: {reprlib.repr(rows)}" if rows else ""
                damages += len(rows)
            print(printable(f"{folder.name}  {state}"))
    if damages:
        raise SystemExit(f"{damages} damage(s) found")


def remove_caches(directory: str, key: str = "", all: bool = False) -> None:
    """Removes caches. A run that fills one goes on without it; a run that reads one may break off.

    Args:
        directory: as given to TeacherCache.
        key: how the caches to remove begin, as `tmkd cache list` prints them.
        all: whether to remove all of them, instead of naming a key.
    """
    if bool(key) == all:
        raise ValueError("name the caches to remove: --key, as tmkd cache list prints it, or --all true")
    for folder in _folders(directory, key):
        freed = _size_of(folder)
        shutil.rmtree(folder)
        print(printable(f"{folder.name}  removed, {freed}"))


def _folders(directory: str, key: str = "") -> list[Path]:
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise ValueError(f"there is no directory {root}: name the one that TeacherCache was given")
    folders = [path.parent for path in sorted(root.glob(f"*/{MANIFEST}")) if path.parent.name.startswith(key)]
    if key and not folders:
        raise ValueError(f"{directory} has no cache whose key begins with {key}; tmkd cache list shows them")
    return folders


def _arrays(folder: Path) -> Iterator[tuple[Path, ArrayFile | CacheError]]:
    for path in sorted({*folder.glob("*.npy")} - {*folder.glob("*.written.npy")}):
        try:
            yield path, ArrayFile(path)
        except CacheError as error:
            yield path, error


def _size_of(folder: Path) -> str:
    return tqdm.format_sizeof(sum(map(on_disk, folder.iterdir())), "B")
