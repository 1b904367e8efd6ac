"""The tables of docs/results.md from the files that the study has left, finished or not.

python examples/results/report.py --output runs/results
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from conditions import METHODS, PARTS, TEACHERS

TITLES = {"kd": "KD", "tekap": "TeKAP", "cat_kd": "CAT-KD", "sp": "SP", "rkd": "RKD"}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by the number of differences

Scores = dict[int, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    folder = parser.parse_args().output
    teachers = {name: read(folder / f"teacher_{name}.json") for name in TEACHERS}
    views = ["rgb", "edge", "high_frequency", "mean of views"]
    print(row("teacher", *views), rule(5), sep="\n")
    for name, measured in teachers.items():
        print(row(name, *(f"{measured[view]:.1f}" for view in views)))
    print(f"\nstudent alone: {shown(scores(folder, 'student'))}; twice as long: {shown(scores(folder, 'student_2x'))}")
    for teacher in TEACHERS:
        print(f"\n{teacher}\n\n{methods(folder, teacher)}\n\n{parts(folder, teacher)}")


def methods(folder: Path, teacher: str) -> str:
    """A line for each method: plain, with TMKD by both objectives, and the gains."""
    lines = [row("method", "plain", "+ TMKD, label", "gain", "+ TMKD, distillation", "gain"), rule(6)]
    for name in METHODS:
        plain = scores(folder, f"{teacher}_{name}")
        fused = [scores(folder, f"{teacher}_{name}+tmkd@{objective}") for objective in ("label", "distillation")]
        cells = [cell for one in fused for cell in (shown(one), gain(one, plain))]
        lines.append(row(TITLES[name], shown(plain), *cells))
    alone = scores(folder, "student")
    fused = [scores(folder, f"{teacher}_tmkd@{objective}") for objective in ("label", "distillation")]
    cells = [cell for one in fused for cell in (shown(one), gain(one, alone))]
    return "\n".join([*lines, row("none", shown(alone), *cells)])


def parts(folder: Path, teacher: str) -> str:
    """A line for each part of TMKD beside KD."""
    plain = scores(folder, f"{teacher}_kd")
    lines = [row("beside KD", "top-1", "gain over KD", "weights of the views"), rule(4)]
    for name in ["kd+tmkd@label", "kd+tmkd@distillation", *PARTS]:
        found = scores(folder, f"{teacher}_{name}")
        lines.append(row(name, shown(found), gain(found, plain), weights(folder, f"{teacher}_{name}")))
    return "\n".join(lines)


def scores(folder: Path, name: str) -> Scores:
    """Top-1 in % by seed, of the seeds that are finished."""
    files = {seed: folder / f"{name}_{seed}.json" for seed in range(100)}
    return {seed: read(path)["top1"] for seed, path in files.items() if path.exists()}


def weights(folder: Path, name: str) -> str:
    """Mean weight of each view in the last step, over seeds."""
    runs = [read(folder / f"{name}_{seed}.json")["logged"] for seed in scores(folder, name)]
    names = [key for key in runs[0] if key.startswith("fusion/")] if runs else []
    return ", ".join(f"{key[7:]} {statistics.mean(run[key] for run in runs):.2f}" for key in names) or "-"


def shown(found: Scores) -> str:
    if not found:
        return "missing"
    if len(found) == 1:
        return f"{next(iter(found.values())):.1f}, one seed"
    return f"{statistics.mean(found.values()):.1f} ± {statistics.stdev(found.values()):.1f} ({len(found)})"


def gain(found: Scores, base: Scores) -> str:
    """Mean difference seed by seed, with its 95 % interval by Student's t."""
    differences = [found[seed] - base[seed] for seed in found if seed in base]
    if len(differences) < 2:
        return f"{differences[0]:+.1f}, one seed" if differences else "missing"
    half = T_95[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.mean(differences)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    return "|---" * columns + "|"


if __name__ == "__main__":
    main()
