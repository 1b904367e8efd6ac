"""A cell's logger for Weights & Biases: a run id of its own, so that a resumed cell goes on in the same run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from config import Config
from grid import Cell


def wandb_logger(cell: Cell, folder: Path, project: str, offline: bool) -> Config:
    """The logger as a piece of config.

    Args:
        cell: gives the id, by its name and config: the same cell is the same run, on every machine.
        folder: takes what wandb writes.
        project: of Weights & Biases.
        offline: whether all stays on this machine until ``wandb sync``.
    """
    run = hashlib.sha256(f"{cell.id} {cell.hash}".encode()).hexdigest()[:16]
    arguments = {"project": project, "name": cell.id, "id": run, "save_dir": str(folder), "offline": offline}
    more = {"group": "/".join(cell.group), "tags": list(cell.group)}
    return {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": arguments, "dict_kwargs": more}
