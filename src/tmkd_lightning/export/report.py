"""Measures what a student gains over its teacher: size, work, latency and accuracy of both, side by side."""

import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from tmkd_lightning.callbacks.progress_lines import without_terminal
from tmkd_lightning.callbacks.run_record import cpu_name, versions
from tmkd_lightning.data import DataError
from tmkd_lightning.export.predictions import PredictionCollector
from tmkd_lightning.export.student import FORMATS, DeployableClassifier, predict_logits
from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.models.pretrained import DeferredNetwork
from tmkd_lightning.modules.base import BaseModule
from tmkd_lightning.utils.files import atomic_write
from tmkd_lightning.utils.messages import printable, short
from tmkd_lightning.utils.replaced_methods import replaced_methods
from tmkd_lightning.utils.validation import check_count

_WARM_UP, _RUNS, _SECONDS = 5, 20, 0.5  # runs before the clock, and at least as many runs and seconds on it
_ACCURACIES = {"top1": "top-1", "top5": "top-5", "recall": "macro recall"}


class NotMeasuredError(ValueError):
    """There is nothing to measure accuracy on; the message says why."""


def compare(
    module: BaseModule,
    *,
    image_size: int,
    batch_sizes: Sequence[int] = (1, 32),
    data: LightningDataModule | None = None,
    accelerator: str = "auto",
    no_data: str = "no data were given",
    no_teacher: str | None = None,
    collector: PredictionCollector | None = None,
) -> dict[str, Any]:
    """Measures teacher and student of a TMKDModule, or the network of a ClassifierModule.

    Accuracy is that of the plain images of the whole test split, which the trainer's test loop goes through once.
    Where there is no such split it is None, with the reason beside it.

    Args:
        module: a TMKDModule, whose teacher has its weights, or a ClassifierModule.
        image_size: side of the images in pixels.
        batch_sizes: numbers of images at once to measure the latency of, each at least 1.
        data: datamodule with a test split; None to leave accuracy out.
        accelerator: Lightning's, such as ``cpu``; latency is measured on one device of it.
        no_data: why there are none.
        no_teacher: why the teacher does not have its weights; its accuracy is then not measured.
        collector: keeps the answers and some of the images of that pass, the student's mistakes among them.

    Returns:
        Plain values: ``networks`` by role, each as `measure` has it with ``accuracy`` (``top1``, ``top5``, ``recall``,
        from 0 to 1) and ``not_measured`` beside it, ``ratio`` (student / teacher), ``data``, ``device`` and
        ``versions``.
    """
    collector = PredictionCollector() if collector is None else collector
    trainer = _quiet_trainer(accelerator, collector)
    device = trainer.strategy.root_device
    roles = {"network": module.extractor}
    if module.teacher is not None:
        roles = {"teacher": module.teacher.extractor, "student": module.extractor}
    networks: dict[str, dict[str, Any]] = {}  # what may fail by the user's data comes first
    try:
        if data is None:
            raise NotMeasuredError(no_data)
        accuracy = _test(trainer, collector, module, data, with_teacher=no_teacher is None)
        networks = {role: {"accuracy": accuracy.get(role), "not_measured": None} for role in roles}
    except NotMeasuredError as error:
        networks = {role: {"accuracy": None, "not_measured": str(error)} for role in roles}
        collector.count = None  # of images that no number stands for
    if data is not None and no_teacher is not None and "teacher" in roles:
        networks["teacher"]["not_measured"] = no_teacher
    for role, extractor in roles.items():
        networks[role] = measure(extractor, image_size, batch_sizes, device, role) | networks[role]
    name = None if data is None else f"{type(data).__module__}.{type(data).__qualname__}"
    return {
        "networks": networks,
        "ratio": _ratio(networks["student"], networks["teacher"]) if "teacher" in networks else None,
        "data": {"datamodule": name, "image_size": image_size, "test_images": collector.count},
        "device": {
            "type": str(device),
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "threads": torch.get_num_threads(),
        },
        "versions": versions(),
    }


