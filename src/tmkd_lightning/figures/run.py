"""What lies around a checkpoint: the folder of its run, what was logged there, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tmkd_lightning.figures.drawing import NothingToShowError
from tmkd_lightning.models.weights import read_checkpoint

METRICS = "metrics.csv"
CONFIG = "resolved_config.yaml"


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that saved a checkpoint: where it lies, or above Lightning's ``checkpoints``.

    Example:
        >>> run_folder(Path("logs/version_0/checkpoints/last.ckpt")).as_posix()
        'logs/version_0'
    """
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def run_name(folder: Path) -> str:
    """What figures call a run: its folder's name, with the one above where that is a mere version.

    Example:
        >>> run_name(Path("runs/kd")), run_name(Path("logs/version_0"))
        ('kd', 'logs/version_0')
    """
    folder = folder.resolve() if not folder.name else folder
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name


def find(folder: Path, name: str) -> Path | None:
    """Looks for a file in a run's folder and below it in ``version_<n>``; the newest, or None."""
    found = [path for path in [folder / name, *folder.glob(f"version_*/{name}")] if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def metrics_of(run: Path) -> Path:
    """The file that CSVLogger wrote for a run.

    Args:
        run: the run's folder, or the file itself.

    Raises:
        NothingToShowError: there is none.
    """
    path = run if run.is_file() else find(run, METRICS)
    if path is None:
        raise NothingToShowError(f"no {METRICS} in {run} or its version_<n>: train with Lightning's CSVLogger")
    return path


def config_of(folder: Path) -> dict[str, Any]:
    """The config that the command line left beside the logs; empty where there is none.

    Raises:
        ValueError: the file is not one.
    """
    path = find(folder, CONFIG)
    if path is None:
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a config that can be read safely: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config: it holds no mapping")
    return config


def source_of(checkpoint: Path) -> str:
    """Says for captions where a figure comes from: run, checkpoint and seed.

    Args:
        checkpoint: one that can be read.
    """
    folder = run_folder(checkpoint)
    step = read_checkpoint(checkpoint).get("global_step", "unknown")
    seed = config_of(folder).get("seed_everything", "unknown")
    return f"run {run_name(folder)}, checkpoint {checkpoint.name} (step {step}), seed {seed}"
