"""A resumed run: what would make it another one than an undisturbed run, said before its first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

T = TypeVar("T")

RUN = "tmkd_run"
"""Key in checkpoints of how much the run trained on in an epoch, and of the names of what did not train."""


def write_run(module: Any, checkpoint: dict[str, Any]) -> None:
    """Writes into a checkpoint what a resumed run is held against.

    Args:
        module: a module of ours.
        checkpoint: as Lightning gives it to the module.
    """
    loaded = module._trainer is not None and module.trainer.train_dataloader is not None
    checkpoint[RUN] = {
        "sizes": _sizes(module.trainer) if loaded else None,
        "frozen": [name for name, parameter in _own(module.named_parameters()) if not parameter.requires_grad],
        "still": [name for name, norm in _norms(module) if not norm.track_running_stats],
    }


def read_run(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Takes that from a checkpoint, and gets ready for weights in double precision.

    Lightning reads a checkpoint first, and only then makes the module one of double precision: its weights would be
    rounded to float32 on the way.

    Args:
        module: a module of ours.
        checkpoint: as Lightning gives it to the module.
    """
    module.run_before = checkpoint.get(RUN) or {}
    if module._trainer is not None and module.trainer.precision == "64-true":
        module.double()


def _sizes(trainer: Trainer) -> dict[str, float]:
    """Batches of an epoch in this process, and images of all processes where the loaders say how many they have."""
    loaders = [loader for loader in tree_leaves(trainer.train_dataloader) if isinstance(loader, DataLoader)]
    sizes = [len(loader.dataset) for loader in loaders if isinstance(loader.dataset, Sized)]
    images = {"images": sum(sizes)} if sizes else {}
    return {"batches": trainer.num_training_batches, **images}


def _own(named: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """What is not the teacher's."""
    return [(name, part) for name, part in named if not name.startswith("teacher.frozen.")]


def _norms(module: Any) -> list[tuple[str, _BatchNorm]]:
    return [(name, part) for name, part in _own(module.named_modules()) if isinstance(part, _BatchNorm)]


def check_same_data(module: Any) -> None:
    """Refuses to go on within an epoch whose training data have another size now.

    Args:
        module: a module of ours, about to train on its first batch.

    Raises:
        ValueError: they have.
    """
    before, now = module.run_before.get("sizes"), _sizes(module.trainer)
    batches = module.trainer.fit_loop.epoch_loop.batch_progress.current.completed
    if before and batches and before != now:
        raise ValueError(
            f"the checkpoint was made after {batches} batches of an epoch of {_told(before)}, and now there are "
            f"{_told(now)}: the rest would be other images. Resume with the same data, or from the end of an epoch"
        )


def take_up_run(module: Any) -> None:
    """Has train what trained, warns of what is not taken up where it was, and ends a run that had stopped early.

    Lightning's ``BaseFinetuning`` gives the optimizer its groups again, and leaves frozen what it had unfrozen.

    Args:
        module: a module of ours that has read a checkpoint and is about to train on.
    """
    trainer = module.trainer
    if module.run_before:
        for name, parameter in _own(module.named_parameters()):
            parameter.requires_grad = name not in module.run_before["frozen"]
        for name, norm in _norms(module):  # BaseFinetuning freezes their statistics so
            norm.track_running_stats = name not in module.run_before["still"]
    before, now = module.run_before.get("sizes"), _sizes(trainer)
    if before and before != now:
        rank_zero_warn(
            f"the checkpoint is of a run that trained on {_told(before)} in an epoch, and now there are {_told(now)}: "
            "from here on it is another run, and a schedule that counts steps goes on at another place"
        )
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


def _told(sizes: Mapping[str, float]) -> str:
    return " and ".join(f"{number} {name}" for name, number in sizes.items())
