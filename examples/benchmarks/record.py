"""What every benchmark leaves behind: a table on the screen, and a file that says where its numbers come from."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "lightning", "kornia", "pillow")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """One line a row, one column a key; numbers to the right with five digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    numeric = [any(isinstance(row.get(name), (int, float)) for row in rows) for name in names]
    for line in cells:
        print(
            "  ".join(
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(line, widths, numeric, strict=True)
            ).rstrip()
        )


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes runs/<name>.json: the rows with machine, versions and command."""
    machine = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    versions = {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
    Path("runs").mkdir(exist_ok=True)
    result = {"rows": rows, "machine": machine, "versions": versions, "command": sys.argv}
    Path(f"runs/{name}.json").write_text(json.dumps(result, indent=2))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
