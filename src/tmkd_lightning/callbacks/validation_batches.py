"""A few validation batches, outside of Lightning's validation loop."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset


def validation_batches(trainer: Trainer, count: int | None) -> tuple[Iterator[Any], bool]:
    """At most `count` batches of the first validation loader, on the device, and whether they are from all over it."""
    loader = next((one for one in tree_leaves(trainer.val_dataloaders) if one is not None), None)
    limit = min([math.inf if count is None else count, *trainer.num_val_batches[:1]])
    if loader is None or limit == 0:
        return iter(()), True
    spread = spread_over(loader, limit)
    batches = islice(loader if spread is None else spread, None if math.isinf(limit) else int(limit))
    return _transferred(trainer, batches), spread is not None


def spread_over(loader: Any, count: float) -> Iterable[Any] | None:
    """Returns a loader of `count` batches from all over the data of another one, in order.

    Returns the loader itself if it has no more batches, and None if its images have no index, its length is unknown, or
    its batches are made by a dataset or sampler of the user's own.
    """
    indices = indices_of(loader)
    if indices is None or len(loader) <= count:
        return None if indices is None else loader
    return loader_of(loader, one_of_each_part(indices, int(count) * loader.batch_size))


def indices_of(loader: Any) -> list[Any] | None:
    """The indices of a loader's images in order; None where they have none, or it is unknown how many there are."""
    indexed = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    if not indexed or loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return None
    try:
        length = len(loader)
    except TypeError:  # a sampler without a length, which may never end
        return None
    return list(chain.from_iterable(islice(loader.batch_sampler, length)))


def loader_of(loader: Any, indices: Sequence[Any]) -> DataLoader[Any]:
    """A loader of those images of another one's dataset, in batches as large as its."""
    size = loader.batch_size
    batches = [list(indices[start : start + size]) for start in range(0, len(indices), size)]
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        collate_fn=loader.collate_fn,
        num_workers=min(loader.num_workers, len(batches)),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def one_of_each_part(indices: Sequence[Any], count: int) -> list[Any]:
    """A random one of each of `count` equal parts: with even steps, labels that alternate could all be the same."""
    generator = torch.Generator().manual_seed(0)
    count = min(count, len(indices))
    edges = [index * len(indices) // count for index in range(count + 1)]
    return [indices[int(torch.randint(low, high, (), generator=generator))] for low, high in pairwise(edges)]


def _transferred(trainer: Trainer, batches: Iterable[Any]) -> Iterator[Any]:
    """Applies the transfer hooks of module and datamodule, in the stage "validate", since hooks may augment."""
    module: Any = trainer.lightning_module
    for batch in batches:
        stage = trainer.state.stage
        trainer.validating = True
        try:
            batch = trainer.precision_plugin.convert_input(batch)
            batch = module._on_before_batch_transfer(batch, 0)
            batch = trainer.strategy.batch_to_device(batch)
            module.check_batch(batch)  # a datamodule with a transfer hook of its own replaces the module's
        finally:
            trainer.state.stage = stage
        yield batch
