"""How training went: weights of the views and accuracy over the epochs (the paper's Figure 6)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tmkd_lightning.figures.drawing import COLOURS, NothingToShowError

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

FUSION = "fusion/"
"""What stands before the names of views in logs."""
ACCURACY = "val/top1"
"""The accuracy that is drawn, in logs."""
ACCURACIES = (ACCURACY, f"{ACCURACY}/dataloader_idx_0")
"""Its names: the second where there are several validation sets, of which the first is drawn."""

_WEIGHTS = "Mean weight of each view in the fused teacher, as logged"
_ACCURACY = "Top-1 on the validation images"
_LINES = ("-", "--", "-.", ":")


@dataclass
class History:
    """What a run logged, by epoch, counted from 0.

    Args:
        weights: mean weight of each view, by its name.
        accuracy: top-1 on the validation images, in [0, 1].
    """

    weights: dict[str, dict[int, float]] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Curves:
    """Data of the figure of training.

    Args:
        weights: of the first run, mean weight of each view, by its name and by epoch, counted from 0.
        accuracy: of each run, top-1 in [0, 1], by its name and by epoch.
    """

    weights: dict[str, dict[int, float]]
    accuracy: dict[str, dict[int, float]]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return 3.4 * len(self._panels()), 2.3

    @property
    def note(self) -> str:
        """What is shown."""
        return " ".join(f"{title}." for title in self._panels())

    def draw(self, figure: FigureBase) -> None:
        """A panel for the weights and one for the accuracy, by finished epochs."""
        from matplotlib.ticker import MaxNLocator

        panels = self._panels()
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for index, (name, values) in enumerate(lines.items()):
                axis.plot(
                    [epoch + 1 for epoch in values],
                    list(values.values()),
                    label=name,
                    color=COLOURS[index % len(COLOURS)],
                    linestyle=_LINES[index % len(_LINES)],
                    marker="." if len(values) == 1 else "",
                )
            axis.set(xlabel="epoch", ylabel="top-1, %" if title == _ACCURACY else "mean fusion weight")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axis.margins(x=0.02)
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # above: lines may be anywhere below

    def _panels(self) -> dict[str, dict[str, dict[int, float]]]:
        """The lines of each panel, by what it shows."""
        weights = {name.replace("_", " "): values for name, values in self.weights.items()}
        percent = {run: {epoch: 100 * one for epoch, one in values.items()} for run, values in self.accuracy.items()}
        return {title: lines for title, lines in ((_WEIGHTS, weights), (_ACCURACY, percent)) if lines}


def curves(runs: Mapping[str, History]) -> Curves:
    """Puts runs together.

    Args:
        runs: by the name that the figure gives them; weights are those of the first.

    Returns:
        The figure's data.

    Raises:
        NothingToShowError: the first run logged neither weights nor accuracy.
    """
    name, first = next(iter(runs.items()))
    if not first.weights and not first.accuracy:
        raise NothingToShowError(f"{name} logged neither {ACCURACY} nor {FUSION}<view>: there is nothing to draw")
    return Curves(
        dict(sorted(first.weights.items())), {name: run.accuracy for name, run in runs.items() if run.accuracy}
    )


def read_history(path: str | Path) -> History:
    """Reads what Lightning's CSVLogger wrote; rows of one epoch are averaged, empty cells skipped.

    Args:
        path: ``metrics.csv``, or the folder of a run, which holds one or ``version_<n>`` folders with one each. A
            resumed run logs to a version of its own, which replaces what the ones before hold from its first step on.

    Returns:
        Weights and accuracy; either is empty if it was not logged.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is not of that kind, or damaged.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "metrics.csv"
        >>> text = "epoch,step,fusion/rgb,val/top1\\n0,1,0.25,\\n0,2,0.75,\\n0,2,,0.5\\n"
        >>> len(text) == path.write_text(text)
        True
        >>> read_history(path)
        History(weights={'rgb': {0: 0.5}}, accuracy={0: 0.5})
    """
    path = Path(path).expanduser()
    rows = _rows(path) if not path.is_dir() else read_curve(path)
    names = sorted({name for row in rows for name in row})
    try:
        weights = {name.removeprefix(FUSION): _by_epoch(rows, name) for name in names if name.startswith(FUSION)}
        return History(weights, next(filter(None, (_by_epoch(rows, name) for name in ACCURACIES)), {}))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as metrics ({error}): it is damaged, or not CSVLogger's") from error


def read_curve(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv`` and of all its ``version_<n>/metrics.csv``, without empty cells.

    Each file replaces the earlier rows from its first step on, as a resumed run goes on behind its checkpoint. Files
    of a validation or test alone, which log step 0 and no ``train/``, do not count.
    """
    versions = sorted(folder.glob("version_*/metrics.csv"), key=lambda file: (len(file.parent.name), file))
    curve: list[dict[str, str]] = []
    for file in filter(Path.is_file, (folder / "metrics.csv", *versions)):
        rows = [row for row in _rows(file) if row.get("step", "").isdecimal()]
        steps = {int(row["step"]) for row in rows}
        if max(steps, default=0) > 0 or any(name.startswith("train/") for row in rows for name in row):
            curve = [row for row in curve if int(row["step"]) < min(steps)] + rows
    return curve


def _rows(path: Path) -> list[dict[str, str]]:
    reader = csv.DictReader(path.read_text(encoding="utf-8", errors="replace").splitlines())
    rows = [{name: text for name, text in row.items() if name and text} for row in reader]
    if not rows or "epoch" not in (reader.fieldnames or ()):
        raise ValueError(f"{path} is not a metrics.csv of Lightning's CSVLogger: it has no rows with a column 'epoch'")
    return rows


def _by_epoch(rows: Iterable[Mapping[str, str]], name: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        if name in row:
            values.setdefault(int(row["epoch"]), []).append(float(row[name]))
    return {epoch: sum(some) / len(some) for epoch, some in sorted(values.items())}
