"""A DataLoader that begins an epoch when its first batch is asked for, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class LateLoader(DataLoader[Any]):
    """Hands nothing to its workers before the first batch is asked for.

    Lightning makes the iterator of the first epoch before it knows which epoch that is: when it counts the steps for a
    schedule, and before a checkpoint is restored. Workers would begin at once, with the order and the augmentation of
    epoch 0, or of the last epoch of the run before.

    Example:
        >>> class Told:
        ...     epoch = 0
        ...     def __iter__(self):
        ...         return iter([self.epoch])
        ...     def __len__(self):
        ...         return 1
        >>> sampler = Told()
        >>> batches = iter(LateLoader([10, 11, 12], batch_size=1, sampler=sampler))
        >>> sampler.epoch = 2
        >>> list(batches)
        [tensor([12])]
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches; a generator, so that nothing happens before the first."""
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where in an epoch a resumed run stands, Lightning's own counters say. See `EpochSampler`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""
