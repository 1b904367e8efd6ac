"""The tables of docs/results.md from the files that the study has left, finished or not.

python examples/results/report.py --output runs/results
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
from conditions import METHODS, PARTS, TEACHERS

sys.path.append(str(Path(__file__).resolve().parents[1] / "tables"))  # means, gains and titles are those of the grids
from grid import TITLES
from tabulator import format_gain, format_mean

SEEDS = 3  # by default of study.py; cells with fewer say so
KINDS = {"plain": "plain", "+ KD's loss": "logit", "+ TMKD": "tmkd", "+ TMKD, distillation": "tmkd@distillation"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    folder = parser.parse_args().output
    teachers = {name: json.loads((folder / f"teacher_{name}.json").read_text()) for name in TEACHERS}
    _print(pd.DataFrame(teachers).drop("seconds").T.map("{:.1f}".format))
    alone, longer = (mean(runs(folder, name)) for name in ("student", "student_2x"))
    print(f"student alone: {alone}; twice as long: {longer}")
    for teacher in TEACHERS:
        print(f"\n{teacher}")
        _print(methods(folder, teacher))
        _print(parts(folder, teacher))
        _print(gradients(folder, teacher))


def runs(folder: Path, name: str) -> pd.DataFrame:
    """One row for each finished seed: what the run has left, with ``top1`` in % and a column for each logged value."""
    files = {seed: folder / f"{name}_{seed}.json" for seed in range(100)}
    found = {seed: json.loads(file.read_text()) for seed, file in files.items() if file.exists()}
    frame = pd.json_normalize(list(found.values()))
    return frame.set_axis(list(found)) if found else pd.DataFrame(columns=["top1"], dtype=float)


def methods(folder: Path, teacher: str) -> pd.DataFrame:
    """A row for each method: plain, with KD's loss, with TMKD by both objectives, and the gains."""
    rows = {}
    for name in METHODS:
        found = {title: runs(folder, f"{teacher}_{name}+{kind}") for title, kind in KINDS.items()}
        plain, logit, fused, distilled = found.values()
        rows[TITLES[name]] = {title: mean(part) for title, part in found.items()} | {
            "gain": gain(fused, plain),
            "gain over + KD's loss": gain(fused, logit),
            "gain, distillation": gain(distilled, plain),
        }
    return pd.DataFrame(rows).T


def parts(folder: Path, teacher: str) -> pd.DataFrame:
    """A row for each part of TMKD beside KD, with the mean weight of each view in the last step."""
    plain = runs(folder, f"{teacher}_kd+plain")
    rows = {}
    for name in ["kd+tmkd", "kd+tmkd@distillation", *PARTS]:
        found = runs(folder, f"{teacher}_{name}")
        weights = means(found, "logged.fusion/")
        rows[name] = {"top-1": mean(found), "gain over KD": gain(found, plain), "weights of the views": weights}
    return pd.DataFrame(rows).T


def gradients(folder: Path, teacher: str) -> pd.DataFrame:
    """A row for each method: the share of each term in the lengths of the gradients."""
    names = [f"{method}+{kind}" for method in METHODS for kind in ("plain", "tmkd")]
    rows = {name: means(runs(folder, f"{teacher}_{name}"), "shares.") for name in names}
    return pd.DataFrame({"share of the gradient": rows})


def mean(found: pd.DataFrame) -> str:
    return format_mean(found["top1"], SEEDS, digits=1)


def gain(found: pd.DataFrame, base: pd.DataFrame) -> str:
    return format_gain(found["top1"], base["top1"], SEEDS, digits=1)


def means(found: pd.DataFrame, prefix: str) -> str:
    """Means over seeds of the columns with a prefix."""
    columns = found.filter(like=prefix).mean()
    return ", ".join(f"{name.removeprefix(prefix)} {value:.2f}" for name, value in columns.items()) or "-"


def _print(frame: pd.DataFrame) -> None:
    print(f"\n{frame.to_markdown(disable_numparse=True)}\n")


if __name__ == "__main__":
    main()
