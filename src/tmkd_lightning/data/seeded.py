"""Augmentation and order that depend on (seed, epoch, index) alone: not on workers, restarts or other randomness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler


class Seeded(Dataset[tuple[Tensor, int]]):
    """Transforms each sample with a generator of its own.

    Args:
        samples: gives raw image and label by index.
        transform: from a raw image to a uint8 tensor ``(3, H, W)``; draws from torch's global generator.
        seed: of the run.

    Example:
        >>> data = Seeded([(0, 7)], lambda image: torch.rand(1), seed=0)
        >>> data[0][0].equal(data[0][0])
        True
    """

    def __init__(self, samples: Any, transform: Callable[[Any], Tensor], seed: int) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed
        # shared, so that workers which live through all epochs see the current one
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Moves on to another epoch's augmentation."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.samples[index]
        state = np.random.SeedSequence((self.seed, int(self._epoch), index)).generate_state(2)
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
    """

    def __init__(self, dataset: Seeded, seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)
        self.samples = dataset

    def set_epoch(self, epoch: int) -> None:
        """Moves order and augmentation on to another epoch."""
        super().set_epoch(epoch)
        self.samples.set_epoch(epoch)


def leaves_one(samples: Sized, batch_size: int, world_size: int) -> bool:
    """Tells whether an epoch's last batch would hold one image, which BatchNorm cannot train on."""
    return -(-len(samples) // world_size) % batch_size == 1
