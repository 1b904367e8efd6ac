"""The curve of a run, from its CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

from tmkd_lightning.utils.files import atomic_write

Row = dict[str, str]


def attempts(folder: Path) -> list[Path]:
    """Files of a cell's attempts, in order."""
    return sorted(folder.glob("attempt_*.json"), key=lambda file: int(file.stem.split("_")[1]))


def whole(folder: Path) -> list[Row]:
    """Rows of the whole run, which the last attempt's file holds: it began with those of its checkpoint."""
    return read(folder / attempts(folder)[-1].stem / "metrics.csv")


def read(path: Path) -> list[Row]:
    """Rows of a CSV file; none if it is not there. A last line that was cut off is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return list(csv.DictReader(lines))


def write(path: Path, rows: list[Row]) -> None:
    """Writes rows as one CSV file with all their columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns), *(",".join(row.get(name, "") for name in columns) for row in rows)]
    with atomic_write(path) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def values(rows: list[Row], epoch: int, prefix: str) -> dict[str, float]:
    """What was logged in an epoch under names that begin with a prefix."""
    found = {}
    for row in rows:
        if row["epoch"] == str(epoch):
            found |= {name: float(value) for name, value in row.items() if name.startswith(prefix) and value}
    return found
