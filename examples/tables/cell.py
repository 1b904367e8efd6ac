"""Runs one cell: trains it from wherever it is, measures both checkpoints, and writes down what came out."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

import config as configs
import curve
from config import Config
from grid import Cell
from tmkd_lightning.lightning_compat.atomic_checkpoints import is_damaged
from tmkd_lightning.modules.state import NUM_CLASSES
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint
from tmkd_lightning.utils.files import atomic_write, check_writable

MEASURE = Path(__file__).with_name("measure.py")
CHECKPOINTS = ("best", "last")

Start = Callable[[list[str], Path], int]
"""Runs a command with a log file, and gives its exit status."""


class CellError(Exception):
    """A cell that could not be finished; the message ends with the last lines of its log."""


def state(cell: Cell, root: Path) -> str:
    """``done``, ``unfinished`` or ``new``.

    Raises:
        SystemExit: the folder holds a run of another config.
    """
    folder = root / cell.id
    if not (folder / "cell.json").exists():
        if (folder / "done.json").exists():
            raise SystemExit(f"{folder} has a done.json, but no cell.json: it is no run of this grid, remove it")
        return "new"
    known = read_json(folder / "cell.json", {"hash": str})
    if known["hash"] != cell.hash:
        raise SystemExit(
            f"{folder} holds a run of another config ({known['hash']}, the grid has {cell.hash}): remove it, give the "
            "method or pair another name, or use another --output"
        )
    return "done" if (folder / "done.json").exists() else "unfinished"


def check_place(cell: Cell, root: Path) -> None:
    """Refuses to go on with a cell that was moved: its checkpoints name the old folder, and forget their best epoch.

    Raises:
        SystemExit: it was.
    """
    folder = root / cell.id
    begun = str(folder.resolve())
    if state(cell, root) == "unfinished":
        begun = read_json(folder / "cell.json", {"folder": str})["folder"]
    if begun != str(folder.resolve()):
        raise SystemExit(f"{folder} is not finished and was begun in {begun}: move it back, or remove it")


def run_cell(cell: Cell, root: Path, start: Start, loggers: list[Config]) -> dict[str, Any]:
    """Brings a cell to its end, from wherever it is.

    Args:
        cell: what to run; its teacher is done.
        root: folder of all cells.
        start: runs commands.
        loggers: beside the CSV logger.

    Returns:
        What ``done.json`` holds.

    Raises:
        CellError: training or measuring ended with an error.
    """
    folder = root / cell.id
    if state(cell, root) == "new":
        known = {"id": cell.id, "hash": cell.hash, "folder": str(folder.resolve()), "config": cell.config}
        write_json(folder / "cell.json", known)
    teacher = None if cell.teacher is None else root / cell.teacher.id / "best.ckpt"
    if not _is_trained(folder):
        _fit(cell, folder, teacher, start, loggers)
    curve.write(folder / "curve.csv", curve.whole(folder))
    log = folder / "test.log"
    if start([sys.executable, str(MEASURE), str(folder)], log):
        raise CellError(f"{cell.id}: the test failed\n{tail(log)}")
    result = _result(cell, folder)
    write_json(folder / "done.json", result)
    return result


def _is_trained(folder: Path) -> bool:
    """Whether the last attempt came to its end."""
    notes = curve.attempts(folder)
    return bool(notes) and "seconds" in read_json(notes[-1])


def _fit(cell: Cell, folder: Path, teacher: Path | None, start: Start, loggers: list[Config]) -> None:
    """One more attempt, from the newest checkpoint."""
    attempt = f"attempt_{len(curve.attempts(folder))}"
    settings = folder / f"{attempt}.yaml"
    content = configs.placed(cell.config, folder, attempt, teacher, loggers)
    with atomic_write(settings) as file:
        file.write(yaml.safe_dump(content, sort_keys=False).encode())
    command = [sys.executable, "-m", "tmkd_lightning", "fit", "--config", str(settings)]
    checkpoint, step = newest(folder)
    command += [] if checkpoint is None else ["--ckpt_path", str(checkpoint)]
    note = {"from_step": step, "command": shlex.join(command)}
    write_json(folder / f"{attempt}.json", note)
    begin = time.monotonic()
    if start(command, folder / f"{attempt}.log"):
        raise CellError(f"{cell.id}: training failed\n{tail(folder / f'{attempt}.log')}")
    write_json(folder / f"{attempt}.json", {**note, "seconds": round(time.monotonic() - begin, 1)})


def newest(folder: Path) -> tuple[Path | None, int]:
    """The checkpoint to go on from, and its step; (None, 0) for the start. Both files hold the whole state."""
    steps = {path: _step(path) for name in CHECKPOINTS if (path := folder / f"{name}.ckpt").exists()}
    for path in (path for path, step in steps.items() if step is None):
        print(f"{path} is damaged and passed over")
    whole = {path: step for path, step in steps.items() if step is not None}
    return max(whole.items(), key=lambda item: (item[1], item[0].stem == "last"), default=(None, 0))


def _step(path: Path) -> int | None:
    try:
        return None if is_damaged(path) else read_checkpoint(path)["global_step"]
    except (ValueError, TypeError, KeyError):  # no checkpoint at all
        return None


def _result(cell: Cell, folder: Path) -> dict[str, Any]:
    rows = curve.read(folder / "curve.csv")
    notes = [read_json(file) for file in curve.attempts(folder)]
    metrics, classes = {}, set()
    for name in CHECKPOINTS:
        checkpoint = torch.load(folder / f"{name}.ckpt", map_location="cpu", weights_only=True)
        classes.add(checkpoint[NUM_CLASSES])
        (test,) = curve.read(folder / f"test_{name}" / "metrics.csv")
        measured = {key: float(value) for key, value in test.items() if key.startswith("test/")}
        epoch = checkpoint["epoch"]
        metrics[name] = {"epoch": epoch, **curve.values(rows, epoch, "val/"), **measured}
    (num_classes,) = classes
    return {
        "id": cell.id,
        "hash": cell.hash,
        "num_classes": num_classes,
        "metrics": metrics,
        "attempts": len(notes),
        "seconds": round(sum(note.get("seconds", 0) for note in notes), 1),
        "record": read_json(folder / f"attempt_{len(notes) - 1}" / "run_record.json"),
    }


def epoch_of(folder: Path) -> str:
    """The epoch that was logged last, as far as there is one."""
    rows = [row for file in folder.glob("attempt_*/metrics.csv") for row in curve.read(file)[-1:]]
    return max((row["epoch"] for row in rows), key=int, default="-")


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log."""
    content = path.read_text(errors="replace").splitlines() if path.exists() else ["(no log)"]
    return "\n".join(f"    {line}" for line in content[-lines:])


def check_targets(paths: Iterable[Path]) -> None:
    """Refuses places where files cannot be written, before the work that would fill them.

    Raises:
        SystemExit: one of them is such a place.
    """
    try:
        for path in paths:
            check_writable(path)
    except OSError as error:
        raise SystemExit(str(error)) from error


def read_json(path: Path, form: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads a file that `write_json` has written.

    Args:
        path: the file.
        form: what it must hold; see `fits`.

    Raises:
        SystemExit: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise SystemExit(f"{path} cannot be read ({error}): remove the folder {path.parent}") from error
    if not fits(content, form or {}):
        raise SystemExit(f"{path} is damaged or of another version: remove the folder {path.parent}")
    return content


def fits(content: Any, form: Any) -> bool:
    """Whether a content is of a type, or a mapping with at least such contents under these keys.

    Example:
        >>> fits({"a": {"b": 1}, "c": 2}, {"a": {"b": int}}), fits({"a": []}, {"a": {"b": int}})
        (True, False)
    """
    if not isinstance(form, Mapping):
        return isinstance(content, form)
    return isinstance(content, dict) and all(key in content and fits(content[key], form[key]) for key in form)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that is whole or not there."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
