"""Seeds each sample from (seed, epoch, index) and each order from (seed, epoch), so resuming is exact."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from tmkd_lightning.data.device_augmentation import DeviceAugmentation
from tmkd_lightning.utils.drawn_parameters import DrawnParameters


class SampleStore(Protocol):
    """Keeps augmented samples by their row, for all loading processes."""

    def read_or_make(self, row: int, make: Callable[[], tuple[Any, Any]]) -> tuple[Tensor, Any]:
        """Image and label of a row; those that it lacks are made, and kept."""


class SeededDataset(Dataset[tuple[Any, ...]]):
    """Transforms each sample (raw image, label) under a seed of its own.

    With `replicas` above 0, the augmentation repeats after as many epochs and is the same for all seeds. Each sample
    then has a third item, its row in a teacher cache: ``replica * len(data) + index``. So it has if `numbered` is set.
    Samples with a row are read from `store`, if it is set, and made only where they are not there yet.

    With `augmentation`, what it is to do with the image on the device is drawn here, and is the last item.
    """

    numbered = False
    store: SampleStore | None = None

    def __init__(
        self,
        samples: Any,
        transform: Callable[[Any], Tensor],
        seed: int,
        replicas: int = 0,
        augmentation: DeviceAugmentation | None = None,
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.augmentation = augmentation
        self.seed = 0 if replicas else seed  # one cache serves runs of all seeds
        self.replicas = replicas
        # shared memory, so that persistent workers see the current epoch
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose augmentation is drawn."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.item(self._drawn_epoch(), index)

    def item(self, epoch: int, index: int) -> tuple[Any, ...]:
        """A sample in an epoch (or replica), whatever the current one is."""
        return self._item(epoch, index, self.draw(epoch, index))

    def apply(self, index: int, image: Any, label: int) -> tuple[Any, ...]:
        """What a sample becomes in the current epoch, for those who have read it themselves."""
        epoch = self._drawn_epoch()
        return self._item(epoch, index, (self._transform(epoch, index, image), label))

    def draw(self, epoch: int, index: int) -> tuple[Tensor, Any]:
        """Transformed image and label of a sample in an epoch (or replica)."""

        def make() -> tuple[Tensor, Any]:
            image, label = self.samples[index]
            return self._transform(epoch, index, image), label

        return make() if self.store is None else self.store.read_or_make(self.row(epoch, index), make)

    def for_device(self, epoch: int, index: int, image: Tensor) -> tuple[DrawnParameters, ...]:
        """What `augmentation` is to do with the transformed image of a sample; nothing without one."""
        if self.augmentation is None:
            return ()
        with _seeded(self.seed, epoch, index, 1):  # not where the transform ended, as a stored image needs none
            return (self.augmentation.draw(image),)

    def row(self, replica: int, index: int) -> int:
        """Row of a sample in a teacher cache."""
        return replica * len(self) + index

    def _drawn_epoch(self) -> int:
        """The current epoch, or its replica."""
        return int(self._epoch) % self.replicas if self.replicas else int(self._epoch)

    def _item(self, epoch: int, index: int, sample: tuple[Tensor, Any]) -> tuple[Any, ...]:
        row = (self.row(epoch, index),) if self.replicas else (index,) if self.numbered else ()
        return *sample, *row, *self.for_device(epoch, index, sample[0])

    def _transform(self, epoch: int, index: int, image: Any) -> Tensor:
        with _seeded(self.seed, epoch, index):
            return self.transform(image)


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """Has torch's generator begin at a state of its own, and go on afterwards as if nothing had been drawn."""
    state = np.random.SeedSequence(numbers).generate_state(2)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed all devices too, which takes 2 ms a call
        torch.default_generator.manual_seed(int(state[0]) << 32 | int(state[1]))
        yield


class CacheRows(Dataset[tuple[Any, ...]]):
    """The samples of some rows of a teacher cache, whatever their epoch is."""

    def __init__(self, data: SeededDataset, rows: np.ndarray) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Any, ...]:
        return self.data.item(*divmod(int(self.rows[place]), len(self.data)))


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch), splits between processes, and sets the epoch of the dataset.

    Lightning calls `set_epoch` before every epoch, also after a restart. `samples_seen` gives the number of images of
    that epoch that this process saw before the run was interrupted; it is called when the first batch is drawn.
    """

    def __init__(
        self,
        dataset: SeededDataset,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        samples_seen: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)
        self.samples, self.samples_seen, self._is_new_epoch = dataset, samples_seen, False

    def __iter__(self) -> Iterator[Any]:
        seen = self.samples_seen() if self._is_new_epoch else 0
        self._is_new_epoch = False
        return islice(super().__iter__(), seen, None)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the order and of the augmentation."""
        super().set_epoch(epoch)
        self.samples.set_epoch(epoch)
        self._is_new_epoch = True


class DeferredLoader(DataLoader[Any]):
    """Defers the start of an epoch, and of its workers, until the first batch is asked for.

    Lightning makes the iterator of the first epoch before it restores a checkpoint and sets the sampler's epoch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Empty: Lightning's own counters hold the position in an epoch. See `EpochSampler`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores nothing."""


def collate(samples: list[tuple[Any, ...]]) -> list[Any]:
    """Makes a batch of (image, label), with rows and drawn parameters where there are any; these stay on the host."""
    images, labels, *others = zip(*samples, strict=True)
    joined = [DrawnParameters.join(part) if isinstance(part[0], DrawnParameters) else np.array(part) for part in others]
    return [*default_collate(list(zip(images, labels, strict=True))), *joined]
