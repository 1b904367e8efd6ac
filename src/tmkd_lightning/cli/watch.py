"""Shows the images of a finished run's data to its networks, through Lightning's own loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils._pytree import tree_leaves

from tmkd_lightning.callbacks.validation_batches import spread_over
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.figures import CollectedOutputs, OutputCollector
from tmkd_lightning.modules.base import ClassificationModule
from tmkd_lightning.text.prompts import fitting_class_names, names_or_numbers


class _Watch(Callback):
    """Hands every batch, checked and on the device, to an observer."""

    def __init__(self, observer: OutputCollector) -> None:
        self.observer = observer

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Sees a batch of validation images."""
        self._see(pl_module, *args)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Sees a batch of test images."""
        self._see(pl_module, *args)

    def _see(self, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            self.observer.update(*module.take_labelled(batch))


def watch(
    module: ClassificationModule,
    networks: Mapping[str, Extractor],
    data: LightningDataModule,
    split: Literal["val", "test"] = "val",
    examples: int = 4,
    batches: int | None = None,
    accelerator: str = "auto",
) -> CollectedOutputs:
    """Shows a split of a datamodule to networks, by validating or testing a module on it.

    Args:
        module: unpacks and checks the batches, and knows or is told the classes.
        networks: as in `OutputCollector`.
        data: where the images are.
        split: ``val`` or ``test``; of several loaders, the first counts.
        examples: as in `OutputCollector`.
        batches: how many to look at, from all over the split where its images can be had by index; None for all.
        accelerator: Lightning's.

    Returns:
        What was seen.

    Raises:
        ValueError: data, module and networks do not have the same classes, or a batch is not what it must be.
        NothingToPlotError: there are no images.
    """
    names = names_or_numbers(fitting_class_names(module, data), module.num_classes)
    observer = OutputCollector(networks, names, examples)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=batches,
        limit_test_batches=batches,
        callbacks=[_Watch(observer)],
    )
    measure = {"val": trainer.validate, "test": trainer.test}[split]
    with _spread(data, f"{split}_dataloader", batches):
        measure(module, datamodule=data, verbose=False)
    return observer.compute()


@contextmanager
def _spread(data: LightningDataModule, name: str, batches: int | None) -> Iterator[None]:
    """Has a datamodule give images from all over a split: its first batches may hold one class or two."""
    make = getattr(data, name)

    def first_loader() -> Any:
        loader = next(iter(tree_leaves(make())), None)
        return loader if batches is None else spread_over(loader, batches) or loader

    vars(data)[name] = first_loader  # of this one datamodule, for as long as it is asked
    try:
        yield
    finally:
        del vars(data)[name]
