"""Runs a grid of the paper's kind: teachers first, then every pair × method × variant × seed, each in its own folder.

    python examples/tables/run.py examples/tables/digits.yaml --jobs 2

Whatever stops it, start it again: what is done is skipped, and what was cut off goes on from its last checkpoint.
docs/tables.md says more.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import emit
from cell import CellError, check_place, check_targets, epoch_of, run_cell, state
from config import Config
from grid import Cell, Grid, read_grid
from processes import Processes, StoppedError, is_locked
from wandb_logger import wandb_logger

_EVERY = 60.0  # seconds between two lines about what is running


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    grid = read_grid(options.grid)
    cells = _selected(grid, options.cells)
    states = {cell.id: state(cell, options.output) for cell in cells}  # wrong folders are found before anything runs
    if options.emit:
        print(emit.FORMS[options.emit](options.grid, options.output, cells), end="")
        return 0
    if options.dry_run:
        for cell in cells:
            running = ", running" if is_locked(options.output / cell.id) else ""
            print(f"{cell.hash}  {cell.id}  {states[cell.id]}{running}")
        return 0
    for cell in cells:
        check_place(cell, options.output)
    check_targets(options.output / cell.id / "done.json" for cell in cells if states[cell.id] != "done")
    return Runner(grid, options).run(cells)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a grid file")
    parser.add_argument("--output", type=Path, default=Path("runs/tables"), help="folder of all cells")
    parser.add_argument("--cells", nargs="+", default=["*"], help="only those whose ids fit, and their teachers")
    parser.add_argument("--jobs", type=int, default=1, help="how many cells at once")
    parser.add_argument("--devices", default="", help="numbers of the GPUs that the jobs share, such as 0,1")
    parser.add_argument("--wandb", metavar="PROJECT", help="also log to this project of Weights & Biases")
    parser.add_argument("--wandb_offline", action="store_true", help="keep what is logged there on this machine")
    parser.add_argument("--dry_run", action="store_true", help="list the cells and their state, and run nothing")
    parser.add_argument("--emit", choices=sorted(emit.FORMS), help="print the grid for something else to run")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    if options.wandb_offline and not options.wandb:
        parser.error("--wandb_offline needs --wandb PROJECT")
    return options


def _selected(grid: Grid, patterns: list[str]) -> list[Cell]:
    """Cells whose ids fit, teachers first and each once."""
    everything = [*grid.teachers.values(), *grid.cells]
    for pattern in patterns:
        if not any(fnmatch(cell.id, pattern) for cell in everything):
            raise SystemExit(f"--cells {pattern}: no cell fits; ids are such as {everything[-1].id}")
    chosen = [cell for cell in everything if any(fnmatch(cell.id, pattern) for pattern in patterns)]
    needed = [cell if cell.teacher is None else cell.teacher for cell in chosen]
    return list({cell.id: cell for cell in [*needed, *chosen]}.values())


class Runner:
    """Runs cells at once, teachers before all else."""

    def __init__(self, grid: Grid, options: argparse.Namespace) -> None:
        self.root: Path = options.output
        self.options = options
        devices = [device for device in options.devices.split(",") if device]
        self.processes = Processes(options.jobs, devices, grid.threads)
        self.failed: list[str] = []
        self.begin = time.monotonic()

    def run(self, cells: list[Cell]) -> int:
        """Runs them all.

        Returns:
            Exit status: 0 if all are done, 1 if some failed, 130 if it was interrupted.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.processes.stopped.set())
        self.total, self.finished = len(cells), 0
        for part in ([cell for cell in cells if cell.teacher is None], [cell for cell in cells if cell.teacher]):
            self._run_at_once(part)
        if self.processes.stopped.is_set():
            print("Interrupted. The same command goes on from here.")
            return 130
        if self.failed:
            print(f"{len(self.failed)} of {self.total} cells failed: {', '.join(self.failed)}")
            return 1
        print(f"All {self.total} cells are done, in {self.root}")
        return 0

    def _run_at_once(self, cells: list[Cell]) -> None:
        with ThreadPoolExecutor(self.options.jobs) as pool:
            futures: set[Future[None]] = {pool.submit(self._run, cell) for cell in cells}
            while futures:
                done, futures = wait(futures, timeout=_EVERY)
                for future in done:
                    future.result()
                if futures and not done:
                    self._say_what_runs(cells)

    def _run(self, cell: Cell) -> None:
        if self.processes.stopped.is_set():
            return
        try:
            with self.processes.locked(self.root / cell.id) as lock, self.processes.slot() as environment:
                self._run_locked(cell, partial(self.processes.run, environment=environment, lock=lock))
        except StoppedError:
            return
        except CellError as error:
            self._fail(cell, str(error))
        except (Exception, SystemExit) as error:  # a full disk, say: the other cells go on all the same
            self._fail(cell, f"{cell.id}: {type(error).__name__}: {error}")

    def _run_locked(self, cell: Cell, start: Callable[[list[str], Path], int]) -> None:
        before = state(cell, self.root)
        if before == "done":
            self._say(cell, "was done before")
            return
        if cell.teacher is not None and cell.teacher.id in self.failed:
            raise CellError(f"{cell.id}: its teacher failed")
        print(f"          {cell.id}: {'goes on' if before == 'unfinished' else 'begins'}")
        result = run_cell(cell, self.root, start, self._loggers(cell))
        accuracies = ", ".join(
            f"{name} epoch ({values['epoch']}) {100 * values['test/top1']:.2f}"
            for name, values in result["metrics"].items()
        )
        self._say(cell, f"test top-1 in %: {accuracies}")

    def _fail(self, cell: Cell, why: str) -> None:
        self.failed.append(cell.id)
        print(f"FAILED {why}")

    def _loggers(self, cell: Cell) -> list[Config]:
        if self.options.wandb is None:
            return []
        return [wandb_logger(cell, self.root / cell.id, self.options.wandb, self.options.wandb_offline)]

    def _say(self, cell: Cell, what: str) -> None:
        self.finished += 1
        print(f"[{self.finished:>3}/{self.total}] {cell.id}: {what}")

    def _say_what_runs(self, cells: list[Cell]) -> None:
        running = [cell.id for cell in cells if is_locked(self.root / cell.id)]
        parts = [f"{name} in epoch {epoch_of(self.root / name)}" for name in running]
        print(f"          {time.monotonic() - self.begin:.0f} s: {', '.join(parts)}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line at once
    sys.exit(main())
