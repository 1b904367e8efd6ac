"""The ``ReduceLROnPlateau`` step between a checkpoint and the end of its epoch.

Works around: Lightning saves after validation and steps ``ReduceLROnPlateau`` afterwards, and leaves that step out when
the run is resumed (https://github.com/Lightning-AI/pytorch-lightning/pull/14702).
Delete when: a resumed run makes that step, or checkpoints are saved after it.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau

PLATEAU = "tmkd_plateau"  # checkpoint key of the metrics that plateau schedulers monitor


class PlateauStep(Callback):
    """Makes the step of ``ReduceLROnPlateau`` that Lightning skips on resume. Our modules add it."""

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the monitored metrics."""
        names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
        checkpoint[PLATEAU] = {n: value.item() for n, value in trainer.callback_metrics.items() if n in names}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reads the monitored metrics, if the checkpoint was made with this callback."""
        self._metrics = checkpoint.get(PLATEAU, {})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Steps each scheduler that is a step behind the epochs, also in the epoch after one resumed in its middle."""
        metrics: dict[str, Any] = {**self._metrics, **trainer.callback_metrics}
        for config in trainer.lr_scheduler_configs:
            scheduler, metric = config.scheduler, metrics.get(config.monitor or "")
            by_epoch = isinstance(scheduler, ReduceLROnPlateau) and config.interval == "epoch"
            if by_epoch and metric is not None and scheduler.last_epoch < trainer.current_epoch // config.frequency:
                scheduler.step(metric)
        self._metrics = {}
