"""Reads a grid file: pairs of networks × methods × variants × seeds; each combination is a cell."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Config = dict[str, Any]

EXAMPLES = Path(__file__).resolve().parent.parent
TITLES = {"student": "Student alone", "kd": "KD", "rkd": "RKD", "sp": "SP", "cat_kd": "CAT-KD", "tekap": "TeKAP"}
TITLES |= {name: name.upper() for name in ("dkd", "dist", "ttm", "nkd", "pkt", "sdd", "at", "nst", "srrl")}
TITLES |= {"vkd": "VkD"}
METRICS = {"top1": "top-1", "top5": "top-5", "recall": "mean recall"}
CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
_LOCATION = ("root", "num_workers", "download")  # arguments of a datamodule that change no result


@dataclass(frozen=True, eq=False)
class Cell:
    """One run: its config without output folders, and the teacher that must be trained first (None for a teacher)."""

    id: str
    pair: str
    method: str
    seed: int
    config: Config
    teacher: Cell | None

    @property
    def hash(self) -> str:
        """Hash of the config and of the teacher's config; where the data lie does not count."""
        config = copy.deepcopy(self.config)
        for name in _LOCATION:
            config["data"]["init_args"].pop(name, None)
        config["model"]["init_args"].pop("teacher_checkpoint", None)
        content = [config, None if self.teacher is None else self.teacher.hash]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Method(NamedTuple):
    """A row of the table; `base` is the method that its gain is measured against, if any."""

    name: str
    title: str
    base: str | None = None


@dataclass(frozen=True)
class Grid:
    """All cells of a grid file, teachers first, and the table they make: a row a method, a column a pair."""

    name: str
    title: str
    metrics: list[str]
    seeds: list[int]
    threads: int | None
    pairs: dict[str, str]  # title by name
    methods: list[Method]
    teachers: dict[str, Cell | None]  # by pair
    cells: list[Cell]


