"""Builds the config of a cell out of several YAML files, and says by a hash which config it is."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmkd_lightning.utils.configs import read_config

Config = dict[str, Any]

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
_PLACES = ("root", "num_workers", "download")  # of a datamodule: they change where things are, and no number


def load(path: Path) -> Config:
    """Reads a config, a mapping in YAML."""
    if not path.is_file():
        raise SystemExit(f"no config {path}: is its name right?")
    try:
        return read_config(path)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


def merge(*configs: Mapping[str, Any]) -> Config:
    """Lays configs over each other, as several ``--config`` do.

    Mappings are joined, everything else is replaced, and so is a class by another one together with its arguments.

    Example:
        >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": [4]})
        {'a': {'x': 1, 'y': 3}, 'b': [4]}
        >>> merge({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B"})
        {'class_path': 'B'}
    """
    merged: Config = {}
    for config in configs:
        if merged.get("class_path", config.get("class_path")) != config.get("class_path", merged.get("class_path")):
            merged = {}
        for key, value in config.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def bare(config: Config, seed: int) -> Config:
    """A config with its seeds, and without what says where results go: the part that decides the numbers."""
    config = merge(config, {"seed_everything": seed, "data": {"init_args": {"seed": seed}}})
    trainer = config.setdefault("trainer", {})
    trainer.pop("logger", None)
    callbacks = trainer.get("callbacks") or []
    trainer["callbacks"] = [callback for callback in callbacks if callback["class_path"] != CHECKPOINT]
    return config


def digest(config: Config, teacher: str | None) -> str:
    """Hash of a bare config and of its teacher's; where the data lie does not count.

    Example:
        >>> one, other = ({"data": {"init_args": {"root": root, "seed": 0}}} for root in ("here", "there"))
        >>> digest(one, None) == digest(other, None), digest(one, None) == digest(one, "a teacher")
        (True, False)
    """
    config = copy.deepcopy(config)
    for name in _PLACES:
        config.get("data", {}).get("init_args", {}).pop(name, None)
    config.get("model", {}).get("init_args", {}).pop("teacher_checkpoint", None)
    return hashlib.sha256(json.dumps([config, teacher], sort_keys=True).encode()).hexdigest()[:16]


def placed(config: Config, folder: Path, attempt: str, teacher: Path | None, loggers: list[Config]) -> Config:
    """A bare config that writes into a cell's folder.

    Args:
        config: what to train.
        folder: takes both checkpoints, and the log folder of this attempt.
        attempt: name of that log folder.
        teacher: checkpoint of the teacher, if there is one.
        loggers: of Weights & Biases, beside the CSV logger.
    """
    csv = {"save_dir": str(folder), "name": "", "version": attempt, "flush_logs_every_n_steps": 1}  # a kill loses none
    keep = {"dirpath": str(folder), "enable_version_counter": False}
    callbacks = [  # the best first: whenever the last one is there, so is the best one up to it
        {"class_path": CHECKPOINT, "init_args": {**keep, "filename": "best", "monitor": "val/top1", "mode": "max"}},
        {"class_path": CHECKPOINT, "init_args": {**keep, "filename": "last"}},
        *([{"class_path": "tmkd_lightning.callbacks.StudentArtifact"}] if loggers else []),
    ]
    trainer = {
        "devices": 1,
        "default_root_dir": str(folder),
        "enable_progress_bar": False,
        "logger": [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": csv}, *loggers],
        "callbacks": [*config["trainer"]["callbacks"], *callbacks],
    }
    model = {} if teacher is None else {"model": {"init_args": {"teacher_checkpoint": str(teacher)}}}
    return merge(config, {"trainer": trainer}, model)
