"""The picture of docs/results.md: what each method gains by what is put beside it."""

from __future__ import annotations

import json
from pathlib import Path

from tmkd_lightning.figures.drawing import COLORS, Figure, finish, new_figure, styled
from tmkd_lightning.utils.files import atomic_write

Gains = dict[str, dict[str, dict[str, list[float]]]]  # by set, method and kind: mean, and the ends of its interval
CAPTION = (
    "Points of top-1 over the method with KD's loss: means of paired seeds, and 95 % intervals by Student's t, which "
    "are not corrected for the number of comparisons. Without a line: not run."
)


@styled()
def write(gains: Gains, path: Path) -> None:
    """Draws gains to a PNG file, which holds the numbers too."""
    figure = draw(gains)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=200, metadata={"Description": json.dumps(gains), "Software": None})


@styled()
def draw(gains: Gains) -> Figure:
    """A panel for each set, a row for each method, and in it a line for each kind: its mean and its interval."""
    figure = new_figure(7.2, 3.0)
    axes = figure.subplots(1, len(gains), sharex=True, sharey=True, squeeze=False)[0]
    methods = list(dict.fromkeys(method for of_set in gains.values() for method in of_set))
    kinds = list(dict.fromkeys(kind for of_set in gains.values() for row in of_set.values() for kind in row))
    for axis, (title, of_set) in zip(axes, gains.items(), strict=True):
        axis.axvline(0, color="#999999", linewidth=0.8)
        for place, kind in enumerate(kinds):
            shift = 0.22 * (place - (len(kinds) - 1) / 2)
            found = [(methods.index(name) + shift, *row[kind]) for name, row in of_set.items() if kind in row]
            rows, means, lows, highs = zip(*found, strict=True) if found else ((), (), (), ())
            axis.hlines(rows, lows, highs, color=COLORS[place], linewidth=1.4)
            axis.plot(means, rows, "o", color=COLORS[place], markersize=3.5, label=kind)
        axis.set(title=title, xlabel="gain in points of top-1", yticks=range(len(methods)), yticklabels=methods)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(kinds))
    return finish(figure, CAPTION)
