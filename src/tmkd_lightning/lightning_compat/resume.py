"""Restores what Lightning leaves out of a resumed run, and warns where the run cannot be exact.

Works around: a checkpoint does not hold which parameters are trained (``BaseFinetuning`` does not unfreeze them again)
nor the size of the training data; float64 weights are loaded before the module is float64; ``max_steps`` resumes in
another epoch (https://github.com/Lightning-AI/pytorch-lightning/issues/19617); ``CSVLogger`` keeps up to
100 steps in memory.
Delete when: an interrupted run that is resumed by Lightning alone passes ``tests/integration/kill_and_resume.py``.
"""

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

RUN = "tmkd_run"  # checkpoint key of the size of the training data and the names of what is frozen


def write_run(module: Any, checkpoint: dict[str, Any]) -> None:
    """Adds to a checkpoint what resuming restores or compares, after writing the loggers' buffered rows."""
    loaded = module._trainer is not None and module.trainer.train_dataloader is not None
    for logger in module.trainer.loggers if loaded else ():
        logger.save()
    checkpoint[RUN] = {
        "sizes": _sizes(module.trainer) if loaded else None,
        "frozen": [name for name, parameter in _own(module.named_parameters()) if not parameter.requires_grad],
        "still": [name for name, norm in _norms(module) if not norm.track_running_stats],
    }


def read_run(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Reads that from a checkpoint, and makes a module of precision ``64-true`` float64 before weights are loaded."""
    module.run_before = checkpoint.get(RUN) or {}
    if module._trainer is not None and module.trainer.precision == "64-true":
        module.double()


def check_same_data(module: Any) -> None:
    """Raises ValueError if a run is resumed in the middle of an epoch on training data of another size."""
    before, now = module.run_before.get("sizes"), _sizes(module.trainer)
    batches = module.trainer.fit_loop.epoch_loop.batch_progress.current.completed
    if before and batches and before != now:
        raise ValueError(
            f"the checkpoint was made after {batches} batches of an epoch of {_format(before)}, and now there are "
            f"{_format(now)}: the rest would be other images. Resume with the same data, or from the end of an epoch"
        )


def restore_run(module: Any) -> None:
    """Restores which parameters train, warns where the run cannot be exact, and stops one that stopped early."""
    trainer = module.trainer
    if module.run_before:
        for name, parameter in _own(module.named_parameters()):
            parameter.requires_grad = name not in module.run_before["frozen"]
        for name, norm in _norms(module):  # BaseFinetuning freezes running statistics like this
            norm.track_running_stats = name not in module.run_before["still"]
    before, now = module.run_before.get("sizes"), _sizes(trainer)
    if before and before != now:
        rank_zero_warn(
            f"the checkpoint is of a run that trained on {_format(before)} in an epoch, and now there are "
            f"{_format(now)}: from here on it is another run, and a schedule that counts steps goes on at another place"
        )
    if trainer.max_steps != -1:
        rank_zero_warn(
            "resuming a run with max_steps: Lightning then takes up another epoch than that of the checkpoint, so "
            "that images are left out or seen twice; give the length of the run in max_epochs"
        )
    batches, summed = trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.accumulate_grad_batches
    if batches < trainer.num_training_batches and batches % summed:
        rank_zero_warn(
            f"the checkpoint was made after batch {batches - 1}, while gradients were summed over {summed} batches, "
            "and holds none of them: the run is not exact; save or validate after a multiple of accumulate_grad_batches"
        )
    for callback in trainer.early_stopping_callbacks:
        if callback.wait_count and callback.wait_count >= callback.patience:
            rank_zero_warn(
                f"EarlyStopping had ended this run, by the patience of {callback.patience} that the checkpoint holds, "
                "and it ends again: to go on, leave the callback out"
            )
            trainer.should_stop = True


def _sizes(trainer: Trainer) -> dict[str, float]:
    """Batches of an epoch in this process, and images of all processes where the loaders know how many they have."""
    loaders = [loader for loader in tree_leaves(trainer.train_dataloader) if isinstance(loader, DataLoader)]
    sizes = [len(loader.dataset) for loader in loaders if isinstance(loader.dataset, Sized)]
    return {"batches": trainer.num_training_batches} | ({"images": sum(sizes)} if sizes else {})


def _own(named: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """All but the teacher's."""
    return [(name, part) for name, part in named if not name.startswith("teacher.frozen.")]


def _norms(module: Any) -> list[tuple[str, _BatchNorm]]:
    return [(name, part) for name, part in _own(module.named_modules()) if isinstance(part, _BatchNorm)]


def _format(sizes: Mapping[str, float]) -> str:
    return " and ".join(f"{number} {name}" for name, number in sizes.items())
