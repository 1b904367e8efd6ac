"""Collects what the cells of a grid have left, and says of everything else why it is not counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cell import CHECKPOINTS, read_json, state
from grid import Cell, Grid

_TRACES = ("done.json", "cell.json", "metrics.csv", "*.ckpt")  # of a run, ours or somebody else's


@dataclass(frozen=True)
class Results:
    """What ``done.json`` says for each finished cell; why the others are missing; what lies there besides."""

    done: dict[str, dict[str, Any]]
    missing: dict[str, str]
    excluded: dict[str, str]

    def values(self, grid: Grid, group: tuple[str, str], which: str, metric: str) -> dict[int, float]:
        """A metric in % by seed.

        Args:
            grid: of the cells.
            group: pair and method.
            which: ``best`` or ``last`` epoch.
            metric: such as ``top1``.
        """
        cells = [cell for cell in grid.cells if cell.group == group and cell.id in self.done]
        return {cell.seed: self.value(cell, which, metric) for cell in cells}

    def value(self, cell: Cell, which: str, metric: str) -> float:
        """A metric of a finished cell in %."""
        return 100 * float(self.done[cell.id]["metrics"][which][f"test/{metric}"])


def read_results(grid: Grid, root: Path) -> Results:
    """Reads the cells of a grid.

    Raises:
        SystemExit: a cell was made with another config, two folders hold runs with one id, or the cells of a pair
            differ in their number of classes.
    """
    if not root.is_dir():
        raise SystemExit(f"no folder {root}: has the grid been run, with this --runs as its --output?")
    cells = {cell.id: cell for cell in [*grid.teachers.values(), *grid.cells]}
    states = {name: state(cell, root) for name, cell in cells.items()}
    excluded = _others(cells, root)
    done = {name: _read(cell, root) for name, cell in cells.items() if states[name] == "done"}
    _check_classes(grid, done)
    return Results(done, {name: what for name, what in states.items() if what != "done"}, excluded)


def _read(cell: Cell, root: Path) -> dict[str, Any]:
    path = root / cell.id / "done.json"
    result = read_json(path)
    if (result.get("id"), result.get("hash")) != (cell.id, cell.hash):
        raise SystemExit(
            f"{path} is of the run {result.get('id')} with the config {result.get('hash')}, not of {cell.id} with "
            f"{cell.hash}: remove that folder"
        )
    for which in CHECKPOINTS:
        if not math.isfinite(result["metrics"][which].get("test/top1", math.nan)):
            raise SystemExit(f"{path} has no test/top1 of the {which} epoch: remove it, and run the grid again")
    return result


def _others(cells: dict[str, Cell], root: Path) -> dict[str, str]:
    """Folders with traces of runs that are no cells of this grid."""
    found: dict[str, str] = {}
    own = {root / name for name in cells}
    for trace in _TRACES:
        for path in sorted(root.rglob(trace)):
            if not own.intersection(path.parents) and not any((root / name) in path.parents for name in found):
                found[str(path.parent.relative_to(root))] = "a run that no grid has made"
    for name in found:
        if (root / name / "cell.json").exists():
            known = read_json(root / name / "cell.json")["id"]
            if known in cells and (root / known / "cell.json").exists():
                raise SystemExit(f"two runs with the id {known}: {root / known} and {root / name}; remove one of them")
            found[name] = "not a cell of this grid" if known == name else f"a copy of {known}"
    return found


def _check_classes(grid: Grid, done: dict[str, dict[str, Any]]) -> None:
    for pair in grid.columns:
        cells = [cell for cell in grid.cells if cell.group[0] == pair]
        counts: dict[int, str] = {}
        for cell in [*(cell.teacher for cell in cells[:1] if cell.teacher), *cells]:
            if cell.id in done:
                counts.setdefault(done[cell.id]["num_classes"], cell.id)
        if len(counts) > 1:
            told = ", ".join(f"{name} has {count}" for count, name in counts.items())
            raise SystemExit(f"the cells of {pair} differ in their number of classes: {told}; were the data changed?")
