"""Compares the class names of a network with those of the data before each run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Subset

from tmkd_lightning.text import class_names


class ClassNamesCheck(Callback):
    """Refuses data whose labels mean other classes than a network has learned.

    Names of the data and of the network's checkpoint or training are compared, where both have some, but for case,
    blanks and underscores. Another order, or other names that the module's `class_names` do not explain, raise a
    ValueError; training on other data without ``ckpt_path`` only warns, as the network then learns their classes.
    Modules of this library add this callback themselves.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the data with the module's argument, before a checkpoint is loaded."""
        data = class_names.data_classes(pl_module, class_names.datamodule_of(trainer))
        class_names.check_same_classes([], class_names.given_classes(pl_module), data)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Stores the classes that are learned from now on."""
        source = _data(trainer, trainer.fit_loop._data_source.instance)  # the loader is set up later
        data = class_names.data_classes(pl_module, source)
        if trainer.ckpt_path:
            class_names.check_module_classes(pl_module, source)
        if data is None:
            return
        if not trainer.ckpt_path:
            other = [learned for learned in class_names.learned_classes(pl_module) if not learned.same(data)]
            if other:
                rank_zero_warn(
                    f"the network has learned other classes than it is trained on now: {other[-1].against(data)}; to "
                    "go on with the classes that it knows, name and sort the data's as they were in training"
                )
            pl_module.saved_class_names = None
        pl_module.trained_class_names = list(data.names)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the data with the network's classes."""
        loaders = getattr(trainer, f"{trainer.state.stage.dataloader_prefix}_dataloaders")  # type: ignore[union-attr]
        class_names.check_module_classes(pl_module, _data(trainer, loaders))

    on_test_start = on_predict_start = on_validation_start


def _data(trainer: Trainer, loaders: Any) -> object:
    """Returns the datamodule, or else the dataset of the first loader."""
    data = class_names.datamodule_of(trainer)
    first = next((loader for loader in tree_leaves(loaders) if loader is not None), None)
    dataset = getattr(first, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset if data is None else data
