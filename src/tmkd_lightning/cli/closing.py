"""What ``tmkd fit`` logs and says of a run whatever its length, wherever it trains."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from tmkd_lightning.utils.messages import printable


class LogEveryEpoch(Callback):
    """Logs at least once an epoch, where an epoch has fewer batches than ``log_every_n_steps``.

    Lightning would log no loss and no fusion weight of a short run. The command line adds this where the config leaves
    ``log_every_n_steps`` to its default of 50.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shortens the interval to the batches of an epoch."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        trainer.log_every_n_steps = int(min(every, trainer.num_training_batches))  # type: ignore[attr-defined]


class Closing(Callback):
    """Closes with a table: best and last epoch are different things.

    It is printed by the process that has trained, which under ``ddp_fork`` is not the one that began.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints it."""
        metrics = sorted(trainer.callback_metrics.items())
        lines = [
            f"\n{trainer.current_epoch} epochs, {trainer.global_step} steps, {time.monotonic() - self._start:.0f} s"
        ]
        lines += [
            f"  last epoch  {printable(name):<11} {value.item():.4f}" for name, value in metrics if "val/" in name
        ]
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_score is not None:
                score, path = checkpoint.best_model_score.item(), printable(_relative(checkpoint.best_model_path))
                lines.append(f"  best epoch  {checkpoint.monitor:<11} {score:.4f}  {path}")
        print("\n".join(lines), flush=True)


def warn_of_other_runs(trainer: Trainer) -> None:
    """Says where a run finds the checkpoint of another one under its own name, and so writes under another name.

    Whoever reads the name that the config gives would read the other run's.

    Args:
        trainer: of a run that begins, and is not resumed.
    """
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or not callback.dirpath or not callback._enable_version_counter:
            continue
        path = Path(callback.dirpath, f"{callback.filename}{callback.FILE_EXTENSION}")
        if path.is_file():
            rank_zero_warn(
                f"{_relative(str(path))} is another run's, so this run writes {callback.filename}-v<n> beside it: "
                "enable_version_counter: false for its ModelCheckpoint overwrites it"
            )


def _relative(path: str) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
