"""Writes the table of a grid, of its best and of its last epochs, with where each number comes from.

    python examples/tables/tabulator.py examples/tables/digits.yaml

docs/tables.md says more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import config as configs
from cell import check_targets
from grid import METRICS, Grid, read_grid
from render import latex, markdown
from results import Results, read_results
from table import Paper, table
from tmkd_lightning.utils.files import atomic_write

EPOCHS = {"best": "best epoch by validation top-1", "last": "last epoch"}
FILES = ("table.md", "table.tex", "provenance.md", "results.json")
PAPER = Path(__file__).with_name("paper.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a grid file")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="folder of all cells")
    parser.add_argument("--to", type=Path, help="folder for the tables, by default runs/table_<grid>")
    options = parser.parse_args()
    grid = read_grid(options.grid)
    folder = options.to or Path("runs") / f"table_{grid.name}"
    check_targets(folder / name for name in FILES)
    results = read_results(grid, options.runs)
    paper = configs.load(PAPER).get(grid.name, {})
    contents = (
        as_markdown(grid, results, paper),
        as_latex(grid, results, paper),
        provenance(grid, results),
        json.dumps(everything(grid, results), indent=1) + "\n",
    )
    for name, content in zip(FILES, contents, strict=True):
        with atomic_write(folder / name) as file:
            file.write(content.encode())
    print(contents[0])
    for name, why in results.excluded.items():
        print(f"not counted: {options.runs / name}: {why}")
    print(f"Written: {', '.join(str(folder / name) for name in FILES)}")


def as_markdown(grid: Grid, results: Results, paper: Paper) -> str:
    """Both tables and what they show."""
    parts = [f"# {grid.title}\n", explanation(grid, paper)]
    for which, words in EPOCHS.items():
        parts += [f"## {words[0].upper()}{words[1:]}\n", markdown(table(grid, results, paper, which))]
    parts += _gaps(grid, results)
    return "\n".join(parts)


def as_latex(grid: Grid, results: Results, paper: Paper) -> str:
    """Both tables, with what they show as captions."""
    parts = []
    for which, words in EPOCHS.items():
        caption = f"{grid.title}, {words}. {explanation(grid, paper).strip()}"
        parts.append(latex(table(grid, results, paper, which), caption))
    return "\n".join(parts)


def explanation(grid: Grid, paper: Paper) -> str:
    """What the numbers are."""
    seeds = f"{len(grid.seeds)} seeds" if len(grid.seeds) > 1 else "one seed, which has no spread"
    metrics = ", ".join(METRICS[name] for name in grid.metrics)
    sentences = [
        f"Test {metrics} in %: mean ± standard deviation over {seeds}.",
        "A gain is the mean of the differences of equal seeds, with its 95 % interval by Student's t.",
        "All students of a pair learn from one teacher, trained once.",
        *(["In brackets: the paper's number."] if paper else []),
    ]
    return " ".join(sentences) + "\n"


def _gaps(grid: Grid, results: Results) -> list[str]:
    if not results.missing:
        return []
    lines = "\n".join(f"- {name}: {'not begun' if why == 'new' else why}" for name, why in results.missing.items())
    return [f"Missing, {len(results.missing)} of {len(results.missing) + len(results.done)} runs:\n\n{lines}\n"]


def provenance(grid: Grid, results: Results) -> str:
    """Config, commit, versions and hardware of every cell."""
    places: dict[str, str] = {}
    rows = [["run", "config", "best epoch", "last epoch", "attempts", "seconds", "made", "with"]]
    for name, result in results.done.items():
        record = result["record"]
        place = json.dumps({key: record[key] for key in ("git", "versions", "hardware")}, indent=1)
        label = places.setdefault(place, str(len(places) + 1))
        epochs = [str(result["metrics"][which]["epoch"]) for which in EPOCHS]
        counts = [str(result["attempts"]), str(result["seconds"])]
        rows.append([name, result["hash"], *epochs, *counts, record["started"], label])
    parts = [f"# Where the numbers of “{grid.title}” come from\n"]
    parts.append("The config of each run, and its command, is in `results.json`. Epochs count from 0.\n")
    parts.append(markdown(rows))
    parts += [f"Made with {label}:\n\n```json\n{place}\n```\n" for place, label in places.items()]
    excluded = "\n".join(f"- {name}: {why}" for name, why in results.excluded.items())
    return "\n".join([*parts, *([f"Not counted:\n\n{excluded}\n"] if excluded else [])])


def everything(grid: Grid, results: Results) -> list[dict[str, Any]]:
    """All that is known of each finished cell."""
    cells = {cell.id: cell for cell in [*grid.teachers.values(), *grid.cells]}
    return [{**result, "config": cells[name].config} for name, result in results.done.items()]


if __name__ == "__main__":
    main()
