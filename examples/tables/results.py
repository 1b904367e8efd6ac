"""Collects what the cells of a grid have left, and says of everything else why it is not counted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from cell import CHECKPOINTS, fits, read_json, state
from grid import Cell, Grid

_TRACES = ("done.json", "cell.json", "metrics.csv", "*.ckpt")  # of a run, ours or somebody else's


_NUMBER = (int, float)
_RECORD = {"started": str, "git": object, "versions": object, "hardware": object}
_DONE = {"id": str, "hash": str, "num_classes": int, "attempts": int, "seconds": _NUMBER, "record": _RECORD}


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
    metrics = {"epoch": int, **{f"test/{metric}": _NUMBER for metric in grid.metrics}}
    form = {**_DONE, "metrics": dict.fromkeys(CHECKPOINTS, metrics)}
    done = {name: _read(cell, root, form) for name, cell in cells.items() if states[name] == "done"}
    _check_classes(grid, done)
    return Results(done, {name: what for name, what in states.items() if what != "done"}, excluded)


def _read(cell: Cell, root: Path, form: Mapping[str, Any]) -> dict[str, Any]:
    path = root / cell.id / "done.json"
    result = read_json(path, form)
    if (result["id"], result["hash"]) != (cell.id, cell.hash):
        raise SystemExit(
            f"{path} is of the run {result['id']} with the config {result['hash']}, not of {cell.id} with "
            f"{cell.hash}: remove that folder"
        )
    for which, name in product(CHECKPOINTS, form["metrics"]["best"]):
        if not math.isfinite(result["metrics"][which][name]):
            raise SystemExit(f"{path} has no {name} of the {which} epoch: remove it, and run the grid again")
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
            known = _id(root / name / "cell.json")
            if known is None:
                found[name] = "its cell.json is damaged, or of something else"
                continue
            if known in cells and (root / known / "cell.json").exists():
                raise SystemExit(f"two runs with the id {known}: {root / known} and {root / name}; remove one of them")
            found[name] = "not a cell of this grid" if known == name else f"a copy of {known}"
    return found


def _id(path: Path) -> str | None:
    """Whose ``cell.json`` it is; None if it is none of ours."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content["id"] if fits(content, {"id": str}) else None


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
