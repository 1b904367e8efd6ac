"""Saves the resolved config of a run."""

from __future__ import annotations

from pathlib import Path

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from tmkd_lightning.utils.files import atomic_write
from tmkd_lightning.utils.secrets import masked


class SaveMaskedConfig(SaveConfigCallback):
    """Saves the resolved config beside the logs and logs it, with keys and passwords masked."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves once."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes and logs the config; runs on rank zero only."""
        text = self.parser.dump(self.config, skip_none=False)
        whole = yaml.safe_load(text)
        config = masked(whole)
        if config != whole:
            text = yaml.safe_dump(config, sort_keys=False)
        with atomic_write(self._folder / self.config_filename) as file:
            file.write(text.encode())
        for logger in trainer.loggers:
            logger.log_hyperparams(config)
