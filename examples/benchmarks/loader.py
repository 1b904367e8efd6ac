"""What loading training images costs here, against bare loops over the same files.

    python examples/benchmarks/loader.py --roots data/cub200 data/cub200_256 --workers 2 --rounds 15
    OMP_NUM_THREADS=1 python examples/benchmarks/loader.py --roots data/cub200 --workers 0 --clock cpu --rounds 5

A bare loop is a DataLoader over a Dataset that only decodes, by PIL, by torchvision, or by TurboJPEG where simplejpeg
is installed, crops and flips. Each loader goes through the training images of the first root once a round, all in turn
and in one process, after a round that is not counted. Further roots hold smaller copies, which our loader reads as
well. Colours are jittered by the workers, or only drawn by them, for device_augmentations to jitter (whose own time is
the device's, and not measured here). The last one reads what a TeacherCache with images=True has stored of the first.
Prints images a second (of one core, with --clock cpu) and the time against the bare loop with PIL, medians over the
rounds, and writes runs/loader.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import CLOCKS, report
from kornia.augmentation import RandomBrightness, RandomContrast, RandomHue, RandomSaturation
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from tmkd_lightning.data import CUB200DataModule
from tmkd_lightning.teacher.cache import CacheFolder
from tmkd_lightning.teacher.cache.stored_samples import IMAGE, LABEL, StoredSamples

warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision are deprecated")


def by_pil(path: Path) -> Tensor:
    with Image.open(path) as image:
        return v2.functional.pil_to_tensor(image.convert("RGB"))


def by_torchvision(path: Path) -> Tensor:
    return decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)


def by_turbojpeg(path: Path) -> Tensor:
    import simplejpeg

    return torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes())).permute(2, 0, 1)


BARE = {"bare, PIL": by_pil, "bare, torchvision": by_torchvision}
if find_spec("simplejpeg"):
    BARE["bare, TurboJPEG"] = by_turbojpeg


class Bare(Dataset[tuple[Tensor, int]]):
    """Loading as one writes it for oneself; of the orders of the four steps, the fastest."""

    def __init__(self, files: list[tuple[Path, int]], image_size: int, decode: Callable[[Path], Tensor]) -> None:
        self.files, self.decode = files, decode
        self.transform = v2.Compose([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        return self.transform(self.decode(path)), label


def bare(data: CUB200DataModule, decode: Callable[[Path], Tensor]) -> DataLoader[Any]:
    return DataLoader(
        Bare(data.samples("train").files, data.image_size, decode),
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


def jittered(root: str, on_device: bool, **options: Any) -> CUB200DataModule:
    """Brightness, contrast, saturation and hue of each image, by torchvision in the workers or by Kornia."""
    if on_device:
        jitter = [kind((0.6, 1.4), p=1.0) for kind in (RandomBrightness, RandomContrast, RandomSaturation)]
        return CUB200DataModule(root, device_augmentations=[*jitter, RandomHue((-0.1, 0.1), p=1.0)], **options)
    crop = CUB200DataModule(root, **options).train_transform
    return CUB200DataModule(root, train_transform=v2.Compose([crop, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]), **options)


def stored(data: CUB200DataModule, directory: Path) -> DataLoader[Any]:
    """Ours with the files of a TeacherCache of one replica; the round that is not counted fills them."""
    data.setup("fit")
    folder, side = CacheFolder(directory, {}, {IMAGE: "uint8", LABEL: "int64"}), data.image_size
    folder.create(data.training_images, {IMAGE: (3, side, side), LABEL: ()})
    data.store_samples(StoredSamples(folder))
    return data.train_dataloader()


def epoch(loader: DataLoader[Any], clock: Callable[[], float]) -> float:
    """Seconds to go through a loader once."""
    start = clock()
    for _ in loader:
        pass
    return clock() - start


def measure(roots: list[str], workers: int, batch_size: int, rounds: int, clock: str) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"val": "test", "num_workers": workers, "batch_size": batch_size}
    modules = [CUB200DataModule(root, **options) for root in roots]
    images = len(modules[0].samples("train"))
    loaders = {name: bare(modules[0], decode) for name, decode in BARE.items()}
    loaders |= {f"ours, {module.root}": ours(module) for module in modules}
    for place, on_device in (("by workers", False), ("on the device", True)):
        loaders[f"ours, colours {place}"] = ours(jittered(roots[0], on_device, **options))
    seconds: dict[str, list[float]] = {name: [] for name in [*loaders, "ours, stored"]}
    with tempfile.TemporaryDirectory() as folder:
        once = CUB200DataModule(roots[0], augmentation_replicas=1, **options)
        loaders["ours, stored"] = stored(once, Path(folder))
        for turn in range(rounds + 1):
            for name in sorted(loaders, reverse=turn % 2 == 1):  # none is always the first
                if name not in BARE:
                    loaders[name].sampler.set_epoch(turn)  # as the Trainer does
                seconds[name].append(epoch(loaders[name], CLOCKS[clock]))
    floor = seconds["bare, PIL"][1:]
    return [
        {
            "loader": name,
            "images_per_s": images / statistics.median(times[1:]),
            "ratio": statistics.median(one / other for one, other in zip(times[1:], floor, strict=True)),
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
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of a shared machine, with --workers 0")
    options = vars(parser.parse_args())
    if options["clock"] == "cpu" and options["workers"]:
        parser.error("the cpu clock does not see workers: take --workers 0")
    report("loader", measure(**options), hidden=["seconds"])


if __name__ == "__main__":
    main()