def measure(
    network: Extractor,
    image_size: int,
    batch_sizes: Sequence[int] = (1, 32),
    device: torch.device | str = "cpu",
    name: str = "network",
) -> dict[str, Any]:
    """Measures the size, the work and the latency of a network with its normalisation, on a copy in float32.

    Work are multiply-accumulate operations (MACs), half of the FLOPs that torch counts in convolutions and matrix
    products; those of attention are counted whatever kernel it runs in. Weights do not matter: pretrained ones that
    have not been read are left out.

    Args:
        network: left as it is.
        image_size: side of the images in pixels.
        batch_sizes: numbers of images at once, each at least 1.
        device: where latency is measured.
        name: for the progress bar.

    Returns:
        ``network``, its name; ``parameters``; ``macs`` of one image; ``bytes`` of its weights and buffers in float32 as
        safetensors; ``latency``, for each of `batch_sizes` the median and both quartiles of at least 20 runs in
        milliseconds.

    Raises:
        ValueError: the network does not take images of that size, or not as many at once on this device.

    Example:
        >>> layers = nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        >>> measured = measure(Extractor(nn.Sequential(*layers)), image_size=8, batch_sizes=[1])
        >>> measured["parameters"]  # 4 filters of 3 * 3 * 3, 2 rows of 4, and biases
        122
        >>> measured["macs"]  # 64 positions of 4 filters, and 2 rows
        6920
    """
    check_count("image_size", image_size)
    for size in batch_sizes:
        check_count("batch_sizes", size)
    classifier = DeployableClassifier(network)
    for part in classifier.modules():
        if isinstance(part, DeferredNetwork):
            part.pending = False  # else the first forward would fetch them
    image = torch.rand(max(batch_sizes, default=1), 3, image_size, image_size)
    with _flop_counter() as counter:
        predict_logits(classifier, image[:1])
    trained = classifier.extractor.network
    return {
        "network": network.name,
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "macs": counter.get_total_flops() // 2,
        "bytes": len(FORMATS["state_dict"].write(classifier, image[:1], {})),
        "latency": [_latency(classifier.to(device), image[:size].to(device), name) for size in batch_sizes],
    }


def to_markdown(report: Mapping[str, Any]) -> str:
    """Writes a report of `compare` as a table in Markdown, with how it was measured below it."""
    return (
        "\n".join([*_table(table_rows(report)), "", *(f"- {printable(note)}" for note in table_notes(report))]) + "\n"
    )


def table_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The cells of a report's table, its head first."""
    columns = {f"{role} ({one['network']})": _cells(one) for role, one in report["networks"].items()}
    if report["ratio"] is not None:
        columns["student / teacher"] = {name: _number(value) for name, value in report["ratio"].items()}
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    return [["", *columns], *([name, *(cells.get(name, "") for cells in columns.values())] for name in names)]


