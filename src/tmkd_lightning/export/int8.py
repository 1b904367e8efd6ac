"""Exports a student as ONNX in 8-bit integers, calibrated on validation images, and measures what that costs."""

import ast
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from tmkd_lightning.callbacks.validation_batches import indices_of, loader_of, one_of_each_part
from tmkd_lightning.data import DataError
from tmkd_lightning.export.student import (
    FORMATS,
    DeployableClassifier,
    Input,
    check_format,
    describe,
    naming_failures,
    onnx_bytes,
    onnx_model,
    predict_logits,
    random_images,
)
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.modules.base import BaseModule, Normalization
from tmkd_lightning.modules.classifier import ClassifierModule
from tmkd_lightning.modules.loading import network_and_names
from tmkd_lightning.utils.files import atomic_write, check_writable
from tmkd_lightning.utils.labels import main_class
from tmkd_lightning.utils.messages import short
from tmkd_lightning.utils.replaced_methods import replaced_methods
from tmkd_lightning.utils.validation import check_count

NAME = "onnx_int8"
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu", "Reshape", "Transpose")
_LAYER = "extractor.network."  # beginning of a layer's name in the graph
_SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: the layers around it, from the outside in
_DROP = 0.01  # of accuracy, above which a warning says what to try


def export_int8(
    network: BaseModule | Extractor,
    output: str | Path,
    *,
    data: LightningDataModule,
    image_size: int,
    input: Input = "float",
    class_names: Sequence[str] | None = None,
    normalized_with: Normalization | None = None,
    calibration_images: int = 256,
    exclude: Sequence[str] = (),
) -> dict[str, str]:
    """Writes the student to an ONNX file that computes in 8-bit integers, and measures its accuracy.

    Weights are rounded channel by channel, to 7 of the 8 bits so that the file computes the same on every CPU, and
    activations by the smallest and largest value that calibration images, from all over the validation split, bring
    about (static quantisation, QDQ). The accuracies of the file and of the network in float32 are measured side by side
    on the test split or, where there is none, on the other validation images; never on an image that calibrated. A file
    that loses more than a point is warned of.

    Args:
        network: a TMKDModule, whose student is written, a ClassifierModule, or an Extractor.
        output: file to write, ``.onnx``.
        data: datamodule with validation images, and best with a test split.
        image_size: side of the images in pixels; the file takes no other.
        input: type of the images that the file takes, ``float`` in [0, 1] or ``uint8``.
        class_names: names in the order of the labels; by default those that the module knows, or else numbers.
        normalized_with: mean and standard deviation, if the images of `data` arrive normalised.
        calibration_images: number of images to calibrate on, the same every time; without a test split at most half of
            the validation images.
        exclude: names of layers that stay in float32, such as ``conv1``; one that holds others stands for them all.

    Returns:
        The metadata of the file: those of `export_student`, with ``float_top1`` and ``int8_top1`` (0 to 1),
        ``measured_on`` and ``calibrated_on``.

    Raises:
        DataError: there are no validation images, or none to measure on.
        ValueError: the network has no layer that can be quantised, or none of a name in `exclude`.

    Source: onnxruntime's static quantisation, with what it advises for x86; 256 images are our choice.
    """
    path = Path(output).expanduser()
    check_format(NAME, FORMATS["onnx"], path)
    check_count("calibration_images", calibration_images)
    if isinstance(network, BaseModule) and normalized_with is None and network.normalized_with is not None:
        mean, std = (part.flatten().tolist() for part in network.normalized_with)
        normalized_with = (mean, std)
    extractor, names = network_and_names(network, class_names)
    classifier = DeployableClassifier(extractor)
    predict_logits(classifier.extractor, random_images(1, (image_size, image_size)))  # as the size may not fit
    images = _Images(classifier.extractor, network_and_names(network, None)[1], normalized_with, data)
    check_writable(path)
    calibration, measured, split = images.split(calibration_images)
    seen = [_as_input(batch, input) for batch in images.of("val", calibration)]
    if seen[0].shape[-2:] != (image_size, image_size):
        height, width = seen[0].shape[-2:]
        raise DataError(f"the images of the data are {height}x{width} pixels, and not image_size={image_size}")
    with naming_failures(extractor.name, NAME):
        model = onnx_model(classifier, random_images(2, (image_size, image_size), input))
    floats = _nodes_to_exclude(model, exclude, extractor.name)
    count = sum(map(len, seen))
    with atomic_write(path) as file:
        with naming_failures(extractor.name, NAME):
            quantized = _quantize(model, seen, floats)
        file.write(onnx_bytes(quantized, {}))
        file.flush()
        used = {_key(image) for batch in seen for image in batch}
        float_top1, int8_top1, total = _accuracies(images, measured, split, used, Path(file.name), classifier, input)
        source = type(data).__name__
        metadata = describe(classifier, names, input, image_size) | {
            "float_top1": f"{float_top1:.4f}",
            "int8_top1": f"{int8_top1:.4f}",
            "measured_on": f"{total} {'test' if split == 'test' else 'other validation'} images of {source}",
            "calibrated_on": f"{count} validation images of {source}",
        }
        file.seek(0)
        file.truncate()
        file.write(onnx_bytes(quantized, metadata))
    if float_top1 - int8_top1 > _DROP:
        first, last = (_layer(node, model) for node in (_weighted(model)[0], _weighted(model)[-1]))
        rank_zero_warn(
            f"{path} loses {float_top1 - int8_top1:.1%} of top-1 in 8 bits, {float_top1:.1%} to {int8_top1:.1%}: try "
            f"more calibration_images than {count}, or exclude [{first}, {last}], the first and the last layer, which "
            "then stay in float32"
        )
    return metadata


