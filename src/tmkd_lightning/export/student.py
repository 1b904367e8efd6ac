"""A student alone in one file, with its normalisation, checked by running that file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from tmkd_lightning import __version__
from tmkd_lightning.export.deployable import Deployed, ask
from tmkd_lightning.export.formats import Format
from tmkd_lightning.export.onnx_file import OnnxFile
from tmkd_lightning.export.program_file import ProgramFile
from tmkd_lightning.export.weights_file import WeightsFile
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.modules.loading import network_and_names
from tmkd_lightning.utils.files import atomic_write, check_writable, is_stream
from tmkd_lightning.utils.messages import short

FormatName = Literal["onnx", "torch_export", "state_dict"]
Input = Literal["float", "uint8"]

_FORMATS: dict[str, Format] = {"onnx": OnnxFile(), "torch_export": ProgramFile(), "state_dict": WeightsFile()}
_TOLERANCE = 1e-4  # of logits, relative to the largest where that is above 1: float32 has seven digits


def export_student(
    network: BaseModule | Extractor,
    output: str | Path,
    *,
    format: FormatName = "onnx",
    input: Input = "float",
    image_size: int,
    class_names: Sequence[str] | None = None,
) -> dict[str, str]:
    """Writes the student alone to a file that opens without this library.

    Normalisation is inside: the file takes images in [0, 1] or of uint8, any number at once, and gives logits. A
    ``state_dict`` holds the bare network's weights, for code that normalises by itself, with the statistics beside
    them. The file is run on batches of one and of three images before it gets its name: if its logits are not the
    module's within 1e-4, nothing is written. All is done on a copy on the CPU in float32.

    Args:
        network: a TMKDModule, whose student is written, a ClassifierModule, or an Extractor.
        output: file to write, with the suffix of its format: ``.onnx``, ``.pt2`` or ``.safetensors``.
        format: ``onnx``, ``torch_export`` or ``state_dict``.
        input: type of the images that the file takes, ``float`` in [0, 1] or ``uint8``.
        image_size: side of the images in pixels; the file takes no other.
        class_names: names in the order of the labels; by default the module's, its datamodule's or its checkpoint's.
            If nobody knows any, classes are called by their number.

    Returns:
        The metadata that were written: ``class_names``, ``input``, ``image_size``, ``mean``, ``std``, ``network`` and
        ``producer``; lists are JSON.

    Raises:
        ValueError: an unknown format or input, another suffix, names that cannot stand for the classes, a network that
            does not take such images or cannot be written so, or a file that says something else than the module.
        ImportError: packages of the extra ``export`` are missing.
        OSError: the file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> from torchvision.models import resnet18
        >>> path = Path(mkdtemp()) / "student.pt2"
        >>> network = Extractor(resnet18(num_classes=2))
        >>> written = export_student(
        ...     network, path, format="torch_export", image_size=32, class_names=["cat", "dog"]
        ... )
        >>> torch.export.load(path).module()(torch.rand(4, 3, 32, 32)).shape, written["class_names"]
        (torch.Size([4, 2]), '["cat", "dog"]')
    """
    path = Path(output).expanduser()
    kind = _format(format, path)
    if is_stream(path):
        raise ValueError(f"{path} is a pipe or a device, and what is written is run to check it: name a file")
    _check_input(input, format, image_size)
    extractor, names = network_and_names(network, class_names)
    deployed = Deployed(extractor)
    metadata = _metadata(deployed.extractor, names, format, input, image_size)
    one, two, three = (_images(count, image_size, input) for count in (1, 2, 3))
    expected = [ask(deployed.extractor, image) for image in (one, three)]
    check_writable(path)
    with atomic_write(path) as file:
        try:
            kind.write(file, deployed, two, metadata)
            file.flush()
            found = [kind.run(file.name, deployed, image) for image in (one, three)]
        except Exception as error:  # tracing runs the network's own code, and raises whatever that comes to
            raise ValueError(f"{extractor.name} cannot be written as {format}: {short(error)}") from error
        for ours, theirs in zip(expected, found, strict=True):
            _compare(ours, theirs, f"{path} was not written: {extractor.name} as {format}")
    return metadata


def _format(name: str, path: Path) -> Format:
    if name not in _FORMATS:
        raise ValueError(f"format must be one of {', '.join(_FORMATS)}, got {name!r}")
    kind = _FORMATS[name]
    if path.suffix != kind.suffix:
        raise ValueError(f"a file of the format {name} must end in {kind.suffix}, got {path}")
    missing = [package for package in kind.packages if find_spec(package) is None]
    if missing:
        raise ImportError(f"the format {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    return kind


def _check_input(input: str, format: str, image_size: int) -> None:
    if input not in get_args(Input):
        raise ValueError(f"input must be one of {', '.join(get_args(Input))}, got {input!r}")
    if input == "uint8" and format == "state_dict":
        raise ValueError("a state_dict takes what its network takes, normalised images: leave input out")
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")


def _metadata(extractor: Extractor, names: Sequence[str], format: str, input: str, image_size: int) -> dict[str, str]:
    takes = {"float": "float32 in [0, 1]", "uint8": "uint8"}[input]
    return {
        "class_names": json.dumps(list(names)),
        "input": "float32, normalised with mean and std" if format == "state_dict" else takes,
        "image_size": str(image_size),
        "mean": json.dumps(_rounded(extractor.mean)),
        "std": json.dumps(_rounded(extractor.std)),
        "network": extractor.name,
        "producer": f"tmkd_lightning {__version__}",
    }


def _rounded(statistics: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in statistics.flatten().tolist()]  # as it was written before float32


def _images(count: int, size: int, input: str) -> Tensor:
    values = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(count))
    return values.to(torch.uint8) if input == "uint8" else values / 255


def _compare(ours: Tensor, theirs: Tensor, what: str) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(f"{what} gives logits of shape {tuple(theirs.shape)} instead of {tuple(ours.shape)}")
    difference, largest = (ours - theirs).abs().max().item(), ours.abs().max().item()
    if not difference <= _TOLERANCE * max(1.0, largest):
        raise ValueError(f"{what} gives other logits than the module, by up to {difference:.2g} of {largest:.2g}")
