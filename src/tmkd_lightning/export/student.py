"""Exports a student with its normalisation to one file, and verifies it by running that file."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tmkd_lightning import __version__
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.image_size import Size, in_words
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.modules.loading import network_and_names
from tmkd_lightning.utils.files import atomic_write, check_writable
from tmkd_lightning.utils.messages import short

FormatName = Literal["onnx", "torch_export", "state_dict"]
Input = Literal["float", "uint8"]

_INPUTS = {"float": "float32 in [0, 1]", "uint8": "uint8"}


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

    The file takes any number of images at once, resizes them if the Extractor does, normalises them, and gives logits.
    A ``state_dict`` holds the bare network's weights, for code that does both by itself, and the statistics. The file
    is run before it gets its name: if its logits differ from the module's by more than 1e-4, nothing is written and a
    ValueError raised. All is done on a copy on the CPU in float32.

    Args:
        network: a TMKDModule, whose student is written, a ClassifierModule, or an Extractor.
        output: file to write, with the suffix of its format: ``.onnx``, ``.pt2`` or ``.safetensors``.
        format: ``onnx``, ``torch_export`` or ``state_dict``.
        input: type of the images that the file takes, ``float`` in [0, 1] or ``uint8``.
        image_size: side of the images in pixels; the file takes no other. An Extractor with an `image_size` of its own
            resizes them to that inside the file; a ``state_dict`` names its own instead.
        class_names: names in the order of the labels; by default those that the module knows, or else numbers.

    Returns:
        The metadata of the file: ``class_names``, ``input``, ``image_size``, ``mean``, ``std``, ``network`` and
        ``producer``; lists are JSON.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torchvision.models import resnet18
        >>> network = Extractor(resnet18(num_classes=2))
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "student.pt2"
        ...     metadata = export_student(network, path, format="torch_export", image_size=32)
        ...     logits = torch.export.load(path).module()(torch.rand(4, 3, 32, 32))
        >>> logits.shape, metadata["class_names"]
        (torch.Size([4, 2]), '["0", "1"]')
    """
    path = Path(output).expanduser()
    for name, value, known in (("format", format, FORMATS), ("input", input, _INPUTS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    check_format(format, FORMATS[format], path)
    if input == "uint8" and format == "state_dict":
        raise ValueError("a state_dict takes what its network takes, normalised images: leave input out")
    extractor, names = network_and_names(network, class_names)
    classifier, kind = DeployableClassifier(extractor), FORMATS[format]
    metadata = describe(classifier, names, input, image_size)
    if format == "state_dict":
        metadata["input"] = "float32, normalised with mean and std"
        metadata["image_size"] = str(image_size) if extractor.image_size is None else in_words(extractor.image_size)
    one, two, three = (random_images(count, (image_size, image_size), input) for count in (1, 2, 3))
    expected = [predict_logits(classifier.extractor, images) for images in (one, three)]
    check_writable(path)
    with atomic_write(path) as file:
        with naming_failures(extractor.name, format):
            file.write(kind.write(classifier, two, metadata))
            file.flush()
            found = [kind.run(Path(file.name), classifier, images) for images in (one, three)]
        compare_logits(expected, found, f"{path} was not written: {extractor.name} as {format}")
    return metadata


def check_format(name: str, format: "Format", path: Path) -> None:
    """Refuses a file name that does not go with its format, and a format whose packages are missing."""
    if path.suffix != format.suffix:
        raise ValueError(f"a file of the format {name} must end in {format.suffix}, got {path}")
    missing = [package for package in format.packages if find_spec(package) is None]
    if missing:
        raise ImportError(f"the format {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def format_of(output: str | Path) -> FormatName:
    """The format of a file by its suffix, which can be written: the packages that it needs are installed."""
    path = Path(output).expanduser()
    for name, format in FORMATS.items():
        if path.suffix == format.suffix:
            check_format(name, format, path)
            check_writable(path)
            return name
    raise ValueError(
        f"{output} must end in {', '.join(format.suffix for format in FORMATS.values())}, as its format has it"
    )


@contextmanager
def naming_failures(network: str, format: str) -> Iterator[None]:
    """Turns what writing and running a network may raise, as tracing runs its own code, into a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{network} cannot be written as {format}: {short(error)}") from error


def compare_logits(expected: Sequence[Tensor], found: Sequence[Tensor], what: str) -> None:
    """Raises a ValueError if logits of what was written differ from the module's by more than 1e-4."""
    for ours, theirs in zip(expected, found, strict=True):
        difference, largest = (ours - theirs).abs().max().item(), ours.abs().max().item()
        if not difference <= 1e-4 * max(1.0, largest):  # float32 has seven digits
            other = f"other logits than the module, by up to {difference:.2g} of {largest:.2g}"
            raise ValueError(f"{what} gives {other}")


def describe(classifier: "DeployableClassifier", names: Sequence[str], input: str, image_size: int) -> dict[str, str]:
    """Metadata of a file that takes images in [0, 1] or uint8; lists are JSON."""
    mean, std = statistics(classifier)
    return {
        "class_names": json.dumps(list(names)),
        "input": _INPUTS[input],
        "image_size": str(image_size),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "network": classifier.extractor.name,
        "producer": f"tmkd_lightning {__version__}",
    }


def statistics(classifier: "DeployableClassifier") -> tuple[list[float], list[float]]:
    """Channel mean and standard deviation, as they were written before they became float32."""
    mean, std = (
        [float(f"{value:.7g}") for value in part.flatten().tolist()]
        for part in (classifier.extractor.mean, classifier.extractor.std)
    )
    return mean, std


def random_images(count: int, size: Size, input: str = "float") -> Tensor:
    """Images ``(count, 3, H, W)``, the same every time."""
    values = torch.randint(256, (count, 3, *size), generator=torch.Generator().manual_seed(count))
    return values.to(torch.uint8) if input == "uint8" else values / 255


class DeployableClassifier(nn.Module):
    """A copy of a network behind its normalisation, on the CPU, in float32 and evaluation mode."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = copy.deepcopy(extractor)
        self.extractor.to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
        self.extractor.keep_map = False
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Classifies images ``(B, 3, H, W)``, uint8 or float in [0, 1]; returns logits ``(B, K)``."""
        return self.extractor.network(self.extractor.normalize(image))


@torch.no_grad()
def predict_logits(network: Extractor | DeployableClassifier, images: Tensor) -> Tensor:
    """Logits ``(B, K)`` of images; raises ValueError if the network does not take them, or gives NaN or infinity."""
    name = network.name if isinstance(network, Extractor) else network.extractor.name
    try:
        output = network(images)
    except Exception as error:  # the network's own code may raise anything
        height, width = images.shape[-2:]
        raise ValueError(f"{name} does not take images of {height}x{width} pixels: {short(error)}") from error
    logits: Tensor = output.logits if isinstance(network, Extractor) else output
    if not logits.isfinite().all():
        raise ValueError(f"{name} gives logits that are not finite: look at its weights")
    return logits


class Format(NamedTuple):
    """A file format: its suffix, the packages that it needs, and how it is written and run."""

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[DeployableClassifier, Tensor, Mapping[str, str]], bytes]  # of two images and the metadata
    run: Callable[[Path, DeployableClassifier, Tensor], Tensor]  # images (B, 3, H, W) to logits (B, K)


def onnx_model(classifier: DeployableClassifier, example: Tensor) -> Any:
    """The network with its normalisation as an ``onnx.ModelProto``, for any number of images ``example`` at once."""
    program = torch.onnx.export(
        classifier,
        (example,),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # with dynamo=True
    return program.model_proto


def onnx_bytes(model: Any, metadata: Mapping[str, str]) -> bytes:
    """An ``onnx.ModelProto`` as a file with that metadata and no other."""
    for node in model.graph.node:
        node.ClearField("metadata_props")  # paths and lines of the code on this machine
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def _write_onnx(classifier: DeployableClassifier, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    return onnx_bytes(onnx_model(classifier, example), metadata)


def run_onnx(path: Path, classifier: DeployableClassifier, images: Tensor) -> Tensor:
    """Logits of a file in onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    return torch.from_numpy(logits)


def _write_program(classifier: DeployableClassifier, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    shapes = {"image": {0: torch.export.Dim("batch")}}
    program = torch.export.export(classifier, (example,), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and lines of the code on this machine
    content = BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(dict(metadata))})
    return content.getvalue()


def _run_program(path: Path, classifier: DeployableClassifier, images: Tensor) -> Tensor:
    with path.open("rb") as file:  # torch warns of paths with another suffix, as unfinished files have
        return torch.export.load(file).module()(images)


def state_dict(classifier: DeployableClassifier) -> dict[str, Tensor]:
    """Weights and buffers of the bare network, none of which share memory."""
    return {name: value.clone() for name, value in classifier.extractor.network.state_dict().items()}


def _write_state_dict(classifier: DeployableClassifier, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    from safetensors.torch import save

    return save(state_dict(classifier), {"format": "pt", **metadata})


def _run_state_dict(path: Path, classifier: DeployableClassifier, images: Tensor) -> Tensor:
    """Loads a file into a copy of the network whose own weights are zeroed."""
    from safetensors.torch import load_file

    other = DeployableClassifier(classifier.extractor)
    for value in other.extractor.network.state_dict().values():
        value.zero_()
    other.extractor.network.load_state_dict(load_file(path))
    return predict_logits(other, images)


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, run_onnx),
    "torch_export": Format(".pt2", (), _write_program, _run_program),
    "state_dict": Format(".safetensors", ("safetensors",), _write_state_dict, _run_state_dict),
}
