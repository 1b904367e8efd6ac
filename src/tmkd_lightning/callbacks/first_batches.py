"""A few validation batches, outside of the loop that validates."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from lightning.pytorch import Trainer
from torch.utils._pytree import tree_leaves


def first_batches(trainer: Trainer, count: int | None) -> Iterator[Any]:
    """The first batches of the first validation loader, on the device.

    Args:
        trainer: that has its loaders already.
        count: how many at most, None for all.

    Yields:
        Batches as the module's own hooks transfer them; none where there are no validation data.
    """
    loaders = [loader for loader in tree_leaves(trainer.val_dataloaders) if loader is not None]
    for batch in islice(chain.from_iterable(loaders[:1]), count):
        yield trainer.strategy.batch_to_device(batch)
