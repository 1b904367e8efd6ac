"""Classifies the images of a folder into a CSV file."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from tmkd_lightning.data import DataError
from tmkd_lightning.data.image_files import find_images
from tmkd_lightning.data.transforms import Transform
from tmkd_lightning.export.deployable import Deployed, ask
from tmkd_lightning.export.image_batches import Batch, image_batches
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.modules.base import BaseModule, Normalization
from tmkd_lightning.modules.loading import network_and_names
from tmkd_lightning.utils.files import atomic_write, check_writable
from tmkd_lightning.utils.images import channel_statistics, check_images, denormalize
from tmkd_lightning.utils.messages import printable, short

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")  # how a cell begins that a spreadsheet computes, the wide ones in Asia


def predict_folder(
    network: BaseModule | Extractor,
    images: str | Path,
    output: str | Path,
    *,
    transform: Transform,
    class_names: Sequence[str] | None = None,
    normalized_with: Normalization | None = None,
    top: int = 1,
    all_classes: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str | None = None,
) -> tuple[int, list[str]]:
    """Writes what a network says of every image in a folder, one line an image, in alphabetical order.

    The columns are ``file`` (its path below the folder), ``class`` and ``probability``, then ``class_2`` and
    ``probability_2`` and so on, then a column ``p(<class>)`` for each class, in the order of the labels. An image that
    cannot be read or transformed has no line. The file takes its name once it is complete; the network is left as it
    is.

    Spreadsheets take a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula. So ``file`` then begins with
    ``./``, which is the same path, and the name of such a class with an apostrophe.

    Args:
        network: a TMKDModule, whose student is asked, a ClassifierModule, or an Extractor.
        images: folder of image files, at any depth.
        output: CSV file to write, UTF-8.
        transform: from a PIL image to a tensor ``(3, H, W)`` of one size, uint8 or in [0, 1], as for validation.
        class_names: names in the order of the labels; by default the module's, its datamodule's or its checkpoint's.
            If nobody knows any, classes are called by their number.
        normalized_with: mean and standard deviation, if `transform` normalises.
        top: how many classes to name, 1 to K.
        all_classes: whether to write the probability of every class too.
        batch_size: images at once, at least 1.
        num_workers: processes that load.
        device: where to compute, by default a GPU if there is one.

    Returns:
        How many images were classified, and what is wrong with the others.

    Raises:
        DataError: no such folder, no image in it, or none that can be read.
        ValueError: a number outside its range, names that cannot stand for the classes, a device that is not here, or
            images that the network does not take.
        OSError: the file cannot be written.
    """
    extractor, names = network_and_names(network, class_names)
    if not 1 <= top <= len(names):
        raise ValueError(f"top must be 1 to {len(names)}, the number of classes, got {top}")
    folder, path = Path(images).expanduser(), Path(output).expanduser()
    files = _files(folder)
    batches = image_batches(files, transform, batch_size, num_workers)
    check_writable(path)
    statistics = None if normalized_with is None else channel_statistics(*normalized_with)
    answers = _answers(_placed(Deployed(extractor), device), batches, statistics)
    progress = tqdm(answers, total=len(files), unit="image", disable=not sys.stderr.isatty(), leave=False)
    with atomic_write(path) as file:
        text = TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        table = csv.writer(text)
        table.writerow(_header(names, top, all_classes))
        shown, unreadable = [_word(name) for name in names], []
        for place, answer in zip(files, progress, strict=True):
            if isinstance(answer, str):
                unreadable.append(answer if str(place) in answer else f"{printable(place)}: {answer}")
            else:
                table.writerow([_path(place.relative_to(folder)), *_row(answer, shown, top, all_classes)])
        if len(unreadable) == len(files):
            raise DataError(f"none of the {len(files)} images in {folder} can be read; the first: {unreadable[0]}")
        text.detach()
    return len(files) - len(unreadable), unreadable


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        raise DataError(f"{folder} is a file: name the folder that holds the images, at any depth")
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: name one that holds images, at any depth")
    files = find_images(folder)
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)})")
    return files


def _placed(network: Deployed, device: str | None) -> Deployed:
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise ValueError(f"device {device!r} cannot be used here: {short(error)}") from error


def _answers(
    network: Deployed, batches: Iterable[Batch], statistics: tuple[Tensor, Tensor] | None
) -> Iterator[Tensor | str]:
    """Probabilities ``(K,)`` of each file, or what is wrong with it."""
    for batch in batches:
        images = [item for item in batch if isinstance(item, Tensor)]
        try:
            rows: Iterator[Tensor | str] = iter(
                _probabilities(network, torch.stack(images), statistics) if images else ()
            )
        except (ValueError, RuntimeError):  # one of another size, or that the network makes NaN of: which one is it?
            rows = (_alone(network, image, statistics) for image in images)
        for item in batch:
            yield next(rows) if isinstance(item, Tensor) else item


def _alone(network: Deployed, image: Tensor, statistics: tuple[Tensor, Tensor] | None) -> Tensor | str:
    try:
        return _probabilities(network, image.unsqueeze(0), statistics)[0]
    except ValueError as error:
        return str(error)


def _probabilities(network: Deployed, images: Tensor, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
    check_images(images, statistics)
    if statistics is not None:
        images = denormalize(images, *statistics)
    return ask(network, images.to(network.extractor.mean.device)).softmax(dim=1).cpu()


def _header(names: Sequence[str], top: int, all_classes: bool) -> list[str]:
    ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    best = [f"{column}{rank}" for rank in ranks for column in ("class", "probability")]
    return ["file", *best, *([f"p({name})" for name in names] if all_classes else [])]


def _path(place: Path) -> str:
    """Below the folder, never a formula."""
    return f"./{place.as_posix()}" if _FORMULA.match(place.as_posix()) else place.as_posix()


def _word(name: str) -> str:
    """The name of a class, never a formula; without the apostrophe it is the name again."""
    return f"'{name}" if _FORMULA.match(name.lstrip("'")) else name


def _row(probabilities: Tensor, names: Sequence[str], top: int, all_classes: bool) -> list[str]:
    values, labels = probabilities.topk(top)
    best = zip(labels.tolist(), values.tolist(), strict=True)
    cells = [cell for label, value in best for cell in (names[label], f"{value:.6g}")]
    return cells + ([f"{value:.6g}" for value in probabilities.tolist()] if all_classes else [])
