"""The paper's tables as rows of text: means over seeds, gains beneath them, the paper's numbers in brackets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grid import METRICS, Grid, Row
from results import Results
from stats import Estimate, gain, summary

Paper = Mapping[str, Mapping[str, Mapping[str, float]]]  # by pair, method and metric, in %


def table(grid: Grid, results: Results, paper: Paper, which: str) -> list[list[str]]:
    """A header and a row for the teachers, each method and each gain, with a column for each pair and metric.

    Args:
        grid: rows and columns.
        results: of its cells.
        paper: numbers to put beside them.
        which: ``best`` or ``last`` epoch.
    """
    columns = [(pair, metric) for pair in grid.columns for metric in grid.metrics]
    header = ["", *(_heading(grid, pair, metric) for pair, metric in columns)]
    rows = (
        [["Teacher", *(_teacher(grid, results, paper, which, *column) for column in columns)]] if grid.teachers else []
    )
    for row in grid.rows:
        rows.append([row.title, *(_mean(grid, results, paper, which, row, *column) for column in columns)])
        if row.base is not None:
            title = f"gain over {next(other.title for other in grid.rows if other.name == row.base)}"
            rows.append([title, *(_gain(grid, results, paper, which, row, *column) for column in columns)])
    return [header, *rows]


def _heading(grid: Grid, pair: str, metric: str) -> str:
    return grid.columns[pair] + (f", {METRICS[metric]}" if len(grid.metrics) > 1 else "")


def _teacher(grid: Grid, results: Results, paper: Paper, which: str, pair: str, metric: str) -> str:
    teacher = grid.teachers.get(pair)
    if teacher is None:
        return "none"
    number = f"{results.value(teacher, which, metric):.2f}" if teacher.id in results.done else "missing"
    return number + _bracket(_of_paper(paper, pair, "teacher", metric), "{:.2f}")


def _mean(grid: Grid, results: Results, paper: Paper, which: str, row: Row, pair: str, metric: str) -> str:
    estimate = summary(results.values(grid, (pair, row.name), which, metric))
    number = "missing" if estimate is None else f"{estimate.mean:.2f}{_spread(estimate)}{_seeds(grid, estimate)}"
    return number + _bracket(_of_paper(paper, pair, row.name, metric), "{:.2f}")


def _gain(grid: Grid, results: Results, paper: Paper, which: str, row: Row, pair: str, metric: str) -> str:
    base = str(row.base)
    estimate = gain(*(results.values(grid, (pair, name), which, metric) for name in (row.name, base)))
    number = "missing" if estimate is None else f"{estimate.mean:+.2f}{_interval(estimate)}{_seeds(grid, estimate)}"
    both = [_of_paper(paper, pair, name, metric) for name in (row.name, base)]
    return number + _bracket(None if None in both else both[0] - both[1], "{:+.2f}")


def _spread(estimate: Estimate) -> str:
    return "" if estimate.spread is None else f" ± {estimate.spread:.2f}"


def _interval(estimate: Estimate) -> str:
    if estimate.spread is None:
        return ""
    return f" [{estimate.mean - estimate.spread:+.2f}, {estimate.mean + estimate.spread:+.2f}]"


def _seeds(grid: Grid, estimate: Estimate) -> str:
    """Says where there are fewer seeds than the grid has, or only one, which has no spread."""
    if estimate.count == 1:
        return ", one seed"
    return "" if estimate.count == len(grid.seeds) else f", {estimate.count} of {len(grid.seeds)} seeds"


def _bracket(number: Any, form: str) -> str:
    return "" if number is None else f" ({form.format(number)})"


def _of_paper(paper: Paper, pair: str, method: str, metric: str) -> float | None:
    return paper.get(pair, {}).get(method, {}).get(metric)