class _Pass(ClassifierModule):
    """Hands the images ``(B, 3, H, W)`` of a split, in [0, 1], and their labels ``(B,)`` to a function."""

    def __init__(self, network: Extractor, function: Callable[[Tensor, Tensor], None], **options: Any) -> None:
        super().__init__(network, **options)
        self.function = function

    def _measure(self, batch: Any, batch_idx: int, metrics: Any) -> None:
        images, labels = self.preprocess_labelled(batch)
        self.function(images.float(), main_class(labels))


class _Images:
    """The images of a datamodule as Lightning's loops give them, with its hooks and checks, on the CPU."""

    def __init__(
        self,
        network: Extractor,
        class_names: Sequence[str],
        normalized_with: Normalization | None,
        data: LightningDataModule,
    ) -> None:
        self.network, self.normalized_with, self.data = network, normalized_with, data
        unknown = list(class_names) == [str(label) for label in range(len(class_names))]
        self.class_names = None if unknown else list(class_names)  # which the data's must be

    def split(self, count: int) -> tuple[Any, Any, str]:
        """Loaders of about `count` validation images and of those to measure on, and the split of the latter."""
        self.data.prepare_data()
        try:
            self.data.setup("validate")
            validation: Any = self.data.val_dataloader()
        except (DataError, MisconfigurationException) as error:
            raise DataError(f"calibration needs validation images, but there are none ({short(error)})") from error
        try:
            self.data.setup("test")
            test: Any = self.data.test_dataloader()
        except (DataError, MisconfigurationException):
            test = None
        indices = indices_of(validation)
        if indices is None:
            kind = type(validation).__name__
            raise DataError(
                f"calibration needs validation images with an index, in one DataLoader, but there is a {kind}"
            )
        if len(indices) < (1 if test is not None else 2):
            raise DataError(f"calibration needs validation images, but there are {len(indices)}")
        chosen = one_of_each_part(indices, count if test is not None else min(count, len(indices) // 2))
        if test is not None:
            return loader_of(validation, chosen), test, "test"
        others = set(indices) - set(chosen)
        return loader_of(validation, chosen), loader_of(validation, sorted(others)), "val"

    def of(self, split: str, loader: Any) -> list[Tensor]:
        """The images of a loader, batch by batch."""
        found: list[Tensor] = []
        self.each(split, loader, lambda images, labels: found.append(images.clone()))
        return found

    def each(self, split: str, loader: Any, function: Callable[[Tensor, Tensor], None]) -> None:
        """Calls a function with the images and labels of each batch of a loader of the split."""
        with _quiet("lightning.pytorch.utilities.rank_zero", logging.INFO):  # of accelerators that are not used
            trainer = Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=sys.stderr.isatty(),
            )
        module = _Pass(self.network, function, normalized_with=self.normalized_with)
        module.saved_class_names = self.class_names
        replaced = {f"{split}_dataloader": lambda: loader, "prepare_data": lambda: None}  # which has been done
        with replaced_methods(self.data, **replaced):
            {"val": trainer.validate, "test": trainer.test}[split](module, datamodule=self.data, verbose=False)


def _as_input(images: Tensor, input: Input) -> Tensor:
    return (images * 255).round().to(torch.uint8) if input == "uint8" else images


def _key(image: Tensor) -> int:
    return hash(image.numpy().tobytes())


def _accuracies(
    images: _Images,
    loader: Any,
    split: str,
    used: Collection[int],
    path: Path,
    classifier: DeployableClassifier,
    input: Input,
) -> tuple[float, float, int]:
    """Top-1 of the network in float32 and of the file, and the number of images that both saw: none of those `used`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right, total = [0, 0], 0

    def count(batch: Tensor, labels: Tensor) -> None:
        nonlocal total
        new = torch.tensor([_key(image) not in used for image in _as_input(batch, input)])
        batch, labels = batch[new], labels[new]
        if not len(batch):
            return
        (logits,) = session.run(["logits"], {"image": _as_input(batch, input).numpy()})
        for place, found in enumerate((predict_logits(classifier, batch), torch.from_numpy(logits))):
            right[place] += int((found.argmax(1) == labels).sum())
        total += len(labels)

    images.each(split, loader, count)
    if not total:
        raise DataError(f"the {split} split has no images to measure accuracy on, other than those that calibrated")
    return right[0] / total, right[1] / total, total


def _quantize(model: Any, images: Sequence[Tensor], floats: Sequence[str]) -> Any:
    """The model in 8-bit integers, but for the nodes called `floats`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _quiet(None, logging.WARNING):
        before, prepared, after = (Path(folder, f"{name}.onnx") for name in ("before", "prepared", "after"))
        onnx.save(model, before)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            after,
            _reader(images),
            op_types_to_quantize=[*_WITH_WEIGHTS, *_BETWEEN],
            per_channel=True,
            activation_type=QuantType.QUInt8,  # with int8 they are up to three times slower on x86
            reduce_range=True,  # weights in 7 bits: sums of 8 bits saturate on x86 without VNNI, and not where measured
            nodes_to_exclude=list(floats),
        )
        return onnx.load(after)


