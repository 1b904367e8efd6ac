"""Augmentation and order that depend on (seed, epoch, index) alone: not on workers, restarts or other randomness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, default_collate


class Seeded(Dataset[tuple[Any, ...]]):
    """Transforms each sample with a generator of its own.

    Args:
        samples: gives raw image and label by index.
        transform: from a raw image to a uint8 tensor ``(3, H, W)``; draws from torch's global generator.
        seed: of the run.
        replicas: after how many epochs the augmentation comes again, 0 for never. Replicas are the same for all seeds,
            and every sample brings its row along, ``replica * len(data) + index``, by which it is known again.

    Example:
        >>> data = Seeded([(0, 7)], lambda image: torch.rand(1), seed=0)
        >>> data[0][0].equal(data[0][0])
        True
        >>> twice = Seeded([(0, 7), (1, 8)], lambda image: torch.rand(1), seed=0, replicas=2)
        >>> twice.set_epoch(3)
        >>> twice[1][1:]
        (8, 3)
    """

    def __init__(self, samples: Any, transform: Callable[[Any], Tensor], seed: int, replicas: int = 0) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = 0 if replicas else seed  # what is stored about replicas serves runs of all seeds
        self.replicas = replicas
        # shared, so that workers which live through all epochs see the current one
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Moves on to another epoch's augmentation."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        epoch = int(self._epoch)
        if not self.replicas:
            return self.draw(epoch, index)
        replica = epoch % self.replicas
        return *self.draw(replica, index), replica * len(self) + index

    def draw(self, epoch: int, index: int) -> tuple[Tensor, int]:
        """The image and label of a sample as an epoch sees them.

        Args:
            epoch: or replica, from 0.
            index: of the sample.

        Returns:
            Transformed image and label.
        """
        image, label = self.samples[index]
        state = np.random.SeedSequence((self.seed, epoch, index)).generate_state(2)
        with _host_generator(int(state[0]) << 32 | int(state[1])):
            return self.transform(image), label


@contextmanager
def _host_generator(seed: int) -> Iterator[None]:
    """Seeds the CPU's generator for a while. torch.manual_seed also seeds devices, at 2 ms a call without one."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch), deals to the processes, and tells the dataset which epoch it is.

    Lightning calls `set_epoch` on it before every epoch, after a restart too.

    Args:
        dataset: to draw from.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
        seen: says how many images of an epoch this process saw before the run was cut off; asked once for each
            epoch that Lightning has announced, when its first batch is drawn.

    Example:
        >>> sampler = EpochSampler(Seeded(range(5), None, 0), seed=0, seen=lambda: 3)
        >>> sampler.set_epoch(0)
        >>> rest, whole = list(sampler), list(sampler)
        >>> sorted(whole), rest == whole[3:]
        ([0, 1, 2, 3, 4], True)
    """

    def __init__(
        self, dataset: Seeded, seed: int, rank: int = 0, world_size: int = 1, seen: Callable[[], int] = lambda: 0
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)
        self.samples, self.seen, self._announced = dataset, seen, False

    def __iter__(self) -> Iterator[Any]:
        """The indices of the epoch, in a resumed one those that were not seen yet."""
        seen = self.seen() if self._announced else 0
        self._announced = False
        return islice(super().__iter__(), seen, None)

    def set_epoch(self, epoch: int) -> None:
        """Moves order and augmentation on to another epoch."""
        super().set_epoch(epoch)
        self.samples.set_epoch(epoch)
        self._announced = True


def collate(samples: list[tuple[Any, ...]]) -> list[Any]:
    """Makes a batch; rows, if there are any, become an array, which stays on the host when tensors move to a device.

    Args:
        samples: (image, label) or (image, label, row).

    Returns:
        Images, labels, and rows ``(B,)`` where samples have them.

    Example:
        >>> collate([(torch.zeros(3, 2, 2), 1, 5), (torch.ones(3, 2, 2), 0, 9)])[1:]
        [tensor([1, 0]), array([5, 9])]
    """
    images, labels, *rows = zip(*samples, strict=True)
    return [*default_collate(list(zip(images, labels, strict=True))), *map(np.array, rows)]


def leaves_one(samples: Sized, batch_size: int, world_size: int) -> bool:
    """Tells whether an epoch's last batch would hold one image, which BatchNorm cannot train on."""
    return -(-len(samples) // world_size) % batch_size == 1
