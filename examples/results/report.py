"""The tables of docs/results.md from the files that the study has left, finished or not.

python examples/results/report.py --output runs/results
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from conditions import METHODS, PARTS, TEACHERS

sys.path.append(str(Path(__file__).resolve().parents[1] / "tables"))  # means, gains and tables are those of the grids
import stats
from render import markdown

TITLES = {"kd": "KD", "tekap": "TeKAP", "cat_kd": "CAT-KD", "sp": "SP", "rkd": "RKD"}

Scores = dict[int, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    folder = parser.parse_args().output
    views = ["rgb", "edge", "high_frequency", "mean of views"]
    measured = {name: read(folder / f"teacher_{name}.json") for name in TEACHERS}
    print(
        markdown(
            [["teacher", *views], *([name, *(f"{one[view]:.1f}" for view in views)] for name, one in measured.items())]
        )
    )
    print(f"student alone: {shown(scores(folder, 'student'))}; twice as long: {shown(scores(folder, 'student_2x'))}")
    for teacher in TEACHERS:
        print(f"\n{teacher}\n\n{methods(folder, teacher)}\n{parts(folder, teacher)}")


def methods(folder: Path, teacher: str) -> str:
    """A line for each method: plain, with TMKD by both objectives, and the gains."""
    rows = [["method", "plain", "+ TMKD, label", "gain", "+ TMKD, distillation", "gain"]]
    compared = {TITLES[name]: (f"{teacher}_{name}", f"{teacher}_{name}+tmkd") for name in METHODS}
    for title, (plain, fused) in {**compared, "none": ("student", f"{teacher}_tmkd")}.items():
        base = scores(folder, plain)
        found = [scores(folder, f"{fused}@{objective}") for objective in ("label", "distillation")]
        rows.append([title, shown(base), *(cell for one in found for cell in (shown(one), gain(one, base)))])
    return markdown(rows)


def parts(folder: Path, teacher: str) -> str:
    """A line for each part of TMKD beside KD."""
    plain = scores(folder, f"{teacher}_kd")
    rows = [["beside KD", "top-1", "gain over KD", "weights of the views"]]
    for name in ["kd+tmkd@label", "kd+tmkd@distillation", *PARTS]:
        found = scores(folder, f"{teacher}_{name}")
        rows.append([name, shown(found), gain(found, plain), weights(folder, f"{teacher}_{name}")])
    return markdown(rows)


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
    """Mean and standard deviation, and of how many seeds."""
    value = stats.summary(found)
    if value is None:
        return "missing"
    return (
        f"{value.mean:.1f}, one seed"
        if value.spread is None
        else f"{value.mean:.1f} ± {value.spread:.1f} ({value.count})"
    )


def gain(found: Scores, base: Scores) -> str:
    """Mean difference seed by seed, with its 95 % interval."""
    value = stats.gain(found, base)
    if value is None:
        return "missing"
    if value.spread is None:
        return f"{value.mean:+.1f}, one seed"
    return f"{value.mean:+.1f} [{value.mean - value.spread:+.1f}, {value.mean + value.spread:+.1f}]"


def read(path: Path) -> dict[str, Any]:
    """What a run has left."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


if __name__ == "__main__":
    main()
