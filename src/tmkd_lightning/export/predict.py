"""Classifies the images of a folder and writes a CSV file."""

import csv
import re
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from tmkd_lightning.data import DataError
from tmkd_lightning.data.image_files import ImageFiles, find_images
from tmkd_lightning.data.transforms import Transform
from tmkd_lightning.export.student import DeployableClassifier, predict_logits
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.modules.base import BaseModule, Normalization
from tmkd_lightning.modules.loading import network_and_names
from tmkd_lightning.utils.files import atomic_write, check_writable
from tmkd_lightning.utils.images import channel_statistics, check_images, denormalize
from tmkd_lightning.utils.messages import printable, short
from tmkd_lightning.utils.progress import progress

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")  # beginnings of cells that spreadsheets compute, the wide ones in Asia


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
    """Writes the predictions of a network for every image in a folder, one line an image, in alphabetical order.

    The columns are ``file`` (its path below the folder), ``class`` and ``probability``, then ``class_2`` and
    ``probability_2`` and so on, then a column ``p(<class>)`` for each class, in the order of the labels. An image that
    cannot be read or transformed has no line. The file takes its name once it is complete; the network is left as it
    is. Cells that a spreadsheet would take for a formula get ``./`` before a file and an apostrophe before a class.

    Args:
        network: a TMKDModule, whose student predicts, a ClassifierModule, or an Extractor.
        images: folder of image files, at any depth.
        output: CSV file to write, UTF-8.
        transform: from a PIL image to a tensor ``(3, H, W)`` of one size, uint8 or in [0, 1], as for validation.
        class_names: names in the order of the labels; by default those that the module knows, or else numbers.
        normalized_with: mean and standard deviation, if `transform` normalises.
        top: number of classes in a line, 1 to K.
        all_classes: whether to write the probability of every class too.
        batch_size: images at once, at least 1.
        num_workers: processes that load.
        device: where to compute, by default a GPU if there is one.

    Returns:
        Number of images classified, and what is wrong with each of the others.

    Raises:
        DataError: no such folder, no image in it, or none that can be read.
    """
    extractor, names = network_and_names(network, class_names)
    if not 1 <= top <= len(names):
        raise ValueError(f"top must be 1 to {len(names)}, the number of classes, got {top}")
    folder, path = Path(images).expanduser(), Path(output).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: name one that holds images, at any depth")
    if not (files := find_images(folder)):
        raise DataError(f"{folder} holds no image ({', '.join(IMG_EXTENSIONS)})")
    check_writable(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        classifier = DeployableClassifier(extractor).to(device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise ValueError(f"device {device!r} cannot be used here: {short(error)}") from error
    loader = DataLoader(_Images(files, transform), batch_size, num_workers=num_workers, collate_fn=list)
    statistics = None if normalized_with is None else channel_statistics(*normalized_with)
    predictions = (result for batch in loader for result in _predict(classifier, batch, statistics))
    results = progress(predictions, "Classifying", len(files), "images")
    problems = []
    with atomic_write(path) as file:
        text = TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        table = csv.writer(text)
        ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
        best = [f"{column}{rank}" for rank in ranks for column in ("class", "probability")]
        table.writerow(["file", *best, *([f"p({name})" for name in names] if all_classes else [])])
        # without its apostrophe a name is the class's again
        cells = [f"'{name}" if _FORMULA.match(name.lstrip("'")) else name for name in names]
        for place, prediction in zip(files, results, strict=True):
            if isinstance(prediction, str):
                problems.append(prediction if str(place) in prediction else f"{printable(place)}: {prediction}")
                continue
            name = place.relative_to(folder).as_posix()
            row = [f"./{name}" if _FORMULA.match(name) else name]
            for value, label in zip(*(part.tolist() for part in prediction.topk(top)), strict=True):
                row += [cells[label], f"{value:.6g}"]
            table.writerow(row + ([f"{value:.6g}" for value in prediction.tolist()] if all_classes else []))
        if len(problems) == len(files):
            raise DataError(f"none of the {len(files)} images in {folder} can be read; the first: {problems[0]}")
        text.detach()
    return len(files) - len(problems), problems


class _Images(Dataset[Tensor | str]):
    """Image files; instead of one that cannot be read or transformed, a message."""

    def __init__(self, files: Sequence[Path], transform: Transform) -> None:
        self.images = ImageFiles([(path, 0) for path in files])
        self.transform = v2.Compose([transform, v2.PILToTensor()])  # some leave it to the images of their dataset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            image, _ = self.images[index]
            transformed = self.transform(image)
            if not isinstance(transformed, Tensor):
                raise TypeError(f"the transform gives a {type(transformed).__name__} instead of a tensor")
            return transformed
        except DataError as error:
            return str(error)
        except Exception as error:  # the user's code may fail on one image
            return f"{self.images.files[index][0]} cannot be transformed ({short(error, kind=True)})"


def _predict(
    classifier: DeployableClassifier, batch: Sequence[Tensor | str], statistics: tuple[Tensor, Tensor] | None
) -> list[Tensor | str]:
    """The probabilities ``(K,)`` of each image, or what is wrong with it."""

    def predict(images: list[Tensor]) -> list[Tensor | str]:
        try:
            stack = torch.stack(images)
            check_images(stack, statistics)
            if statistics is not None:
                stack = denormalize(stack, *statistics)
            return [*predict_logits(classifier, stack.to(classifier.extractor.mean.device)).softmax(dim=1).cpu()]
        except (ValueError, RuntimeError) as error:  # an image of another size, or one that the network does not take
            return [str(error)] if len(images) == 1 else [result for image in images for result in predict([image])]

    results = iter(predict([item for item in batch if isinstance(item, Tensor)]))
    return [next(results) if isinstance(item, Tensor) else item for item in batch]
