"""What the views cost, and how far our edges agree with Kornia's and OpenCV's.

    python examples/benchmarks/views.py --photos data/cub200/CUB_200_2011/images --sizes 32 112 224 448

Milliseconds an image of three channels, the median over rounds in which all candidates take turns; agreement is the
part of pixels on which both say the same. OpenCV runs where it is installed, one channel at a time on 8 bits. Prints a
table for each size and writes runs/views.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from pathlib import Path

import kornia
import torch
from common import now, report
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from tmkd_lightning import MultiView
from tmkd_lightning.views import canny, edge_view, high_frequency_view

LOW, HIGH = 100, 200  # on 0..255


def photos(folder: str, count: int, size: int) -> Tensor:
    """Evenly spread over the folder, as an evaluation sees them, uint8."""
    paths = sorted(Path(folder).rglob("*.jpg"))
    middle = v2.Compose([v2.RGB(), v2.PILToTensor(), v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)])
    return torch.stack([middle(Image.open(path)) for path in paths[:: max(1, len(paths) // count)][:count]])


def kornia_canny(image: Tensor) -> Tensor:
    channels = image.flatten(0, 1).unsqueeze(1)
    return kornia.filters.canny(channels, LOW / 255, HIGH / 255, kernel_size=1)[1].view_as(image)


def kornia_high_frequency(image: Tensor) -> Tensor:
    return (image + (image - kornia.filters.gaussian_blur2d(image, (5, 5), (1.0, 1.0)))).clamp(0, 1)


def opencv_canny(image: Tensor) -> Tensor:
    import cv2

    channels = image.flatten(0, 1).cpu().numpy()
    found = [cv2.Canny(channel, LOW, HIGH, L2gradient=True) for channel in channels]
    return torch.stack([torch.from_numpy(one) for one in found]).view_as(image) / 255


def seconds(call: Callable[[], object]) -> float:
    start = now()
    call()
    return now() - start


def measure(folder: str, size: int, batch_size: int, rounds: int) -> list[dict[str, float | str]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bits = photos(folder, batch_size, size).to(device)
    image = bits.float() / 255
    views = MultiView()
    candidates: dict[str, Callable[[], object]] = {
        "canny": lambda: canny(image),
        "canny, 32 rounds": lambda: canny(image, rounds=32),
        "canny, Kornia": lambda: kornia_canny(image),
        "edge view": lambda: edge_view(image),
        "high-frequency view": lambda: high_frequency_view(image),
        "high-frequency view, Kornia's blur": lambda: kornia_high_frequency(image),
        "all views": lambda: views(image),
    }
    if importlib.util.find_spec("cv2"):
        candidates["canny, OpenCV"] = lambda: opencv_canny(bits)
    for call in candidates.values():
        seconds(call)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            times[name].append(seconds(call))
    ours = canny(image).bool()
    rows = []
    for name, taken in times.items():
        row: dict[str, float | str] = {"size": size, "what": name}
        row["ms an image"] = 1e3 * statistics.median(taken) / len(image)
        row["times canny"] = statistics.median(a / b for a, b in zip(taken, times["canny"], strict=True))
        if name.startswith("canny, "):
            row["agreement"] = (candidates[name]().bool().to(device) == ours).float().mean().item()
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", required=True, help="folder with JPEG files, at any depth")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 112, 224, 448])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in measure(options.photos, size, options.batch_size, options.rounds)]
    report("views", rows)


if __name__ == "__main__":
    main()
