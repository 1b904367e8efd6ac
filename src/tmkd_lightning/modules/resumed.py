"""A resumed run: what would make it another one than an undisturbed run, said before its first step."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn


def check_resumed(trainer: Trainer) -> None:
    """Warns of what Lightning does not take up where it was, and ends a run that had stopped early.

    Args:
        trainer: that has read a checkpoint and is about to train on.
    """
    if trainer.max_steps != -1:
        rank_zero_warn(
            "resuming a run with max_steps: Lightning then takes up another epoch than that of the checkpoint, so "
            "that images are left out or seen twice; give the length of the run in max_epochs"
        )
    loop = trainer.fit_loop.epoch_loop
    batches = loop.batch_progress.current.ready
    if loop.restarted_on_train_batch_end and _validation_was_due(trainer, batches):
        rank_zero_warn(
            f"the checkpoint was made after batch {batches - 1} and before the validation that was due there, which "
            "Lightning leaves out now: resume from a checkpoint that was made after one, and choose "
            "every_n_train_steps so that the two do not meet"
        )
    if batches < trainer.num_training_batches and batches % trainer.accumulate_grad_batches:
        rank_zero_warn(
            f"the checkpoint was made after batch {batches - 1}, while gradients were summed over "
            f"{trainer.accumulate_grad_batches} batches, and holds none of them: the run ends otherwise than an "
            "undisturbed one; save or validate after a multiple of accumulate_grad_batches"
        )
    for callback in trainer.early_stopping_callbacks:
        if callback.wait_count and callback.wait_count >= callback.patience:
            rank_zero_warn(
                f"EarlyStopping had ended this run, by the patience of {callback.patience} that the checkpoint holds, "
                "and it ends again: to go on, leave the callback out"
            )
            trainer.should_stop = True


def _validation_was_due(trainer: Trainer, batches: int) -> bool:
    """Whether it was after so many batches of the epoch."""
    if not trainer.enable_validation or trainer.val_check_batch is None:
        return False
    if trainer.check_val_every_n_epoch is None:
        return trainer.fit_loop.epoch_loop.batch_progress.total.ready % trainer.val_check_batch == 0
    whole = batches >= trainer.num_training_batches  # then Lightning counts the epoch already
    epochs = trainer.current_epoch + (0 if whole else 1)
    return epochs % trainer.check_val_every_n_epoch == 0 and batches % trainer.val_check_batch == 0
