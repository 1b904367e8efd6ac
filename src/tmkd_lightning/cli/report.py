"""``tmkd report``: teacher and student of a checkpoint side by side."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from tmkd_lightning.cli.export import export as write_student
from tmkd_lightning.cli.figures import FinishedRun
from tmkd_lightning.data import ImageDataModule
from tmkd_lightning.export.page import RunPage, collect_page, write_page
from tmkd_lightning.export.page_in_wandb import log_page
from tmkd_lightning.export.report import compare, report_files, to_markdown, write_report
from tmkd_lightning.export.student import format_of
from tmkd_lightning.figures.curves import run_name
from tmkd_lightning.modules.loading import load_datamodule, load_module, read_teacher
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.files import check_writable, sha256_of
from tmkd_lightning.utils.messages import printable, short
from tmkd_lightning.utils.validation import check_count


def report(
    checkpoint: str,
    output: str = "report",
    batch_sizes: list[int] | None = None,
    image_size: int | None = None,
    teacher: str | None = None,
    data: LightningDataModule | None = None,
    accelerator: str = "auto",
    html: str | None = None,
    mistakes: int = 24,
    run: str | None = None,
    wandb: str | None = None,
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
        html: file for a page to look at, which holds the table, curves, confusions, the most confident mistakes, views
            and class activation maps.
        mistakes: number of mistakes on the page, and in W&B.
        run: folder with the run's metrics.csv, or that file, for the curves; by default where the checkpoint lies.
        wandb: project of Weights & Biases that gets the same, as a run of its own.
        export: file to write the student to as well, as ``tmkd export`` does, in the format of its suffix: ``.onnx``,
            ``.pt2`` or ``.safetensors``.
    """
    path, sizes = Path(checkpoint).expanduser(), [1, 32] if batch_sizes is None else batch_sizes
    for each in sizes:
        check_count("batch_sizes", each)
    check_count("mistakes", mistakes, minimum=0)
    for file in [*report_files(output), *([] if html is None else [Path(html).expanduser()])]:
        check_writable(file)
    kind = None if export is None else format_of(export)
    module = load_module(path)
    source = {"checkpoint": str(path), "checkpoint_sha256": sha256_of(path)}
    no_teacher = _read_teacher(module, teacher)
    data, size, no_data = _data(path, data, image_size)
    measured: dict[str, Any] = {
        "image_size": size,
        "batch_sizes": sizes,
        "data": data,
        "accelerator": accelerator,
        "no_data": no_data,
        "no_teacher": no_teacher,
    }
    if html is None and wandb is None:
        found = source | compare(module, **measured)
    else:
        finished = FinishedRun(path)
        name = run_name(finished.folder)
        page = collect_page(
            module,
            **measured,
            histories=lambda: {name: finished.history(None if run is None else Path(run).expanduser())},
            source=f"From {finished.source}",
            mistakes=mistakes,
        )
        found = source | page.report
        page = replace(page, report=found)
    written = write_report(found, output)
    if html is not None:
        written.append(write_page(page, html, name))
    if wandb is not None:
        _log(page, wandb, name)
    print(f"\n{to_markdown(found)}\n{' '.join(map(printable, written))}")
    if export is not None and kind is not None:
        write_student(checkpoint, export, kind, image_size=image_size)


def _data(
    checkpoint: Path, data: LightningDataModule | None, image_size: int | None
) -> tuple[LightningDataModule | None, int, str]:
    """The datamodule, by default that of the checkpoint; the size of its images; and why there is none."""
    config = read_checkpoint(checkpoint, tensors=False).get("datamodule_hyper_parameters") or {}
    no_data, known = f"{checkpoint} does not name its data: name them with --data", config.get("image_size")
    if data is not None:
        known = data.image_size if isinstance(data, ImageDataModule) else None
    elif "_class_path" in config:
        try:
            data = load_datamodule(config, checkpoint, "name another with --data")
        except ValueError as error:
            no_data = str(error)
    size = known if image_size is None else image_size
    if not isinstance(size, int):
        raise ValueError(f"{checkpoint} does not say how large its images were: pass --image_size")
    if known not in (None, size):
        print(f"WARNING: the images of the data are {known} pixels, not {size}", file=sys.stderr)
    return data, size, no_data


def _log(page: RunPage, project: str, name: str) -> None:
    """Logs the page to a run of its own, or to the one that WANDB_RUN_ID names."""
    import wandb  # slow to import, and only needed here

    own: dict[str, Any] = {} if "WANDB_RUN_ID" in os.environ else {"name": name, "job_type": "report"}
    try:
        run = wandb.init(project=project, **own)
    except wandb.Error as error:
        remedy = "log in with wandb login, or set WANDB_MODE=offline; the files of the report are written"
        raise ValueError(f"Weights & Biases opens no run in {project!r} ({short(error)}): {remedy}") from error
    with run:
        log_page(page, run)


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
