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

sys.path.append(str(Path(__file__).resolve().parents[1] / "tables"))  # names, gains and tables are those of the grids
import stats
from grid import TITLES
from render import markdown

Scores = dict[int, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    folder = parser.parse_args().output
    print(teachers(folder))
    print(f"student alone: {shown(scores(folder, 'student'))}; twice as long: {shown(scores(folder, 'student_2x'))}")
    for teacher in TEACHERS:
        print(f"\n{teacher}\n\n{methods(folder, teacher)}\n{parts(folder, teacher)}\n{pulls(folder, teacher)}")


def teachers(folder: Path) -> str:
    """How well each teacher reads each view."""
    found = {name: read(folder / f"teacher_{name}.json") for name in TEACHERS}
    views = [view for view in found["rgb"] if view != "seconds"]
    return markdown(
        [["teacher", *views], *([name, *(f"{one[view]:.1f}" for view in views)] for name, one in found.items())]
    )


def methods(folder: Path, teacher: str) -> str:
    """A line for each method: plain, beside KD's loss, with TMKD by both objectives, and the gains."""
    rows = [
        ["method", "plain", "+ KD's loss", "+ TMKD", "gain", "gain over + KD's loss", "+ TMKD, distillation", "gain"]
    ]
    for name in METHODS:
        kinds = ("plain", "logit", "tmkd", "tmkd@distillation")
        plain, logit, fused, distilled = (scores(folder, f"{teacher}_{name}+{kind}") for kind in kinds)
        gains = (gain(fused, plain), gain(fused, logit) if logit else "-", shown(distilled), gain(distilled, plain))
        rows.append([TITLES[name], shown(plain), shown(logit) if logit else "-", shown(fused), *gains])
    return markdown(rows)


def parts(folder: Path, teacher: str) -> str:
    """A line for each part of TMKD beside KD."""
    plain = scores(folder, f"{teacher}_kd+plain")
    rows = [["beside KD", "top-1", "gain over KD", "weights of the views"]]
    for name in ["kd+tmkd", "kd+tmkd@distillation", *PARTS]:
        found = scores(folder, f"{teacher}_{name}")
        rows.append([name, shown(found), gain(found, plain), weights(folder, f"{teacher}_{name}")])
    return markdown(rows)


def pulls(folder: Path, teacher: str) -> str:
    """A line for each method: by which share each term's gradient pulls at the student."""
    names = [f"{method}+{kind}" for method in METHODS for kind in ("plain", "tmkd")]
    found = {name: mean_of(folder, f"{teacher}_{name}", "shares") for name in names}
    return markdown([["run", "share of the gradient"], *([name, listed(shares)] for name, shares in found.items())])


def scores(folder: Path, name: str) -> Scores:
    """Top-1 in % by seed, of the seeds that are finished."""
    files = {seed: folder / f"{name}_{seed}.json" for seed in range(100)}
    return {seed: read(path)["top1"] for seed, path in files.items() if path.exists()}


def weights(folder: Path, name: str) -> str:
    """Mean weight of each view in the last step, over seeds."""
    logged = mean_of(folder, name, "logged")
    return listed({key.removeprefix("fusion/"): value for key, value in logged.items() if key.startswith("fusion/")})


def mean_of(folder: Path, name: str, entry: str) -> dict[str, float]:
    """Means over seeds of the numbers that runs have left under an entry."""
    runs = [read(folder / f"{name}_{seed}.json")[entry] for seed in scores(folder, name)]
    return {key: statistics.mean(run[key] for run in runs) for key in runs[0]} if runs else {}


def listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items()) or "-"


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
