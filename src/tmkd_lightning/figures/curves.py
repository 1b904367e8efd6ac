"""View weights and accuracy over the epochs (the paper's Figure 6), and how they are read from logs."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tmkd_lightning.figures.drawing import COLORS, Figure, NothingToPlotError, finish, new_figure, styled

FUSION = "fusion/"  # prefix of the views' weights in logs
ACCURACIES = ("val/top1", "val/top1/dataloader_idx_0")  # the second where there are several validation sets


@dataclass
class History:
    """What a run logged, by epoch from 0: mean weight of each view, and top-1 in [0, 1] on the validation images."""

    weights: dict[str, dict[int, float]] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)


@styled()
def plot_curves(runs: Mapping[str, History], source: str = "") -> Figure:
    """Draws the view weights of the first run and the accuracy of all, by run name; `source` ends the caption."""
    from matplotlib.ticker import MaxNLocator

    name, first = next(iter(runs.items()))
    if not first.weights and not first.accuracy:
        raise NothingToPlotError(f"{name} logged neither {ACCURACIES[0]} nor {FUSION}<view>: there is nothing to draw")
    weights = {view.replace("_", " "): first.weights[view] for view in sorted(first.weights)}
    accuracy = {run: history.accuracy for run, history in runs.items() if history.accuracy}
    panels = [
        ("Mean weight of each view in the fused teacher.", "mean fusion weight", weights, 1),
        ("Top-1 on the validation images.", "top-1, %", accuracy, 100),
    ]
    panels = [panel for panel in panels if panel[2]]
    figure = new_figure(3.4 * len(panels), 2.3)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (_, label, lines, factor) in zip(axes, panels, strict=True):
        styles = zip(itertools.cycle(COLORS), itertools.cycle(("-", "--", "-.", ":")), strict=False)
        for (line, values), (colour, style) in zip(lines.items(), styles, strict=False):
            x, y = [epoch + 1 for epoch in values], [factor * value for value in values.values()]
            marker = "." if len(values) == 1 else ""
            axis.plot(x, y, color=colour, linestyle=style, marker=marker, label=line)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.margins(x=0.02)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # above: lines may be anywhere below
    return finish(figure, " ".join([*(panel[0] for panel in panels), source]))


def read_history(path: str | Path) -> History:
    """Reads what Lightning's CSVLogger wrote; rows of one epoch are averaged, empty cells skipped.

    Args:
        path: ``metrics.csv``, or the folder of a run, which holds one or ``version_<n>`` folders with one each. A
            resumed run logs to a version of its own, which replaces what the ones before hold from its first step on.
    """
    path = Path(path).expanduser()
    rows = read_curve(path) if path.is_dir() else _rows(path)
    names = sorted({name for row in rows for name in row})
    try:
        weights = {name.removeprefix(FUSION): _by_epoch(rows, name) for name in names if name.startswith(FUSION)}
        return History(weights, next(filter(None, (_by_epoch(rows, name) for name in ACCURACIES)), {}))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as metrics ({error}): it is damaged, or not CSVLogger's") from error


def read_curve(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv`` and of all its ``version_<n>/metrics.csv``, without empty cells.

    Each file replaces earlier rows from its first step on, as a resumed run goes on behind its checkpoint. Files of a
    validation or test alone, with step 0 and no ``train/``, do not count.
    """
    versions = sorted(folder.glob("version_*/metrics.csv"), key=lambda file: (len(file.parent.name), file))
    curve: list[dict[str, str]] = []
    for file in filter(Path.is_file, (folder / "metrics.csv", *versions)):
        rows = [row for row in _rows(file) if row.get("step", "").isdecimal()]
        steps = {int(row["step"]) for row in rows}
        if max(steps, default=0) > 0 or any(name.startswith("train/") for row in rows for name in row):
            curve = [row for row in curve if int(row["step"]) < min(steps)] + rows
    return curve


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that saved a checkpoint: where it lies, or above Lightning's ``checkpoints``."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def run_name(folder: Path) -> str:
    """The name of a run in figures: its folder's, with the one above where that is a mere version."""
    folder = folder.resolve() if not folder.name else folder
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name


def _rows(path: Path) -> list[dict[str, str]]:
    reader = csv.DictReader(path.read_text(encoding="utf-8", errors="replace").splitlines())
    rows = [{name: text for name, text in row.items() if name and text} for row in reader]
    if not rows or "epoch" not in (reader.fieldnames or ()):
        raise ValueError(f"{path} is not a metrics.csv of Lightning's CSVLogger: it has no rows with a column 'epoch'")
    return rows


def _by_epoch(rows: Sequence[Mapping[str, str]], name: str) -> dict[int, float]:
    """The mean of a column in each epoch."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if name in row:
            values.setdefault(int(row["epoch"]), []).append(float(row[name]))
    return {epoch: sum(some) / len(some) for epoch, some in sorted(values.items())}
