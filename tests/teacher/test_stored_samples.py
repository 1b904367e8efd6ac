"""Samples on disk: each row is the one that was made, whole, and made once."""

from __future__ import annotations

import errno
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tmkd_lightning.data.sampling import EpochSampler, SeededDataset, collate
from tmkd_lightning.teacher.cache import CacheError, CacheFolder
from tmkd_lightning.teacher.cache.stored_samples import IMAGE, LABEL, StoredSamples

IMAGES, REPLICAS = 12, 2


class Samples:
    """Images whose pixels all hold their index, and a file with a line for each that was opened, by any process."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.log, "a") as file:
            file.write(f"{index}\n")
        return torch.full((3, 2, 2), index, dtype=torch.uint8), 100 + index

    def opened(self) -> int:
        count = len(self.log.read_text().split()) if self.log.exists() else 0
        self.log.unlink(missing_ok=True)
        return count


def brighten(image: torch.Tensor) -> torch.Tensor:
    """By a number that is another for each sample and replica, whatever they are."""
    return image + torch.randint(20, 200, (1,)).to(torch.uint8)


def folder(tmp_path: Path, label: Any = 0, rows: int = IMAGES * REPLICAS) -> CacheFolder:
    label = np.asarray(label)
    made = CacheFolder(tmp_path / "cache", {"a": 1}, {IMAGE: "uint8", LABEL: label.dtype.name})
    made.create(rows, {IMAGE: (3, 2, 2), LABEL: label.shape})
    return made


def dataset(tmp_path: Path, stored: bool = True) -> SeededDataset:
    data = SeededDataset(Samples(tmp_path / "log"), brighten, seed=0, replicas=REPLICAS)
    data.store = StoredSamples(folder(tmp_path)) if stored else None
    return data


def epochs(data: SeededDataset, count: int, workers: int = 0) -> list[list[Any]]:
    """Batches as plain lists; workers live through all epochs, as they do in a run."""
    sampler = EpochSampler(data, seed=0)
    options = {"batch_size": 5, "num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(data, sampler=sampler, collate_fn=collate, **options)
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append([[part.tolist() for part in batch] for batch in loader])
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_opened_once_a_replica_and_read_ever_after(tmp_path: Path, workers: int) -> None:
    """Workers that were started before a row was written read what another one of them wrote."""
    expected = epochs(dataset(tmp_path, stored=False), 5)
    data = dataset(tmp_path)
    data.samples.opened()
    assert epochs(data, 5, workers) == expected
    assert data.samples.opened() == IMAGES * REPLICAS
    assert epochs(dataset(tmp_path), 3) == expected[:3]
    assert data.samples.opened() == 0


def test_batches_hold_the_same_types(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    plain, half = collate([dataset(tmp_path, stored=False)[index] for index in (0, 1)]), [data[0]]
    for batch in (collate([*half, data[1]]), collate([data[0], data[1]])):
        assert [(part.dtype, part.shape) for part in batch] == [(part.dtype, part.shape) for part in plain]
        assert batch[0].is_contiguous()


@pytest.mark.parametrize("label", [3, 0.25, np.int32(4), torch.tensor([0.1, 0.9]), -1])
def test_labels_of_any_kind_come_back(tmp_path: Path, label: Any) -> None:
    store = StoredSamples(folder(tmp_path, label))
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    made = store.read_or_make(7, lambda: (image, label))
    read = store.read_or_make(7, lambda: 1 / 0)
    assert made[0].equal(image)
    assert read[0].equal(image)
    assert made[1].equal(read[1])
    assert read[1].dtype == torch.as_tensor(np.asarray(label)).dtype
    assert read[1].tolist() == np.asarray(label).tolist()


def test_a_damaged_row_is_made_anew_and_no_other(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    expected = epochs(data, 2)
    data.samples.opened()
    path = data.store.folder.file(IMAGE)
    content = bytearray(path.read_bytes())
    content[-12 * 10] ^= 1  # in the fifteenth row
    path.write_bytes(content)
    assert epochs(data, 2) == expected
    assert data.samples.opened() == 1
    assert epochs(data, 2) == expected
    assert data.samples.opened() == 0


@pytest.mark.parametrize("how", ["full", "gone"])
def test_a_disk_that_is_full_or_gone_costs_one_warning(tmp_path: Path, monkeypatch, how: str) -> None:
    expected = epochs(dataset(tmp_path, stored=False), 4)
    data = dataset(tmp_path)
    if how == "gone":
        for path in data.store.folder.path.iterdir():
            path.unlink()
    written, calls = os.pwrite, []

    def full(descriptor: int, content: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert epochs(data, 4) == expected
    assert [str(one.message)[:62] for one in caught] == [
        "No more images are stored, and they go on being decoded: [Errn"
    ]
    assert len(calls) == (21 if how == "full" else 0)


def test_samples_that_differ_in_shape_or_type_are_refused(tmp_path: Path) -> None:
    """NumPy would cast floats in [0, 1] to zeros."""
    store = StoredSamples(folder(tmp_path))
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    with pytest.raises(CacheError, match=r"sample 5 has the image float32 \(3, 2, 2\), and the first has uint8"):
        store.read_or_make(5, lambda: (image / 2, 1))
    with pytest.raises(CacheError, match=r"sample 6 has the image uint8 \(3, 2, 1\), and the first has uint8 \(3, 2,"):
        store.read_or_make(6, lambda: (image[..., :1], 1))
    with pytest.raises(CacheError, match=r"sample 7 has the label float64 \(\), and the first has int64 \(\)"):
        store.read_or_make(7, lambda: (image, 0.5))


def test_another_process_opens_the_files_itself(tmp_path: Path) -> None:
    """Numbers of open files mean others there: a worker that is spawned gets none."""
    store = StoredSamples(folder(tmp_path))
    image = torch.full((3, 2, 2), 6, dtype=torch.uint8)
    store.read_or_make(3, lambda: (image, 1))
    copy = pickle.loads(pickle.dumps(store))
    store.folder.close()
    assert copy.read_or_make(3, lambda: 1 / 0)[0].equal(image)


@pytest.mark.slow
def test_spawned_workers(tmp_path: Path) -> None:
    data, plain = dataset(tmp_path), dataset(tmp_path, stored=False)
    data[0]  # the files are open here
    loader = DataLoader(data, batch_size=5, collate_fn=collate, num_workers=1, multiprocessing_context="spawn")
    found = [image for batch in loader for image in batch[0]]
    assert all(image.equal(plain[index][0]) for index, image in enumerate(found))
    assert data.store.folder.complete is False
    assert data.store.folder.written == IMAGES
