"""What ``tmkd fit`` logs and prints about a run."""

from __future__ import annotations

import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from tmkd_lightning.utils.messages import printable


class LogEveryEpoch(Callback):
    """Logs at least once an epoch: an epoch may have fewer batches than the default ``log_every_n_steps`` of 50."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shortens the interval to the batches of an epoch."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        trainer.log_every_n_steps = int(min(every, trainer.num_training_batches))  # type: ignore[attr-defined]


class RunSummary(Callback):
    """Prints the last and the best epoch when training ends, from the process that trained (see ``ddp_fork``)."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints it."""
        seconds = time.monotonic() - self._start
        lines = [f"\n{trainer.current_epoch} epochs, {trainer.global_step} steps, {seconds:.0f} s"]
        for name, value in sorted(trainer.callback_metrics.items()):
            if "val/" in name:
                lines.append(f"  last epoch  {printable(name):<11} {value.item():.4f}")
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_score is not None:
                path = Path(checkpoint.best_model_path)
                path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
                score = checkpoint.best_model_score.item()
                lines.append(f"  best epoch  {checkpoint.monitor:<11} {score:.4f}  {printable(path)}")
        print("\n".join(lines), flush=True)
