"""Reads a grid: pairs of networks × methods × variants × seeds, each combination a cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import config as configs
from config import Config

EXAMPLES = Path(__file__).resolve().parent.parent
TITLES = {"student": "Student alone", "kd": "KD", "rkd": "RKD", "sp": "SP", "cat_kd": "CAT-KD", "tekap": "TeKAP"}
METRICS = {"top1": "top-1", "top5": "top-5", "recall": "mean recall"}


@dataclass(frozen=True)
class Cell:
    """One run: what to train, and which teacher it needs first.

    Args:
        id: its folder, below that of all runs.
        config: what is trained, without folders.
        teacher: its teacher, None for a teacher.
        group: pair and method, what its seeds have in common.
        seed: of weights and data.
    """

    id: str
    config: Config = field(repr=False)
    teacher: Cell | None
    group: tuple[str, str]
    seed: int

    @property
    def hash(self) -> str:
        """Says which config it is, its teacher's included."""
        return configs.digest(self.config, None if self.teacher is None else self.teacher.hash)


@dataclass(frozen=True)
class Row:
    """A method in a table: its name, what is written for it, and the method that it is compared with, if any."""

    name: str
    title: str
    base: str | None


@dataclass(frozen=True)
class Grid:
    """All cells, and the table they make: a row for each method, a column for each pair."""

    name: str
    title: str
    metrics: tuple[str, ...]
    columns: dict[str, str]  # what is written for each pair
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    threads: int | None
    cells: tuple[Cell, ...]

    @property
    def teachers(self) -> dict[str, Cell]:
        """The teacher of each pair."""
        return {cell.group[0]: cell.teacher for cell in self.cells if cell.teacher is not None}


def read_grid(path: Path, examples: Path = EXAMPLES) -> Grid:
    """Reads a grid file.

    Args:
        path: the file; docs/tables.md says what may stand in it.
        examples: folder of the configs that it names.

    Raises:
        SystemExit: something in it is misspelt, missing or there twice; the message names it.
    """
    known = ("title", "seeds", "pairs", "methods", "variants", "metrics", "overrides", "threads")
    content = _checked(configs.load(path), path, required=("pairs", "methods", "seeds"), known=known)
    overrides = _checked(content.get("overrides", {}), f"{path}, overrides", known=("all", "teachers", "students"))
    pairs = _named(content["pairs"], f"{path}, pairs", known=("config", "teacher", "title", "set"), needed="config")
    methods = _named(content["methods"], f"{path}, methods", known=("files", "title", "set", "base"))
    variants = _named(content.get("variants", []), f"{path}, variants", known=("title", "set")) or [{"name": ""}]
    metrics, seeds = _metrics(content.get("metrics", ["top1"]), path), _seeds(content["seeds"], path)
    teachers = {pair["name"]: _teacher(pair, examples, overrides, path) for pair in pairs}
    _check_teachers([teacher for teacher in teachers.values() if teacher is not None], path)
    rows, cells = [], []
    for method, variant in product(methods, variants):
        row = _row(method, variant, _base(method, methods, path))
        rows.append(row)
        for pair in pairs:
            config = _student(pair, method, variant, examples, overrides)
            cells += [
                Cell(
                    f"{pair['name']}/{row.name}/seed{seed}",
                    configs.bare(config, seed),
                    teachers[pair["name"]],
                    (pair["name"], row.name),
                    seed,
                )
                for seed in seeds
            ]
    return Grid(
        name=path.stem,
        title=content.get("title", path.stem),
        metrics=metrics,
        columns={pair["name"]: pair.get("title", pair["name"]) for pair in pairs},
        rows=tuple(rows),
        seeds=seeds,
        threads=content.get("threads"),
        cells=tuple(cells),
    )


def _student(pair: Config, method: Config, variant: Config, examples: Path, overrides: Config) -> Config:
    """What trains a student: the pair's file, then everything that is laid over it, in this order."""
    base = configs.load(examples / f"{pair['config']}.yaml")
    files = [configs.load(examples / f"{file}.yaml") for file in method.get("files", [f"methods/{method['name']}"])]
    sets = [method.get("set", {}), variant.get("set", {}), overrides.get("all", {}), overrides.get("students", {})]
    return configs.merge(base, pair.get("set", {}), *files, *sets)


