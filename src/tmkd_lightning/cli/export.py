"""``tmkd export``: exports the student of a checkpoint to a file, or to a folder for the Hugging Face hub."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule

from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.export.card import describe_data, describe_method
from tmkd_lightning.export.hub import check_report, check_repository, export_hub, push_to_hub
from tmkd_lightning.export.int8 import export_int8
from tmkd_lightning.export.student import Input, export_student
from tmkd_lightning.modules.classifier import ClassifierModule
from tmkd_lightning.modules.loading import LoadedStudent, load_datamodule, load_student
from tmkd_lightning.utils.files import sha256_of
from tmkd_lightning.utils.messages import printable

_FORMATS_OF = {  # options that belong to some formats alone
    "data": ("onnx_int8", "hub"),
    "calibration_images": ("onnx_int8",),
    "exclude": ("onnx_int8",),
    "report": ("hub",),
    "push": ("hub",),
}


def export(
    checkpoint: str,
    output: str,
    format: Literal["onnx", "onnx_int8", "torch_export", "state_dict", "hub"] = "onnx",
    input: Input = "float",
    image_size: int | None = None,
    class_names: list[str] | None = None,
    data: LightningDataModule | None = None,
    calibration_images: int | None = None,
    exclude: list[str] | None = None,
    report: str | None = None,
    push: str | None = None,
    private: bool = True,
) -> None:
    """Writes the student of a checkpoint to a file that opens without this library, and verifies it by running it.

    Args:
        checkpoint: file that ``tmkd fit`` wrote; neither the teacher's nor any other is needed.
        output: file to write, ``.onnx``, ``.pt2`` or ``.safetensors`` as the format has it; for hub a new folder.
        format: onnx, onnx_int8, torch_export, state_dict or hub.
        input: type of the images that the file takes, float in [0, 1] or uint8.
        image_size: side of the images in pixels, by default that of the run's data; another one is warned of.
        class_names: other names for the classes, in the order of the labels; by default those of the run.
        data: for onnx_int8 and hub, datamodule by class_path; by default the run's. Its validation images calibrate,
            and its test images measure; for hub, its transform is stated.
        calibration_images: for onnx_int8, how many validation images to calibrate on, 256 by default.
        exclude: for onnx_int8, names of layers that stay in float32.
        report: for hub, the JSON file of ``tmkd report``; by default report.json beside the checkpoint, if it is its.
        push: for hub, repository on the Hugging Face hub to upload the folder to, user/name.
        private: for push, whether a new repository is private.
    """
    given = {"data": data, "calibration_images": calibration_images, "exclude": exclude, "report": report, "push": push}
    for name, formats in _FORMATS_OF.items():
        if given[name] is not None and format not in formats:
            raise ValueError(f"{name} is for the format {' or '.join(formats)}, not for {format}: leave it out")
    if push is not None:
        check_repository(push)
    restored = load_student(checkpoint)
    size = restored.image_size if image_size is None else image_size
    if size is None:
        raise ValueError(f"{checkpoint} does not say how large its images were: pass --image_size")
    if restored.image_size not in (None, size):
        print(f"WARNING: images of the run were {restored.image_size} pixels, not {size}", file=sys.stderr)
    names = restored.names(class_names)
    print(f"Writing {printable(output)} as {format}, and running it", file=sys.stderr)
    if format == "hub":
        _export_hub(restored, checkpoint, output, size, names, data, report, push, private)
        return
    if format == "onnx_int8":
        written = export_int8(
            _module(restored),
            output,
            data=_data(restored, checkpoint) if data is None else data,
            image_size=size,
            input=input,
            class_names=names,
            calibration_images=256 if calibration_images is None else calibration_images,
            exclude=exclude or (),
        )
    else:
        written = export_student(
            restored.extractor, output, format=format, input=input, image_size=size, class_names=names
        )
    how = "measured beside it in float32" if format == "onnx_int8" else "checked against the module"
    print(f"{printable(output)}: {printable(written['network'])} as {format}, {how}")
    print(f"  input    {written['input']}, (batch, 3, {size}, {size})")
    print(f"  classes  {restored.extractor.num_classes}" + ("" if names else ", called by number: pass --class_names"))
    if format == "onnx_int8":
        float_top1, int8_top1 = (float(written[name]) for name in ("float_top1", "int8_top1"))
        print(f"  top-1    {int8_top1:.1%}, in float32 {float_top1:.1%}, on {written['measured_on']}")
        print(f"           calibrated on {written['calibrated_on']}")


def _module(restored: LoadedStudent) -> ClassifierModule:
    """The student as a module that takes the run's batches, and refuses other classes than the run's."""
    module = ClassifierModule(restored.extractor, normalized_with=restored.normalized_with)
    module.saved_class_names = restored.class_names
    return module


def _data(restored: LoadedStudent, checkpoint: str) -> LightningDataModule:
    if "_class_path" not in (restored.data or {}):
        raise ValueError(f"{checkpoint} does not name its data, to calibrate on: name them with --data")
    return load_datamodule(restored.data or {}, checkpoint, "name another with --data")


def _export_hub(
    restored: LoadedStudent,
    checkpoint: str,
    output: str,
    size: int,
    names: list[str] | None,
    data: LightningDataModule | None,
    report: str | None,
    push: str | None,
    private: bool,
) -> None:
    if data is None and "_class_path" in (restored.data or {}):
        data = _data(restored, checkpoint)
    known = isinstance(data, ImageDataModule) and data.image_size == size
    config = export_hub(
        restored.extractor,
        output,
        image_size=size,
        class_names=names,
        recipe=restored.recipe,
        transform=data.eval_transform if isinstance(data, ImageDataModule) and known else None,
        normalized_with=restored.normalized_with,
        tags=["knowledge-distillation"] if "teacher" in restored.settings else [],
        method=describe_method(restored.settings),
        data=describe_data(restored.data),
        report=_report(report, checkpoint, restored),
        repository=push,
    )
    settings = config["pretrained_cfg"]
    height, width = settings["input_size"][1:]
    loaded = "timm" if "architecture" in config else config["network"]["class_path"]
    print(f"{printable(output)}: {printable(restored.extractor.name)} for the hub, loaded back by {loaded} and checked")
    print(f"  input    (batch, 3, {height}, {width}), {settings['crop_mode']} crop of {settings['crop_pct']:.4g}")
    print(f"  classes  {restored.extractor.num_classes}" + ("" if names else ", called by number: pass --class_names"))
    print("  card     README.md: fill in the licence, the data and the limits")
    if push is not None:
        print(f"  pushed   {push_to_hub(output, push, private=private)}")


def _report(file: str | None, checkpoint: str, restored: LoadedStudent) -> Mapping[str, Any] | None:
    """The report of a checkpoint: the one that is named, or else the one beside it, if there is one of it."""
    path = Path(checkpoint).expanduser().with_name("report.json") if file is None else Path(file).expanduser()
    if file is None and not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        check_report(report, restored.extractor)
    except ValueError as error:  # of JSON too
        if file is None:
            return None
        raise ValueError(f"{path} is no report of {checkpoint}: {error}") from error
    if report.get("checkpoint_sha256") != sha256_of(Path(checkpoint).expanduser()):  # of an earlier run, perhaps
        if file is None:
            return None
        measured = report.get("checkpoint", "no checkpoint")
        raise ValueError(f"{path} is a report of {measured} as it was then, and not of {checkpoint}: call tmkd report")
    return report