def _reader(images: Sequence[Tensor]) -> Any:
    """What onnxruntime reads calibration images from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            hidden = not sys.stderr.isatty()
            self.batches: Iterator[Tensor] = iter(tqdm(images, "calibrating", disable=hidden, leave=False))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch.numpy()}

    return Reader()


@contextmanager
def _quiet(logger: str | None, level: int) -> Iterator[None]:
    """Drops what a logger, by default the root, says on a level or below; it warns here of what is meant."""
    log = logging.getLogger(logger)
    log.addFilter(drop := lambda record: record.levelno > level)
    log.addHandler(handler := logging.NullHandler())  # else the root logger would be set up to print this
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.removeFilter(drop)


def _weighted(model: Any) -> list[Any]:
    """The nodes with weights, which integers are for."""
    weights = {value.name for value in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in _WITH_WEIGHTS and weights & set(node.input)]


def _nodes_to_exclude(model: Any, layers: Iterable[str], network: str) -> list[str]:
    """Names of the nodes that belong to layers of the network; refuses names of no layer."""
    if not _weighted(model):
        raise ValueError(
            f"{network} cannot be written as {NAME}: it has no convolution or linear layer ({', '.join(_WITH_WEIGHTS)})"
        )
    found: list[str] = []
    for layer in layers:
        nodes = [node.name for node in model.graph.node if _belongs(node, f"{_LAYER}{layer}")]
        if not nodes:
            known = dict.fromkeys(_layer(node, model) for node in _weighted(model))
            raise ValueError(
                f"exclude names {layer!r}, but {network} has no such layer; these are in integers: {', '.join(known)}"
            )
        found += nodes
    if all(node.name in found for node in _weighted(model)):
        raise ValueError(f"exclude leaves no layer of {network} in integers: write it as onnx")
    return found


def _belongs(node: Any, layer: str) -> bool:
    return layer in _scopes(node) or any(name.startswith(f"{layer}.") for name in node.input)


def _layer(node: Any, model: Any) -> str:
    """The name of the layer that a node with weights stands for."""
    named = [name.rpartition(".")[0] for name in node.input if name.startswith(_LAYER)]
    layers = named or [scope for scope in _scopes(node) if scope.startswith(_LAYER)]
    return layers[-1 if not named else 0].removeprefix(_LAYER) if layers else node.name


def _scopes(node: Any) -> list[str]:
    found = [prop.value for prop in node.metadata_props if prop.key == _SCOPES]
    return list(ast.literal_eval(found[0])) if found else []