def table_notes(report: Mapping[str, Any]) -> list[str]:
    """How the numbers of a report were measured, and why some were not."""
    networks, data, device = report["networks"], report["data"], report["device"]
    threads = f", {device['threads']} thread(s)" if device["type"] == "cpu" else ""
    side = data["image_size"]
    notes = [
        f"MACs: of one image of {side}x{side} pixels, half of the FLOPs of convolutions and matrix products",
        "size: weights and buffers in float32, as safetensors",
        f"latency: median (quartiles) of at least {_RUNS} warm runs in float32 on {device['name']}{threads}",
    ]
    if data["test_images"]:
        source = data["datamodule"].rpartition(".")[2]
        notes.append(f"accuracy: on the plain images of the whole test split of {source}, {data['test_images']} images")
    reasons = dict.fromkeys(one["not_measured"] for one in networks.values() if one["not_measured"])
    for reason in reasons:
        roles = " and ".join(role for role, one in networks.items() if one["not_measured"] == reason)
        notes.append(f"accuracy of {roles}: not measured, {reason}")
    notes += [f"checkpoint: {report['checkpoint']}"] if "checkpoint" in report else []
    notes.append("made with " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    return notes


def write_report(report: Mapping[str, Any], output: str | Path) -> list[Path]:
    """Writes ``<output>.md`` and ``<output>.json``, each at once; returns their paths."""
    texts = [to_markdown(report), json.dumps(report, indent=1) + "\n"]
    paths = report_files(output)
    for path, text in zip(paths, texts, strict=True):
        with atomic_write(path) as file:
            file.write(text.encode())
    return paths


def report_files(output: str | Path) -> list[Path]:
    """The files of a report: a name without suffix, or with one of theirs, names both."""
    path = Path(output).expanduser()
    stem = path.stem if path.suffix in (".md", ".json") else path.name
    return [path.with_name(f"{stem}{suffix}") for suffix in (".md", ".json")]


def _quiet_trainer(accelerator: str, collector: PredictionCollector) -> Trainer:
    def begin(*args: Any) -> None:
        collector.count = 0

    try:
        return Trainer(
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[LambdaCallback(on_test_start=begin), *without_terminal()],
        )
    except MisconfigurationException as error:
        raise ValueError(f"accelerator {accelerator!r} cannot be used here: {short(error)}") from error


def _test(
    trainer: Trainer,
    collector: PredictionCollector,
    module: BaseModule,
    data: LightningDataModule,
    with_teacher: bool,
) -> dict[str, dict[str, float]]:
    """Accuracy of the networks of a module on the test split, by role; each batch goes through all of them."""
    networks = {"network" if module.teacher is None else "student": module.extractor}
    if module.teacher is not None and with_teacher:
        networks["teacher"] = module.teacher.frozen
    collector.start(networks, module.num_classes)

    def step(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0:
            module.check_batch(batch)  # as in the module's own step
        collector.update(*module.preprocess_labelled(batch))

    try:
        with replaced_methods(module, test_step=step):
            results = trainer.test(module, datamodule=data, verbose=False)
    except (DataError, MisconfigurationException) as error:
        if collector.count is not None:  # there is a test split, and a fault in it
            raise
        raise NotMeasuredError(f"there is no test split ({short(error)})") from error
    if len(results) != 1:
        raise NotMeasuredError(f"the data have {len(results)} test loaders, not one")
    if not collector.count:
        raise NotMeasuredError("the test split has no images")
    return {role: {name: values[name] for name in _ACCURACIES} for role, values in collector.metrics().items()}


@contextmanager
def _flop_counter() -> Iterator[FlopCounterMode]:
    """Counts FLOPs with attention as plain matrix products: torch counts its kernels for CPUs as nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@torch.inference_mode()
def _latency(classifier: nn.Module, images: Tensor, name: str) -> dict[str, Any]:
    """Times single runs, each until the device is done."""

    def run() -> float:
        start = time.perf_counter()
        classifier(images)
        if images.device.type != "cpu":
            torch.accelerator.synchronize(images.device)
        return time.perf_counter() - start

    try:
        for _ in range(_WARM_UP):
            run()
    except RuntimeError as error:  # such as memory that does not suffice
        raise ValueError(f"a batch of {len(images)} cannot be run on {images.device}: {short(error)}") from error
    times: list[float] = []
    title = f"{name}, batch {len(images)}"
    with tqdm(desc=title, unit="run", disable=not sys.stderr.isatty(), leave=False) as progress:
        while len(times) < _RUNS or sum(times) < _SECONDS:
            times.append(run())
            progress.update()
    quartiles = (1000 * value for value in statistics.quantiles(times, n=4, method="inclusive"))
    return {
        "batch_size": len(images),
        **dict(zip(("q1_ms", "median_ms", "q3_ms"), quartiles, strict=True)),
        "runs": len(times),
    }


def network_values(network: Mapping[str, Any]) -> dict[str, float]:
    """What is compared of a network, by the name of its row."""
    latency = {f"latency, batch {one['batch_size']}": one["median_ms"] for one in network["latency"]}
    accuracy = {_ACCURACIES[name]: value for name, value in (network["accuracy"] or {}).items()}
    return {
        "parameters": network["parameters"],
        "MACs": network["macs"],
        "size": network["bytes"],
        **latency,
        **accuracy,
    }


def _ratio(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, float]:
    """What the student has of the teacher's, where both were measured and the teacher has some."""
    ours, theirs = network_values(student), network_values(teacher)
    return {name: ours[name] / theirs[name] for name in ours if theirs.get(name)}


def _cells(network: Mapping[str, Any]) -> dict[str, str]:
    """A column of the table, by the names of its rows."""
    cells = {name: f"{value:,}" for name, value in network_values(network).items()}
    cells["size"] = tqdm.format_sizeof(network["bytes"], "B")
    for one in network["latency"]:
        median, low, high = (_number(one[name]) for name in ("median_ms", "q1_ms", "q3_ms"))
        cells[f"latency, batch {one['batch_size']}"] = f"{median} ms ({low} to {high})"
    accuracy = network["accuracy"] or {}
    return cells | {
        title: f"{accuracy[name]:.1%}" if name in accuracy else "not measured" for name, title in _ACCURACIES.items()
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose first row is its head, with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = "|" + "|".join(f"{'-' * (width + 1)}{':' if index else '-'}" for index, width in enumerate(widths)) + "|"
    head, *body = map(line, rows)
    return [head, rule, *body]
