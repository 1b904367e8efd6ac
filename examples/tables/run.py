"""Trains the cells of a grid that are not done yet, teachers first, each in a folder of its own.

    python examples/tables/run.py examples/tables/digits.yaml --jobs 2

Run the same command again after an interruption: done cells are skipped, and a killed one resumes from its checkpoint.
docs/tables.md says more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from queue import SimpleQueue

import yaml

from grid import CHECKPOINT, Cell, Config, Grid, merge, read_grid


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a grid file")
    parser.add_argument("--output", type=Path, default=Path("runs/tables"), help="folder of all cells")
    parser.add_argument("--cells", nargs="+", default=["*"], help="patterns of cell ids; their teachers run as well")
    parser.add_argument("--jobs", type=int, default=1, help="how many cells at once")
    parser.add_argument("--devices", default="", help="GPUs that the jobs share, such as 0,1")
    parser.add_argument("--wandb", metavar="PROJECT", help="also log to this project of Weights & Biases")
    parser.add_argument("--dry_run", action="store_true", help="list ids and states of the cells, and run nothing")
    options = parser.parse_args(arguments)
    grid = read_grid(options.grid)
    cells = _selected(grid, options.cells)
    states = {cell.id: state(cell, options.output) for cell in cells}  # refuses wrong folders before anything runs
    if options.dry_run:
        print("\n".join(f"{name} {state}" for name, state in states.items()))
        return 0
    try:
        failed = run(cells, options, grid.threads)
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes.")
        return 130
    print(f"{len(failed)} of {len(cells)} cells failed" if failed else f"All {len(cells)} cells are done")
    return 1 if failed else 0


def _selected(grid: Grid, patterns: list[str]) -> list[Cell]:
    """Cells whose ids fit a pattern, and their teachers, in the order of the grid."""
    for pattern in patterns:
        if not any(fnmatch(cell.id, pattern) for cell in grid.cells):
            raise SystemExit(f"--cells {pattern}: no cell fits; ids are such as {grid.cells[-1].id}")
    chosen = [cell for cell in grid.cells if any(fnmatch(cell.id, pattern) for pattern in patterns)]
    teachers = {cell.teacher.id for cell in chosen if cell.teacher is not None}
    return [cell for cell in grid.cells if cell in chosen or cell.id in teachers]


def state(cell: Cell, root: Path) -> str:
    """``done``, ``unfinished`` or ``new``; SystemExit if the folder holds another run, or one that was moved."""
    folder = (root / cell.id).resolve()
    if not (folder / "cell.json").exists():
        return "new"
    found = json.loads((folder / "cell.json").read_text())
    if found["hash"] != cell.hash:
        raise SystemExit(
            f"{folder} holds a run of another config ({found['hash']}, the grid has {cell.hash}): remove it, give the "
            "method or pair another name, or use another --output"
        )
    if (folder / "done.json").exists():
        return "done"
    if found["folder"] != str(folder):  # its checkpoints name the old folder
        raise SystemExit(f"{folder} is not finished and was begun in {found['folder']}: move it back, or remove it")
    return "unfinished"


def run(cells: list[Cell], options: argparse.Namespace, threads: int | None) -> set[str]:
    """Runs cells, at most ``--jobs`` at once, each by cell.py in a process of its own; gives the ids that failed."""
    failed: set[str] = set()
    devices = [{"CUDA_VISIBLE_DEVICES": device} for device in options.devices.split(",") if device] or [{}]
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for job in range(options.jobs):
        free.put(devices[job % len(devices)])

    def run_cell(cell: Cell) -> None:
        before, folder = state(cell, options.output), options.output / cell.id
        if before != "done" and cell.teacher is not None and cell.teacher.id in failed:
            failed.add(cell.id)
            print(f"FAILED {cell.id}: its teacher failed")
            return
        if before != "done":
            print(f"{cell.id}: {'resumes' if before == 'unfinished' else 'begins'}")
            device = free.get()
            environment = {**os.environ, **device, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
            write_config(cell, options.output.resolve(), options.wandb)
            with (folder / "log.txt").open("ab") as log:
                command = [sys.executable, str(Path(__file__).with_name("cell.py")), str(folder)]
                status = subprocess.call(command, stdout=log, stderr=log, env=environment)
            free.put(device)
            if status != 0:
                failed.add(cell.id)
                lines = (folder / "log.txt").read_text(errors="replace").splitlines()[-15:]
                print("\n    ".join([f"FAILED {cell.id}; {folder / 'log.txt'} ends with", *lines]))
                return
        result = json.loads((folder / "done.json").read_text())
        best, last = (f"{which} epoch {100 * result[which]['test/top1']:.2f}" for which in ("best", "last"))
        print(f"{cell.id}: {'was done before, ' if before == 'done' else ''}test top-1 in %: {best}, {last}")

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run_cell, [cell for cell in cells if cell.pair == "teachers"]))
        list(pool.map(run_cell, [cell for cell in cells if cell.pair != "teachers"]))
    return failed


def write_config(cell: Cell, root: Path, wandb: str | None) -> None:
    """Writes cell.json and config.yaml: the cell with its teacher's checkpoint, and output into its own folder."""
    folder = root / cell.id
    csv = {"save_dir": str(folder), "name": "", "flush_logs_every_n_steps": 1}
    loggers: list[Config] = [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": csv}]
    common = {"dirpath": str(folder), "enable_version_counter": False}
    callbacks = [
        *cell.config["trainer"]["callbacks"],
        {"class_path": CHECKPOINT, "init_args": {**common, "filename": "best", "monitor": "val/top1", "mode": "max"}},
        {"class_path": CHECKPOINT, "init_args": {**common, "filename": "last"}},  # after best: it holds best's score
    ]
    if wandb is not None:
        run_id = hashlib.sha256(f"{cell.id} {cell.hash}".encode()).hexdigest()[:16]  # a resumed cell: the same run
        init_args = {"project": wandb, "name": cell.id, "id": run_id, "save_dir": str(folder)}
        group = {"group": f"{cell.pair}/{cell.method}"}
        wandb_logger = "lightning.pytorch.loggers.WandbLogger"
        loggers.append({"class_path": wandb_logger, "init_args": init_args, "dict_kwargs": group})
        callbacks.append({"class_path": "tmkd_lightning.callbacks.StudentArtifact"})
    trainer = {"devices": 1, "enable_progress_bar": False, "logger": loggers, "callbacks": callbacks}
    config = merge(cell.config, {"trainer": trainer})
    if cell.teacher is not None:
        config["model"]["init_args"]["teacher_checkpoint"] = str(root / cell.teacher.id / "best.ckpt")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "cell.json").write_text(json.dumps({"id": cell.id, "hash": cell.hash, "folder": str(folder)}))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # so that a log file shows each line at once
    sys.exit(main())
