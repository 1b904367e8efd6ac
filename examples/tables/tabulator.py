"""Writes the tables of a grid, of the best and of the last epochs: table.md, table.tex and results.csv.

    python examples/tables/tabulator.py examples/tables/digits.yaml

docs/tables.md says what the numbers are.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from grid import METRICS, Grid, Method, read_grid, read_yaml
from run import state

EPOCHS = {"best": "best epoch by validation top-1", "last": "last epoch"}
_LATEX = {"→": r"$\rightarrow$", "±": r"$\pm$"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a grid file")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="folder of all cells")
    parser.add_argument("--to", type=Path, help="folder for the tables, by default runs/table_<grid>")
    options = parser.parse_args()
    grid = read_grid(options.grid)
    folder = options.to or Path("runs") / f"table_{grid.name}"
    folder.mkdir(parents=True, exist_ok=True)
    results = read_results(grid, options.runs)
    paper = read_yaml(Path(__file__).with_name("paper.yaml")).get(grid.name, {})
    note, missing = caption(grid, paper), [cell.id for cell in grid.cells if cell.id not in set(results["cell"])]
    markdown, latex = [f"# {grid.title}", note], []
    for which, words in EPOCHS.items():
        frame = table(grid, results[results["which"] == which], paper)
        markdown += [f"## {words.capitalize()}", frame.to_markdown(index=False, disable_numparse=True)]
        latex.append(as_latex(frame, f"{grid.title}, {words}. {note}"))
    if missing:
        markdown.append("\n- ".join([f"Missing, {len(missing)} of {len(grid.cells)} runs:\n", *missing]))
    (folder / "table.md").write_text("\n\n".join(markdown) + "\n")
    (folder / "table.tex").write_text("\n".join(latex))
    results.to_csv(folder / "results.csv", index=False)
    print("\n\n".join(markdown), f"\n\nWritten to {folder}: table.md, table.tex, results.csv")


def read_results(grid: Grid, root: Path) -> pd.DataFrame:
    """One row for each finished cell and each of its two epochs, metrics in %; a teacher counts for each of its pairs.

    Raises SystemExit if a folder holds a run of another config.
    """
    cells = [(pair, "teacher", cell) for pair, cell in grid.teachers.items() if cell is not None]
    cells += [(cell.pair, cell.method, cell) for cell in grid.cells if cell.pair != "teachers"]
    rows: list[dict[str, Any]] = []
    for pair, method, cell in cells:
        if state(cell, root) == "done":
            result = json.loads((root / cell.id / "done.json").read_text())
            keys = {"cell": cell.id, "hash": cell.hash, "pair": pair, "method": method, "seed": cell.seed}
            for which in EPOCHS:
                metrics = {metric: 100 * result[which][f"test/{metric}"] for metric in METRICS}
                rows.append({**keys, "which": which, "epoch": result[which]["epoch"], **metrics})
    return pd.DataFrame(rows, columns=["cell", "hash", "pair", "method", "seed", "which", "epoch", *METRICS])


def table(grid: Grid, results: pd.DataFrame, paper: dict[str, Any]) -> pd.DataFrame:
    """Cells as text: a row for the teachers, each method and each gain; a column for each pair and metric."""
    methods = [*([Method("teacher", "Teacher")] if any(grid.teachers.values()) else []), *grid.methods]
    titles = {method.name: method.title for method in methods}
    columns: dict[str, dict[str, str]] = {}
    for pair, metric in [(pair, metric) for pair in grid.pairs for metric in grid.metrics]:
        groups = results[results["pair"] == pair].set_index("seed").groupby("method")[metric]
        found = {name: groups.get_group(name) for name in groups.groups}
        reported = {name: metrics[metric] for name, metrics in paper.get(pair, {}).items()}
        rows: dict[str, str] = {}
        for name, title, base in methods:
            number = f" ({reported[name]:.2f})" if name in reported else ""
            rows[title] = format_mean(found.get(name), len(grid.seeds)) + number
            if base is not None:
                number = f" ({reported[name] - reported[base]:+.2f})" if {name, base} <= set(reported) else ""
                gain = format_gain(found.get(name), found.get(base), len(grid.seeds))
                rows[f"{title}: gain over {titles[base]}"] = gain + number
        columns[grid.pairs[pair] + (f", {METRICS[metric]}" if len(grid.metrics) > 1 else "")] = rows
    return pd.DataFrame(columns).rename_axis("").reset_index()


def format_mean(values: pd.Series[float] | None, seeds: int, digits: int = 2) -> str:
    """Mean ± standard deviation (n - 1) over seeds, and how many there are if it is not `seeds`."""
    if values is None or values.empty:
        return "missing"
    spread = "" if len(values) == 1 else f" ± {values.std():.{digits}f}"
    return f"{values.mean():.{digits}f}{spread}{_count(len(values), seeds)}"


def format_gain(values: pd.Series[float] | None, base: pd.Series[float] | None, seeds: int, digits: int = 2) -> str:
    """Mean of the differences of equal seeds with its 95 % interval by Student's t; both series by seed."""
    differences = pd.Series(dtype=float) if values is None or base is None else (values - base).dropna()
    return format_differences(differences, seeds, digits)


def format_differences(differences: pd.Series[float], seeds: int, digits: int = 2) -> str:
    """Their mean with its 95 % interval by Student's t, and how many there are if it is not `seeds`."""
    if differences.empty:
        return "missing"
    mean, low, high = interval(differences)
    between = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if len(differences) > 1 else ""
    return f"{mean:+.{digits}f}{between}{_count(len(differences), seeds)}"


def interval(differences: pd.Series[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval by Student's t, which are nan for a single one."""
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences) if len(differences) > 1 else math.nan
    return differences.mean(), differences.mean() - half, differences.mean() + half


def _count(count: int, seeds: int) -> str:
    if count == 1:
        return ", one seed"
    if count < seeds:
        return f", {count} of {seeds} seeds"
    return "" if count == seeds else f", {count} seeds"


def caption(grid: Grid, paper: dict[str, Any]) -> str:
    metrics = ", ".join(METRICS[name] for name in grid.metrics)
    return (
        f"Test {metrics} in %: mean ± standard deviation over {len(grid.seeds)} seeds. A gain is the mean of the "
        "differences of equal seeds, with its 95 % interval by Student's t. All students of a pair learn from one "
        f"teacher, trained once.{' In brackets: the number of the paper.' if paper else ''}"
    )


def as_latex(frame: pd.DataFrame, text: str) -> str:
    """A table for the package booktabs."""
    styled = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    latex = styled.to_latex(hrules=True, caption=text.replace("%", r"\%"), position_float="centering")
    latex = re.sub(r"(?<![\w-])-(?=\d)", "$-$", latex)
    return re.sub("[→±]", lambda sign: _LATEX[sign[0]], latex)


if __name__ == "__main__":
    main()
