"""The trained student as an artifact of Weights & Biases, offline too."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn


class StudentArtifact(Callback):
    """Hands the best checkpoint, which holds the student and no teacher, to Weights & Biases when training is over.

    ``WandbLogger(log_model=True)`` does something like it, but refuses to while the logger is offline.
    The file is that of the trainer's first ModelCheckpoint; its alias is ``best`` if that one monitors something, else
    ``last``.

    Args:
        name: of the artifact; by default ``student-`` and the run's id.

    Raises:
        ValueError: the trainer has no WandbLogger, or no ModelCheckpoint (raised in `setup`).
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks early for what will be needed late."""
        if stage == "fit" and not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            raise ValueError("StudentArtifact needs a WandbLogger among the trainer's loggers")
        if stage == "fit" and not isinstance(trainer.checkpoint_callback, ModelCheckpoint):
            raise ValueError("StudentArtifact needs a ModelCheckpoint among the trainer's callbacks")

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands the file over."""
        checkpoint = trainer.checkpoint_callback
        assert isinstance(checkpoint, ModelCheckpoint)  # as setup has seen
        if not Path(checkpoint.best_model_path).is_file():
            rank_zero_warn("StudentArtifact has nothing to hand over: no checkpoint was saved")
            return
        import wandb  # slow to import, and only needed here

        score = checkpoint.best_model_score
        metadata = {} if score is None else {str(checkpoint.monitor): score.item()}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                run = logger.experiment
                artifact = wandb.Artifact(self.name or f"student-{run.id}", type="model", metadata=metadata)
                artifact.add_file(checkpoint.best_model_path, name="student.ckpt")
                run.log_artifact(artifact, aliases=["last" if checkpoint.monitor is None else "best"])
