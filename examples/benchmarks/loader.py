"""What loading training images costs here, against a bare loop over the same files.

    python examples/benchmarks/loader.py --roots data/cub200 data/cub200_256 --workers 2 --rounds 15

The bare loop is a DataLoader over a Dataset that only decodes, crops and flips. Each loader goes through the training
images of the first root once a round, all in turn and in one process, after a round that is not counted. Further roots
hold smaller copies, which our loader reads as well. Prints images a second and the time against the bare loop's,
medians over the rounds, and writes runs/loader.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import report
from PIL import Image
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


def measure(roots: list[str], workers: int, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    modules = [CUB200DataModule(root, val="test", num_workers=workers, batch_size=batch_size) for root in roots]
    images = len(modules[0].samples("train"))
    loaders = {"bare": bare(modules[0])} | {f"ours, {module.root}": ours(module) for module in modules}
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
    parser.add_argument("--roots", nargs="+", default=["data/cub200"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    report("loader", measure(**vars(parser.parse_args())), hidden=["seconds"])


if __name__ == "__main__":
    main()
