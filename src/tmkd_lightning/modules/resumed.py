"""A resumed run: what would make it another one than an undisturbed run, said before its first step."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn


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
    loop, validates = trainer.fit_loop.epoch_loop, trainer.val_check_batch or math.inf
    batches = loop.batch_progress.current.ready or trainer.num_training_batches  # none are left of a whole epoch
    if loop.restarted_on_train_batch_end and batches % validates == 0:
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
        if callback.wait_count >= callback.patience:
            rank_zero_info(f"EarlyStopping has ended this run before: {callback.monitor} had stopped to improve")
            trainer.should_stop = True
