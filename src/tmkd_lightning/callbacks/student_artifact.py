"""Uploads the trained student to Weights & Biases as an artifact, offline too."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn


class StudentArtifact(Callback):
    """Logs the best checkpoint, which holds the student and no teacher, as an artifact when training ends.

    ``WandbLogger(log_model=True)`` does so too, but not while the logger is offline. The file is that of the trainer's
    first ModelCheckpoint; its alias is ``best`` if that one monitors a metric, else ``last``.

    Args:
        name: of the artifact; by default ``student-`` and the run's id.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that a WandbLogger and a ModelCheckpoint are there."""
        has_logger = any(isinstance(logger, WandbLogger) for logger in trainer.loggers)
        if stage == "fit" and not (has_logger and isinstance(trainer.checkpoint_callback, ModelCheckpoint)):
            raise ValueError("StudentArtifact needs a WandbLogger and a ModelCheckpoint in the trainer")

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the artifact."""
        checkpoint: Any = trainer.checkpoint_callback  # a ModelCheckpoint, as setup has seen
        if not Path(checkpoint.best_model_path).is_file():
            rank_zero_warn("StudentArtifact has nothing to log: no checkpoint was saved")
            return
        import wandb  # slow to import, and only needed here

        score = checkpoint.best_model_score
        metadata = {} if score is None else {str(checkpoint.monitor): score.item()}
        for run in (logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)):
            artifact = wandb.Artifact(self.name or f"student-{run.id}", type="model", metadata=metadata)
            artifact.add_file(checkpoint.best_model_path, name="student.ckpt")
            run.log_artifact(artifact, aliases=["last" if checkpoint.monitor is None else "best"])
