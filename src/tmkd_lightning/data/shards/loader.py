"""LitData's streaming loader, started where the trainer's counters say that the run is."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from litdata import StreamingDataLoader, StreamingDataset

from tmkd_lightning.data.sampling import SeededDataset
from tmkd_lightning.data.shards.reading import decode

# LitData deals the shards to the workers, so the length that it gives is right
warnings.filterwarnings("ignore", "Your `IterableDataset` has `__len__` defined")


class Augment:
    """Decodes a sample of a shard, and augments it under its own seed.

    Args:
        dataset: that knows transform, seed and epoch.
        place: of the shards, for messages.
    """

    def __init__(self, dataset: SeededDataset, place: str) -> None:
        self.dataset, self.place = dataset, place

    def __call__(self, sample: dict[str, Any]) -> tuple[Any, ...]:
        """Image, label, and the row where rows are asked for."""
        index = int(sample["index"])
        image = decode(bytes(sample["image"]), self.place, index)
        return self.dataset.apply(index, image, int(sample["label"]))


class ShardLoader(StreamingDataLoader):  # type: ignore[misc]
    """Shuffled batches, whose order follows from (seed, epoch, batch size, processes, workers).

    Lightning calls `set_epoch` of a loader's sampler before every epoch, also after a restart. `samples_seen` gives the
    number of images of that epoch that this process saw before the run was interrupted; it is called when the first
    batch is drawn. LitData's own state is not used: Lightning does not hand it back where a schedule has asked for the
    number of steps before, and a checkpoint should not depend on LitData's version.
    """

    def __init__(
        self, dataset: StreamingDataset, seeded: SeededDataset, samples_seen: Callable[[], int], **options: Any
    ) -> None:
        dataset.posix_fast = None  # would choose order and number of workers by file system and free memory
        super().__init__(dataset, **options)
        self.seeded, self.samples_seen, self._epoch, self._is_new_epoch = seeded, samples_seen, 0, False
        self.sampler.set_epoch = self.set_epoch  # an iterable dataset has torch's stand-in for a sampler

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the order and of the augmentation."""
        self._epoch, self._is_new_epoch = epoch, True
        self.seeded.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Begins once the first batch is drawn, for Lightning makes the iterator before it restores a checkpoint."""
        seen = self.samples_seen() if self._is_new_epoch else 0
        self._is_new_epoch = self.restore = False
        self.current_epoch = self._epoch
        if seen >= self.dataset.get_len(self.num_workers, self.batch_size):
            return
        if seen:
            self._go_to(seen)
        yield from super().__iter__()

    def _go_to(self, seen: int) -> None:
        """Has LitData leave out the first images of the epoch, by the state that it would have saved after them."""
        self.dataset.reset_state_dict()
        self.dataset.set_epoch(self._epoch + 1)  # it counts from 1
        super().load_state_dict(
            {
                "dataset": self.dataset.state_dict(seen, self.num_workers, self.batch_size),
                "current_epoch": self._epoch + 1,
                "num_samples_yielded": seen,
                "latest_worker_idx": (seen // self.batch_size - 1) % max(1, self.num_workers),
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Empty: Lightning's own counters hold the position in an epoch."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores nothing."""
