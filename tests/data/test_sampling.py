"""Augmentation and order depend on (seed, epoch, index) and on nothing else."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tmkd_lightning.data.sampling import EpochSampler, SeededDataset, collate


def draw(image: float) -> Tensor:
    """Shows which random numbers a sample was transformed with."""
    return torch.cat([torch.tensor([image]), torch.rand(3)])


def dataset(count: int = 12, seed: int = 0) -> SeededDataset:
    return SeededDataset([(float(index), index) for index in range(count)], draw, seed)


def drawn(data: SeededDataset, epoch: int = 0) -> Tensor:
    data.set_epoch(epoch)
    return torch.stack([data[index][0][1:] for index in range(len(data))])


def test_same_key_same_sample() -> None:
    data = dataset()
    assert (data[5][0][0].item(), data[5][1], len(data)) == (5.0, 5, 12)
    first = drawn(data, epoch=3)
    torch.manual_seed(99)
    torch.rand(17)
    assert drawn(data, epoch=3).equal(first)
    assert drawn(dataset(), epoch=3).equal(first)  # after a restart
    EpochSampler(again := dataset(), seed=0).set_epoch(3)  # tells the dataset
    assert again[7][0][1:].equal(first[7])  # out of order


def test_every_part_of_the_key_counts() -> None:
    """Neighbouring keys must not give equal or related numbers, as adding up epoch and index would."""
    keys = [(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    rows = torch.cat([drawn(dataset(seed=seed), epoch) for seed, epoch in keys])
    assert len(rows.unique(dim=0)) == len(keys) * 12  # no two share their numbers, (0, 1) and (1, 0) neither
    rows = torch.cat([drawn(dataset(200), epoch) for epoch in range(5)])
    assert len(rows.unique(dim=0)) == 1000
    assert rows.mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.corrcoef(torch.stack([rows[:-1, 0], rows[1:, 0]]))[0, 1].abs() < 0.1


def test_generators_are_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed would reset those of all devices with every sample, and so the noise of a step there."""

    def fail(image: float) -> Tensor:
        torch.rand(1)
        raise RuntimeError("broken")

    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    dataset()[0]
    with pytest.raises(RuntimeError, match="broken"):
        SeededDataset([(0.0, 0)], fail, seed=0)[0]
    assert torch.get_rng_state().equal(before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert seeded == []


def batches(data: SeededDataset, workers: int, epochs: Sequence[int] = (0, 1)) -> list[Tensor]:
    """As Lightning goes through a loader: it tells the sampler the epoch."""
    sampler = EpochSampler(data, seed=0)
    loader = DataLoader(data, batch_size=5, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    seen = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        seen += [image for image, _ in loader]
    return seen


def test_neither_workers_nor_a_restart_matter() -> None:
    """Workers that live through all epochs must see the epoch change, too; a resumed epoch is the undisturbed one."""
    alone, with_two = batches(dataset(), workers=0), batches(dataset(), workers=2)
    assert len(alone) == len(with_two) == 6
    assert all(one.equal(other) for one, other in zip(alone, with_two, strict=True))
    resumed = batches(dataset(), workers=0, epochs=[1])
    assert all(one.equal(other) for one, other in zip(resumed, alone[3:], strict=True))


def order(epoch: int, seed: int = 0, rank: int = 0, world_size: int = 1, count: int = 12) -> list[int]:
    sampler = EpochSampler(dataset(count), seed, rank, world_size)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_epoch_is_a_shuffle_of_its_own_that_processes_share() -> None:
    orders = [order(epoch, seed) for epoch in (0, 1) for seed in (0, 5)]
    assert all(sorted(one) == list(range(12)) for one in orders)
    assert all(one != list(range(12)) for one in orders)
    assert order(1) == order(1)
    assert order(0) != order(1)
    assert order(0, seed=0) != order(0, seed=5)
    for world_size, count in ((2, 12), (3, 12), (4, 10), (2, 7)):
        shares = [order(2, rank=rank, world_size=world_size, count=count) for rank in range(world_size)]
        assert {len(share) for share in shares} == {-(-count // world_size)}  # equally many steps for each
        together = [index for share in shares for index in share]
        assert set(together) == set(range(count))
        assert len(together) - count == -count % world_size  # only what rounding up needs is there twice


def replicated(replicas: int, seed: int = 0) -> SeededDataset:
    return SeededDataset([(float(index), index) for index in range(5)], draw, seed, replicas)


def test_replicas_come_again_in_turn_for_every_seed() -> None:
    epochs = [drawn(replicated(3), epoch) for epoch in range(7)]
    for epoch, rows in enumerate(epochs):
        assert rows.equal(epochs[epoch % 3])
        assert rows.equal(drawn(replicated(3, seed=1), epoch))
    assert len(torch.cat(epochs[:3]).unique(dim=0)) == 15


def test_each_sample_brings_its_row() -> None:
    """An array is not moved with the tensors of a batch, so nobody waits for a device to know which rows these are."""
    data, found = replicated(3), []
    for epoch in (0, 1, 2, 3):
        data.set_epoch(epoch)
        found += [data[index][2] for index in range(5)]
    assert found == [*range(15), *range(5)]
    assert len(dataset()[0]) == 2  # none without replicas
    image, label, rows = next(iter(DataLoader(replicated(2), batch_size=5, collate_fn=collate, num_workers=1)))
    assert isinstance(rows, np.ndarray)
    assert rows.tolist() == label.tolist() == [0, 1, 2, 3, 4]
    assert image.shape == (5, 4)
