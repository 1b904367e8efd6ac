"""Hands a grid on: to a shell, to a SLURM array, to a W&B sweep. Each task runs one cell through run.py."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import yaml

from grid import Cell

_RUN = Path(__file__).with_name("run.py")


def as_list(grid: Path, output: Path, cells: list[Cell]) -> str:
    """One command a line, teachers first."""
    return "".join(shlex.join([*_command(grid, output), "--cells", cell.id]) + "\n" for cell in cells)


def as_slurm(grid: Path, output: Path, cells: list[Cell]) -> str:
    """A batch script that submits itself twice: an array of the teachers, then one of the cells that need them."""
    teachers, students = _parts(cells)
    return _SLURM.format(
        name=grid.stem,
        teachers=shlex.join(teachers),
        students=shlex.join(students),
        command=shlex.join(_command(grid, output)),
    )


def as_wandb(grid: Path, output: Path, cells: list[Cell]) -> str:
    """A sweep with one run for each cell; the teachers are not part of it, and must be there before."""
    command = ["${env}", *_command(grid, output), "--wandb", grid.stem, "${args}"]
    sweep = {
        "program": str(_RUN),
        "name": grid.stem,
        "method": "grid",
        "metric": {"name": "val/top1", "goal": "maximize"},
        "parameters": {"cells": {"values": _parts(cells)[1]}},
        "command": command,
    }
    first = shlex.join([*_command(grid, output), "--cells", "teachers/*"])
    return f"# Before the agents start: {first}\n{yaml.safe_dump(sweep, sort_keys=False)}"


def _parts(cells: list[Cell]) -> tuple[list[str], list[str]]:
    """Ids of teachers and of students."""
    teachers = [cell.id for cell in cells if cell.group[0] == "teachers"]
    students = [cell.id for cell in cells if cell.group[0] != "teachers"]
    if not students:
        raise SystemExit("--emit hands students on, and --cells has left none")
    return teachers, students


def _command(grid: Path, output: Path) -> list[str]:
    return ["python", str(_RUN), str(grid), "--output", str(output)]


FORMS: dict[str, Callable[[Path, Path, list[Cell]], str]] = {"list": as_list, "slurm": as_slurm, "wandb": as_wandb}

_SLURM = """\
#!/bin/bash
# bash {name}.sh submits two arrays, one task for each cell; add your cluster's options to both sbatch lines.
# A task that was killed or timed out goes on where it was: submit again.
set -eu
TEACHERS=({teachers})
CELLS=({students})
if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then
    AFTER=
    if [ ${{#TEACHERS[@]}} -gt 0 ]; then
        ARRAY=0-$((${{#TEACHERS[@]}} - 1))
        FIRST=$(sbatch --parsable --job-name={name}-teachers --gpus=1 --array=$ARRAY "$0" teachers)
        AFTER=--dependency=afterok:$FIRST
    fi
    sbatch --job-name={name} --gpus=1 --array=0-$((${{#CELLS[@]}} - 1)) $AFTER "$0" cells
elif [ "$1" = teachers ]; then
    {command} --cells "${{TEACHERS[$SLURM_ARRAY_TASK_ID]}}"
else
    {command} --cells "${{CELLS[$SLURM_ARRAY_TASK_ID]}}"
fi
"""