def _teacher(pair: Config, examples: Path, overrides: Config, path: Path) -> Cell | None:
    """The teacher's cell; pairs that name the same one share it."""
    if pair.get("teacher") is None:
        return None
    (teacher,) = _named([pair["teacher"]], f"{path}, the teacher of {pair['name']!r}", known=("config", "set"))
    base = configs.load(examples / f"{teacher.get('config', teacher['name'])}.yaml")
    sets = [teacher.get("set", {}), overrides.get("all", {}), overrides.get("teachers", {})]
    config = configs.merge(base, *sets)
    seed = config.get("seed_everything", 0)
    return Cell(f"teachers/{teacher['name']}", configs.bare(config, seed), None, ("teachers", teacher["name"]), seed)


def _check_teachers(teachers: list[Cell], path: Path) -> None:
    hashes: dict[str, str] = {}
    for teacher in teachers:
        if hashes.setdefault(teacher.id, teacher.hash) != teacher.hash:
            raise SystemExit(f"{path}: two different teachers are called {teacher.group[1]!r}: give one another name")


def _row(method: Config, variant: Config, base: str | None) -> Row:
    plain = _plain(method["name"])
    title = TITLES.get(plain, plain) + (" + TMKD" if plain != method["name"] else "")
    title = method.get("title", title)
    if not variant["name"]:
        return Row(method["name"], title, base)
    suffix = f"@{variant['name']}"
    title = f"{title}, {variant.get('title', variant['name'])}"
    return Row(method["name"] + suffix, title, None if base is None else base + suffix)


def _base(method: Config, methods: list[Config], path: Path) -> str | None:
    """The method that one is compared with: the one that it names, or the one of its name without TMKD."""
    others = {other["name"] for other in methods} - {method["name"]}
    if "base" in method and method["base"] not in others:
        raise SystemExit(f"{path}: the base {method['base']!r} of {method['name']!r} is no other method there")
    plain = _plain(method["name"])
    return method.get("base", plain if plain in others else None)


def _plain(method: str) -> str:
    return method.removesuffix("_tmkd")


def _metrics(metrics: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(metrics, list) or not metrics or not set(metrics) <= set(METRICS):
        raise SystemExit(f"{path}: metrics must be a list of some of {list(METRICS)}, got {metrics!r}")
    return tuple(metrics)


def _seeds(seeds: Any, path: Path) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise SystemExit(f"{path}: seeds must be a list of whole numbers from 0 on, got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise SystemExit(f"{path}: a seed stands twice in {seeds}")
    return tuple(seeds)


def _named(entries: Any, place: str, known: Iterable[str], needed: str = "name") -> list[dict[str, Any]]:
    """Entries of a list: words, or mappings with a name; a word is a mapping that holds nothing else."""
    if not isinstance(entries, list):
        raise SystemExit(f"{place}: expected a list, got {entries!r}")
    found: list[dict[str, Any]] = []
    for entry in entries:
        entry = {"name": entry, needed: entry} if isinstance(entry, str) else entry
        entry = {**_checked(entry, place, required=(needed,), known=("name", *known))}
        entry.setdefault("name", entry[needed])
        if "/" in entry["name"] or entry["name"] in {other["name"] for other in found} | {"", ".", "..", "teachers"}:
            raise SystemExit(f"{place}: {entry['name']!r} stands there twice, or is not a name for a folder")
        found.append(entry)
    return found


def _checked(entry: Any, place: Any, *, required: Iterable[str] = (), known: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise SystemExit(f"{place}: expected a mapping, got {entry!r}")
    if unknown := set(entry) - set(known):
        raise SystemExit(f"{place}: {sorted(unknown)} not understood; known are {sorted(known)}")
    if missing := [name for name in required if name not in entry]:
        raise SystemExit(f"{place}: {missing} missing")
    return entry
