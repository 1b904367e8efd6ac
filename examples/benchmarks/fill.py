"""What `tmkd cache fill` reaches of the teacher's bare forwards, and two processes of one.

    python examples/benchmarks/fill.py --pair resnet --images 96
    python examples/benchmarks/fill.py --pair resnet --images 96 --processes 2

Images of noise, uint8, without augmentation to speak of. The bare forwards are those of the same network, on views that
are made already, in batches as large; they and the filling take turns, `--rounds` times, by the wall or, on a shared
machine, by the processor time of this process. With `--processes`, parts are filled by as many processes at once, one
thread each, and once by one of them, by the wall. Prints images a second and ratios of medians, and writes
runs/fill.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable

import torch
from common import CLOCKS, PAIRS, VIEWS, report
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tmkd_lightning import TMKDModule
from tmkd_lightning.callbacks import TeacherCache
from tmkd_lightning.cli.cache_fill import FillTrainer, fill
from tmkd_lightning.data import ImageDataModule


class Noise(ImageDataModule):
    def __init__(self, images: int, side: int, batch_size: int) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=0,
            image_size=side,
            augmentation_replicas=1,
            train_transform=torch.clone,
            eval_transform=torch.clone,
        )
        self.images = torch.randint(0, 256, (images, 3, side, side), generator=torch.manual_seed(0), dtype=torch.uint8)

    @property
    def class_names(self) -> list[str]:
        return [str(index) for index in range(100)]

    def samples(self, split: str) -> list[tuple[Tensor, int]]:
        return [(image, index % 100) for index, image in enumerate(self.images)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default="resnet")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="of filling against bare forwards")
    parser.add_argument("--part", help="used by the script itself: a directory, and the part of it to fill")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    make_teacher, make_student, side = PAIRS[options.pair]
    module = TMKDModule(make_teacher(num_classes=100), make_student(num_classes=100), views=VIEWS, text_weight=0)
    data = Noise(options.images, side, options.batch_size)
    if options.part:
        torch.set_num_threads(1)
        directory, shard = options.part.split()
        print(fill_once(module, data, directory, shard, CLOCKS["wall"]))
        return
    clock = CLOCKS[options.clock]
    found: dict[str, list[float]] = {"filling": [], "bare": []}
    for _ in range(options.rounds):
        found["bare"].append(options.images / bare(module, data, clock))
        with tempfile.TemporaryDirectory() as directory:
            found["filling"].append(options.images / fill_once(module, data, directory, "1/1", clock))
    ratios = [one / other for one, other in zip(found["filling"], found["bare"], strict=True)]
    results = {f"{name}, images/s": statistics.median(values) for name, values in found.items()}
    results["filling / bare"] = statistics.median(ratios)
    if options.processes > 1:
        one, several = [], []
        for _ in range(options.rounds):
            one.append(parts(1, options.processes))
            several.append(parts(options.processes, options.processes))
        faster = options.processes * statistics.median(one) / statistics.median(several)
        results[f"{options.processes} processes / one"] = faster
    report("fill", [{"pair": options.pair, **results}])


def bare(module: TMKDModule, data: Noise, clock: Callable[[], float]) -> float:
    """Seconds of the teacher's forwards on all views of all images."""
    batches = [module.views(batch / 255).flatten(0, 1) for batch in data.images.split(data.batch_size)]
    start = clock()
    for batch in batches:
        module.teacher.frozen(batch, views=len(VIEWS), checked=True)
    return clock() - start


class Duration(Callback):
    """Seconds from the first batch to the last."""

    seconds = 0.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds -= self.clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += self.clock()


def fill_once(module: TMKDModule, data: Noise, directory: str, shard: str, clock: Callable[[], float]) -> float:
    """Seconds of filling a part."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = FillTrainer(accelerator="cpu", callbacks=[taken := Duration(clock)], **quiet)
    fill(trainer, module, data, TeacherCache(directory), shard)
    return taken.seconds


def parts(started: int, of: int) -> float:
    """Seconds that processes take for a part each, the slowest of them."""
    with tempfile.TemporaryDirectory() as directory:
        words = [sys.executable, *sys.argv, "--part"]
        running = [
            subprocess.Popen([*words, f"{directory} {part + 1}/{of}"], stdout=subprocess.PIPE, text=True)
            for part in range(started)
        ]
        return max(float(process.communicate()[0].split()[-1]) for process in running)


if __name__ == "__main__":
    main()
