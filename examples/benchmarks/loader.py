"""What loading training images costs here, against a bare loop over the same files.

    python examples/benchmarks/loader.py --root data/cub200 --resized data/cub200_256 --workers 2 --rounds 15

The bare loop is a DataLoader over a Dataset that only decodes, crops and flips. Each loader goes through the training
images once a round, all in turn and in one process, after a round that is not counted. With --resized, our loader
also reads a copy that `tmkd data resize` made. Prints images a second and the time against the bare loop's, medians
over the rounds, and writes runs/loader.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from record import print_table, write
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from tmkd_lightning.data import CUB200DataModule


class Bare(Dataset[tuple[Tensor, int]]):
    """Loading as one writes it for oneself; of the orders of the four steps, the fastest."""

    def __init__(self, files: list[tuple[Path, int]], image_size: int) -> None:
        self.files = files
        self.transform = v2.Compose([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            return self.transform(v2.functional.pil_to_tensor(image.convert("RGB"))), label


def bare(data: CUB200DataModule) -> DataLoader[Any]:
    return DataLoader(
        Bare(data.samples("train").files, data.image_size),
        batch_size=data.batch_size,
        shuffle=True,
        num_workers=data.num_workers,
        persistent_workers=data.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def ours(data: CUB200DataModule) -> DataLoader[Any]:
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def epoch(loader: DataLoader[Any]) -> float:
    """Seconds to go through a loader once."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def measure(root: str, workers: int, batch_size: int, rounds: int, resized: str | None) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"val": "test", "num_workers": workers, "batch_size": batch_size}
    data = CUB200DataModule(root, **options)
    images = len(data.samples("train"))
    loaders = {"bare": bare(data), "ours": ours(data)}
    if resized is not None:
        loaders["ours, resized"] = ours(CUB200DataModule(resized, **options))
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(rounds + 1):
        for name in sorted(loaders, reverse=turn % 2 == 1):  # none is always the first
            if name != "bare":
                loaders[name].sampler.set_epoch(turn)  # as the Trainer does
            seconds[name].append(epoch(loaders[name]))
    return [
        {
            "loader": name,
            "images_per_s": images / statistics.median(times[1:]),
            "ratio": statistics.median(one / other for one, other in zip(times[1:], seconds["bare"][1:], strict=True)),
            "seconds": times[1:],
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="data/cub200")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--resized", help="root of a smaller copy")
    rows = measure(**vars(parser.parse_args()))
    print_table([{name: value for name, value in row.items() if name != "seconds"} for row in rows])
    write("loader", rows)


if __name__ == "__main__":
    main()
