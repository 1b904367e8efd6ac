"""Holds the class names of a network and of the data against each other, whenever the two meet."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Subset

from tmkd_lightning.text.class_names import (
    check_module_classes,
    check_same_classes,
    data_classes,
    given_classes,
    learned_classes,
)
from tmkd_lightning.text.prompts import datamodule_of


class ClassNamesCheck(Callback):
    """Refuses data whose labels stand for other classes than those that a network has learned.

    Names are compared but for capitals, blanks and underscores, where both the data and the network's checkpoint, or
    its training, have some. A network that is trained on other data without ``ckpt_path`` learns their classes; a
    warning says so. Modules of this library bring it along.

    Raises:
        ValueError: another order, or other names that the module's `class_names` do not explain (before the first
            batch).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ClassNamesCheck()], logger=False, enable_checkpointing=False)
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Holds the data against what the user calls the classes; nothing has been loaded yet."""
        check_same_classes([], given_classes(pl_module), data_classes(pl_module, datamodule_of(trainer)))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what is learned from now on."""
        module: Any = pl_module  # of ours
        source = _data(trainer, trainer.fit_loop._data_source.instance)  # the loader is set up later
        data = data_classes(module, source)
        if trainer.ckpt_path:
            check_module_classes(module, source)
        if data is None:
            return
        if not trainer.ckpt_path:
            known = next((one for one in reversed(learned_classes(module)) if not one.same(data)), None)
            if known is not None:
                rank_zero_warn(
                    f"the network has learned other classes than it is trained on now: {known.against(data)}; to go on "
                    "with the classes that it knows, name and sort the data's as they were in training"
                )
            module.saved_class_names = None
        module.trained_class_names = list(data.names)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks what is about to be measured."""
        check_module_classes(pl_module, _data(trainer, trainer.val_dataloaders))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks what is about to be measured."""
        check_module_classes(pl_module, _data(trainer, trainer.test_dataloaders))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks what is about to be predicted."""
        check_module_classes(pl_module, _data(trainer, trainer.predict_dataloaders))


def _data(trainer: Trainer, loaders: Any) -> object:
    """Who names the classes of the images: the datamodule, or else the dataset of the first loader."""
    data = datamodule_of(trainer)
    first = next((loader for loader in tree_leaves(loaders) if loader is not None), None)
    dataset = getattr(first, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset if data is None else data
