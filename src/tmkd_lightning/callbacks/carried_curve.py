"""What a run has logged travels in its checkpoints, so that a resumed run's file holds the whole curve."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

METRICS = "metrics.csv"
"""Name of the file that Lightning's CSVLogger writes."""

CURVE = "tmkd_curve"
"""Key in checkpoints of the text of metrics.csv up to there; empty where no CSVLogger logged."""


class CarriedCurve(Callback):
    """Begins the ``metrics.csv`` of a resumed run with the rows up to its checkpoint: no epoch missing, none twice.

    Lightning's CSVLogger gives a resumed run a file of its own, which begins in the middle: what was logged between
    the checkpoint and the kill stands in both files, and what was not yet on the disk in none. The command line adds
    this callback by itself. Other loggers are left alone.

    Example:
        >>> _values({"epoch": "3", "val/top1": "0.25", "train/ce": "", "warm": "True"})
        {'epoch': 3, 'val/top1': 0.25, 'warm': 'True'}
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, str]] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the file as it is now."""
        checkpoint[CURVE] = ""
        for logger in _csv_loggers(trainer):
            logger.save()
            path = Path(logger.log_dir) / METRICS
            checkpoint[CURVE] = path.read_text() if path.is_file() else ""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the rows; a checkpoint that was made without this callback has none."""
        self._rows = list(csv.DictReader(checkpoint.get(CURVE, "").splitlines()))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs them again, into the new file, even if there is nothing left to train."""
        for logger in _csv_loggers(trainer):
            _ = logger.experiment  # begins a new file, where the logger has not got one
            if (Path(logger.log_dir) / METRICS).is_file():
                continue  # the same logger goes on: the rows are in its file
            for row in self._rows:
                logger.log_metrics(_values(row), step=int(row["step"]))
            logger.save()
        self._rows = []


def _csv_loggers(trainer: Trainer) -> list[CSVLogger]:
    """The first one, if there is one, on the process that logs."""
    found = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    return found[:1] if trainer.is_global_zero and not trainer.fast_dev_run else []  # type: ignore[attr-defined]


def _values(row: dict[str, str]) -> dict[str, Any]:
    return {name: _value(text) for name, text in row.items() if text and name != "step"}


def _value(text: str) -> int | float | str:
    """A number, or what else somebody has logged."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text
