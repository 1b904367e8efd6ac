"""Runs the networks of trained runs on a datamodule, for figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils._pytree import tree_leaves

from tmkd_lightning.callbacks.validation_batches import spread_over
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.figures import CollectedOutputs, OutputCollector
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.text.class_names import find_class_names, resolve_class_names


class _Collect(Callback):
    """Passes every batch of the first loader to a collector."""

    def __init__(self, collector: OutputCollector) -> None:
        self.collector = collector

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Updates the collector."""
        if dataloader_idx == 0:
            self.collector.update(*pl_module.preprocess_labelled(batch))

    on_test_batch_end = on_validation_batch_end


def collect(
    module: BaseModule,
    networks: Mapping[str, Extractor],
    data: LightningDataModule,
    split: Literal["val", "test"] = "val",
    examples: int = 4,
    batches: int | None = None,
    accelerator: str = "auto",
) -> CollectedOutputs:
    """Runs networks on a split of a datamodule through Lightning's loop, so that its hooks and checks apply.

    At most `batches` batches are read, spread over the first loader where its images have an index; None for all.
    """
    names = resolve_class_names(module.num_classes, known=find_class_names(module, data))
    collector = OutputCollector(networks, names, examples)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=batches,
        limit_test_batches=batches,
        callbacks=[_Collect(collector)],
    )
    name = f"{split}_dataloader"
    loaders = getattr(data, name)

    def first_loader() -> Any:
        loader = next(iter(tree_leaves(loaders())), None)
        return loader if batches is None else spread_over(loader, batches) or loader

    vars(data)[name] = first_loader  # for this call, before the class's method
    try:
        {"val": trainer.validate, "test": trainer.test}[split](module, datamodule=data, verbose=False)
    finally:
        del vars(data)[name]
    return collector.compute()
