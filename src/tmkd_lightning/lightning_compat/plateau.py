"""The step of a ReduceLROnPlateau that is due when a checkpoint is made, and that Lightning leaves out on resume."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau

PLATEAU = "tmkd_plateau"
"""Key in checkpoints of what schedulers on a plateau were about to see: values by the metric's name."""


class PlateauStep(Callback):
    """Makes up for the scheduler's step that fell between a checkpoint and the kill.

    Lightning saves after validation, then lets ``ReduceLROnPlateau`` look at the metric; a resumed run begins with the
    next epoch, and the look is lost. So it is in the first epoch of a run that is resumed within one. Our modules add
    this callback by themselves.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the metrics as they are now."""
        names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
        checkpoint[PLATEAU] = {
            name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes them; a checkpoint that was made without this callback has none."""
        self._metrics = checkpoint.get(PLATEAU, {})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Steps each scheduler that has looked less often than it should have by now."""
        metrics: dict[str, Any] = {**self._metrics, **trainer.callback_metrics}  # the trainer's are newer, if any
        for config in trainer.lr_scheduler_configs:
            scheduler, seen = config.scheduler, metrics.get(config.monitor or "")
            if not isinstance(scheduler, ReduceLROnPlateau) or config.interval != "epoch" or seen is None:
                continue
            if scheduler.last_epoch < trainer.current_epoch // config.frequency:
                scheduler.step(seen)
        self._metrics = {}
