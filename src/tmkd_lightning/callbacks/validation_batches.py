"""A few validation batches, outside of the loop that validates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset


def validation_batches(trainer: Trainer, count: int | None) -> tuple[Iterator[Any], bool]:
    """Takes batches of the first validation loader, spread over its data, to the device.

    Folders come sorted by class, so the first batches would hold one class or two. No more batches are read than
    validation itself may read (``limit_val_batches``, ``fast_dev_run``).

    Args:
        trainer: that has its loaders already.
        count: how many at most, None for all.

    Returns:
        Batches as the hooks for validation transfer them, checked; none where there are no validation data. And
        whether they are from all over the data: a loader whose images cannot be had by index gives its first ones.

    Raises:
        ValueError: a batch is not what it must be (when it is taken).
    """
    loaders = [loader for loader in tree_leaves(trainer.val_dataloaders) if loader is not None]
    limits = [math.inf if count is None else count, *trainer.num_val_batches[:1]]
    if not loaders or min(limits) == 0:
        return iter(()), True
    spread = spread_over(loaders[0], min(limits))
    taken = loaders[0] if spread is None else spread
    most = None if math.isinf(min(limits)) else int(min(limits))
    return _transferred(trainer, islice(taken, most)), spread is not None


def spread_over(loader: Any, count: float) -> Iterable[Any] | None:
    """Makes a loader of images from all over another one's data, in order; what lies between is not read.

    Args:
        loader: of which dataset, sampler, size of the batches and collation are taken.
        count: how many batches; not a whole number only if it is infinite.

    Returns:
        The loader itself if it has no more batches; None where images cannot be had by index.

    Example:
        >>> batches = spread_over(DataLoader(range(100), batch_size=2), 3)
        >>> [min(batch.tolist()) // 33 for batch in batches]
        [0, 1, 2]
    """
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return None  # it may do something with the batches, or read no dataset at all
    length = None if isinstance(loader.dataset, IterableDataset) else _length(loader)
    if length is None:
        return None
    if length <= count:
        return loader
    options: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "num_workers": min(loader.num_workers, int(count)),
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }
    if loader.batch_sampler is None:  # the dataset itself gives batches
        places = list(islice(loader.sampler, length))
        return DataLoader(loader.dataset, None, sampler=_one_of_each_part(places, int(count)), **options)
    batches = list(islice(loader.batch_sampler, length))
    if loader.batch_size is None:  # somebody has thought about what goes into one batch
        chosen = _one_of_each_part(batches, int(count))
    else:
        size = loader.batch_size
        images = _one_of_each_part([image for batch in batches for image in batch], int(count) * size)
        chosen = [images[start : start + size] for start in range(0, len(images), size)]
    return DataLoader(loader.dataset, batch_sampler=chosen, **options)


def _length(loader: DataLoader[Any]) -> int | None:
    try:
        return len(loader)
    except TypeError:  # a sampler without one, which may never end
        return None


def _one_of_each_part(places: list[Any], count: int) -> list[Any]:
    """One of each of `count` equal parts, at random within them: even steps may fit a period of the data."""
    generator = torch.Generator().manual_seed(0)
    count = min(count, len(places))
    edges = [index * len(places) // count for index in range(count + 1)]
    return [places[int(torch.randint(low, high, (), generator=generator))] for low, high in pairwise(edges)]


def _transferred(trainer: Trainer, batches: Iterable[Any]) -> Iterator[Any]:
    module: Any = trainer.lightning_module
    for batch in batches:
        with _validating(trainer):  # hooks may augment where they believe that the batch is for training
            batch = trainer.precision_plugin.convert_input(batch)
            batch = module._on_before_batch_transfer(batch, 0)
            batch = trainer.strategy.batch_to_device(batch)
            module.check_batch(batch)  # as before training: a datamodule with a transfer hook of its own replaces ours
        yield batch


@contextmanager
def _validating(trainer: Trainer) -> Iterator[None]:
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage
