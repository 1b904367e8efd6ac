"""Writes the splits of a datamodule as a stream."""

import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchvision.transforms.v2 import functional

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.image_files import ImageFiles
from tmkd_lightning.data.shards.index import MISSING, SHARDS, Split, StreamIndex
from tmkd_lightning.utils.progress import progress
from tmkd_lightning.utils.validation import check_count

_AHEAD = 8  # images that each thread may have ready


def write_split(samples: Any, folder: Path, shuffled: bool, shard_bytes: int, workers: int) -> tuple[Split, list[str]]:
    """Writes the shards of a split.

    Image files are stored byte by byte as they are, so nothing is lost; other images as PNG. Each is decoded once, so
    that a broken one is noticed here and not in the middle of a run.

    LitData shuffles shards, and images within a shard: of a training split that came in the order of its classes, a
    batch would hold one or two of them. So it is shuffled here, once and always in the same way.

    Args:
        samples: images and labels by index, as `ImageDataModule.samples` gives them.
        folder: of the split; made if missing.
        shuffled: whether the images are written in another order.
        shard_bytes: size of a shard.
        workers: threads that read.

    Returns:
        What was written, and an error message for each image that cannot be read.
    """
    from litdata.streaming import Cache

    order = np.random.RandomState(0).permutation(len(samples)) if shuffled else np.arange(len(samples))
    folder.mkdir(parents=True)
    cache, digest, problems, written = Cache(str(folder), chunk_bytes=shard_bytes), hashlib.sha256(), [], 0
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An item was larger than the target chunk size")
        read = _in_order(pool, partial(_read, samples), order.tolist(), _AHEAD * workers)
        for sample in progress(read, f"Writing {folder.name}", len(samples), "images"):
            if isinstance(sample, str):
                problems.append(sample)
                continue
            image, label = sample
            digest.update(f"{hashlib.sha256(image).hexdigest()} {label}\n".encode())
            cache[written] = {"image": image, "label": label, "index": written}
            written += 1
        if written:
            cache.done()
            cache.merge()
    listed = (folder / SHARDS).read_bytes() if written else b'{"chunks": []}'
    sizes = {one["filename"]: (folder / one["filename"]).stat().st_size for one in json.loads(listed)["chunks"]}
    return Split(written, digest.hexdigest(), hashlib.sha256(listed).hexdigest(), sizes), problems


def write_stream(
    data: Any, output: Path, shard_bytes: int = 64 << 20, workers: int = 2
) -> tuple[StreamIndex, list[str]]:
    """Writes a datamodule as ``tmkd data optimize`` does.

    Args:
        data: `ImageDataModule`, whose data are prepared.
        output: folder to write to; new or empty.
        shard_bytes: size of a shard, about.
        workers: threads that read.

    Returns:
        The index that was written, and an error message for each image that cannot be read; if there is one, nothing
        is left in `output`.

    Raises:
        DataError: `output` holds something, or there is no training split.
    """
    if find_spec("litdata") is None:
        raise ImportError(MISSING)
    check_count("workers", workers)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} holds something already, perhaps a half-written stream: choose an empty folder")
    data.check_classes()
    splits, problems = {}, []
    for name in ("train", "val", "test"):
        try:
            samples = data.samples(name)
        except DataError as error:
            if name == "train":
                raise
            rank_zero_info(f"{name}: none ({error})")
            continue
        if len(samples):
            splits[name], wrong = write_split(samples, output / name, name == "train", shard_bytes, workers)
            problems += wrong
    index = StreamIndex(list(data.class_names), list(data.class_phrases), splits)
    if problems:
        for name in splits:
            shutil.rmtree(output / name)
    else:
        index.write(output)
    return index, problems


def _in_order(pool: ThreadPoolExecutor, function: Any, arguments: list[int], ahead: int) -> Iterator[Any]:
    """As ``pool.map``, with a bounded number of results that wait."""
    remaining = iter(arguments)
    waiting = [pool.submit(function, one) for one in islice(remaining, ahead)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(function, one) for one in islice(remaining, 1)]


def _read(samples: Any, index: int) -> tuple[bytes, int] | str:
    """Encoded image and label; the message of an image that cannot be read."""
    try:
        image, label = samples[index]
    except DataError as error:
        return str(error)
    if isinstance(samples, ImageFiles):
        return samples.files[index][0].read_bytes(), int(label)
    if isinstance(image, Tensor):
        image = functional.to_pil_image(image)
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), int(label)
