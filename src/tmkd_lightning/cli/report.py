"""``tmkd report``: teacher and student of a checkpoint side by side."""

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from tmkd_lightning.cli.export import export as write_student
from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.export.report import compare, report_files, to_markdown, write_report
from tmkd_lightning.export.student import format_of
from tmkd_lightning.modules.loading import load_datamodule, load_module, read_teacher
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.files import check_writable
from tmkd_lightning.utils.messages import printable
from tmkd_lightning.utils.validation import check_count


def report(
    checkpoint: str,
    output: str = "report",
    batch_sizes: list[int] | None = None,
    image_size: int | None = None,
    teacher: str | None = None,
    data: LightningDataModule | None = None,
    accelerator: str = "auto",
    export: str | None = None,
) -> None:
    """Compares the student of a checkpoint with its teacher in size, work, latency and accuracy on the test images.

    Args:
        checkpoint: file that ``tmkd fit`` wrote; the network of a ClassifierModule is measured alone.
        output: name of the files to write, ``report`` for ``report.md`` and ``report.json``.
        batch_sizes: numbers of images at once to measure the latency of, 1 and 32 by default.
        image_size: side of the images in pixels for work and latency, by default that of the data; another one is
            warned of.
        teacher: file with the teacher's weights, by default the one that the run names.
        data: datamodule by class_path; by default the one that the run was trained on.
        accelerator: Lightning's, such as cpu.
        export: file to write the student to as well, as ``tmkd export`` does, in the format of its suffix: ``.onnx``,
            ``.pt2`` or ``.safetensors``.
    """
    path, sizes = Path(checkpoint).expanduser(), [1, 32] if batch_sizes is None else batch_sizes
    for each in sizes:
        check_count("batch_sizes", each)
    for file in report_files(output):
        check_writable(file)
    kind = None if export is None else format_of(export)
    module = load_module(path)
    config = read_checkpoint(path, tensors=False).get("datamodule_hyper_parameters") or {}
    no_teacher = _read_teacher(module, teacher)
    no_data, known = f"{path} does not name its data: name them with --data", config.get("image_size")
    if data is not None:
        known = data.image_size if isinstance(data, ImageDataModule) else None
    elif "_class_path" in config:
        try:
            data = load_datamodule(config, path, "name another with --data")
        except ValueError as error:
            no_data = str(error)
    size = known if image_size is None else image_size
    if not isinstance(size, int):
        raise ValueError(f"{path} does not say how large its images were: pass --image_size")
    if known not in (None, size):
        print(f"WARNING: the images of the data are {known} pixels, not {size}", file=sys.stderr)

    found = {"checkpoint": str(path)} | compare(
        module,
        image_size=size,
        batch_sizes=sizes,
        data=data,
        accelerator=accelerator,
        no_data=no_data,
        no_teacher=no_teacher,
    )
    written = write_report(found, output)
    print(f"\n{to_markdown(found)}\n{' '.join(map(printable, written))}")
    if export is not None and kind is not None:
        write_student(checkpoint, export, kind, image_size=image_size)


def _read_teacher(module: Any, file: str | None) -> str | None:
    """Reads the weights of the module's teacher, if it has one; returns why they are not there, else None."""
    if module.teacher is None and file is not None:
        raise ValueError(f"the run has no teacher, so {file} has no place: leave --teacher out")
    if module.teacher is None:
        return None
    try:
        return read_teacher(module, file, "name their file with --teacher")
    except FileNotFoundError as error:
        if file is not None:
            raise
        return str(error)