def merge(*configs: Config) -> Config:
    """Merges configs as several ``--config`` do; a class that is replaced by another loses its arguments."""
    merged: Config = {}
    for config in configs:
        if merged.get("class_path", config.get("class_path")) != config.get("class_path", merged.get("class_path")):
            merged = {}
        for key, value in config.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def read_grid(path: Path) -> Grid:
    """Reads a grid file; docs/tables.md says what may stand in it. Raises SystemExit that names what is wrong."""
    keys = ("title", "seeds", "pairs", "methods", "variants", "metrics", "overrides", "threads")
    content = _checked(read_yaml(path), path, keys, required=("pairs", "methods", "seeds"))
    overrides = _checked(content.get("overrides", {}), f"{path}, overrides", ("all", "teachers", "students"))
    pairs = _entries(content["pairs"], f"{path}, pairs", ("config", "teacher", "title", "set"), key="config")
    methods = _entries(content["methods"], f"{path}, methods", ("files", "title", "set", "base"))
    variants = _entries(content.get("variants", []), f"{path}, variants", ("title", "set")) or [{"name": ""}]
    seeds, metrics = content["seeds"], content.get("metrics", ["top1"])
    if not isinstance(seeds, list) or any(type(seed) is not int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise SystemExit(f"{path}: seeds must be a list of different whole numbers, got {seeds!r}")
    if not isinstance(metrics, list) or not set(metrics) <= set(METRICS):
        raise SystemExit(f"{path}: metrics must be a list of some of {list(METRICS)}, got {metrics!r}")
    teachers = {pair["name"]: _teacher(pair, overrides, path) for pair in pairs}
    different = {teacher.id: teacher for teacher in teachers.values() if teacher is not None}
    for teacher in filter(None, teachers.values()):
        if teacher.hash != different[teacher.id].hash:
            raise SystemExit(f"{path}: two different teachers are called {teacher.method!r}: give one another name")
    rows, cells = [], list(different.values())
    for method, variant in product(methods, variants):
        rows.append(_row(method, variant, methods, path))
        for pair in pairs:
            config = _student_config(pair, method, variant, overrides)
            cells += [_cell(pair["name"], rows[-1].name, seed, config, teachers[pair["name"]]) for seed in seeds]
    titles = {pair["name"]: pair.get("title", pair["name"]) for pair in pairs}
    title = content.get("title", path.stem)
    return Grid(path.stem, title, metrics, seeds, content.get("threads"), titles, rows, teachers, cells)


def read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise SystemExit(f"no config {path}: is its name right?") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error


def _student_config(pair: Config, method: Config, variant: Config, overrides: Config) -> Config:
    files = [pair["config"], *method.get("files", [f"methods/{method['name']}"])]
    base, *overlays = [read_yaml(EXAMPLES / f"{file}.yaml") for file in files]
    last = [part.get("set", {}) for part in (method, variant)]
    return merge(base, pair.get("set", {}), *overlays, *last, overrides.get("all", {}), overrides.get("students", {}))


def _teacher(pair: Config, overrides: Config, path: Path) -> Cell | None:
    if pair.get("teacher") is None:
        return None
    (teacher,) = _entries([pair["teacher"]], f"{path}, the teacher of {pair['name']!r}", ("config", "set"))
    base = read_yaml(EXAMPLES / f"{teacher.get('config', teacher['name'])}.yaml")
    config = merge(base, teacher.get("set", {}), overrides.get("all", {}), overrides.get("teachers", {}))
    return _cell("teachers", teacher["name"], config.get("seed_everything", 0), config, None)


def _cell(pair: str, method: str, seed: int, config: Config, teacher: Cell | None) -> Cell:
    """A cell; its config has the seeds, and neither the loggers nor the checkpoint callbacks of the files."""
    config = merge({"trainer": {}}, config, {"seed_everything": seed, "data": {"init_args": {"seed": seed}}})
    config["trainer"].pop("logger", None)
    callbacks = config["trainer"].get("callbacks") or []
    config["trainer"]["callbacks"] = [callback for callback in callbacks if callback["class_path"] != CHECKPOINT]
    name = f"{pair}/{method}" if pair == "teachers" else f"{pair}/{method}/seed{seed}"
    return Cell(name, pair, method, seed, config, teacher)


def _row(method: Config, variant: Config, methods: list[Config], path: Path) -> Method:
    """A method with a variant; its base is the method it names, or the one of its name without ``_tmkd``."""
    name, others = method["name"], {other["name"] for other in methods} - {method["name"]}
    plain = name.removesuffix("_tmkd")
    base = method.get("base", plain if plain in others else None)
    if base is not None and base not in others:
        raise SystemExit(f"{path}: the base {base!r} of {name!r} is no other method there")
    title = method.get("title", TITLES.get(plain, plain) + (" + TMKD" if plain != name else ""))
    if not variant["name"]:
        return Method(name, title, base)
    suffix = f"@{variant['name']}"
    return Method(name + suffix, f"{title}, {variant.get('title', variant['name'])}", base and base + suffix)


def _entries(entries: Any, place: str, keys: Iterable[str], key: str = "name") -> list[Config]:
    """Entries of a list, each a mapping with a name; a word is short for ``{<key>: word}``."""
    if not isinstance(entries, list):
        raise SystemExit(f"{place}: expected a list, got {entries!r}")
    found: dict[str, Config] = {}
    for entry in entries:
        entry = _checked({key: entry} if isinstance(entry, str) else entry, place, ("name", *keys), required=(key,))
        name = entry.get("name", entry[key])
        if name in found or name in ("", "teachers") or "/" in name:
            raise SystemExit(f"{place}: {name!r} stands there twice, or is not a name for a folder")
        found[name] = {**entry, "name": name}
    return list(found.values())


def _checked(entry: Any, place: Any, keys: Iterable[str], required: Iterable[str] = ()) -> Config:
    if not isinstance(entry, dict):
        raise SystemExit(f"{place}: expected a mapping, got {entry!r}")
    if unknown := set(entry) - set(keys):
        raise SystemExit(f"{place}: {sorted(unknown)} not understood; known are {sorted(keys)}")
    if missing := [name for name in required if name not in entry]:
        raise SystemExit(f"{place}: {missing} missing")
    return entry
