"""All figures of a run by name."""

import functools
from collections.abc import Callable, Mapping, Sequence

from tmkd_lightning.figures.cam import plot_cam
from tmkd_lightning.figures.collect import CollectedOutputs
from tmkd_lightning.figures.curves import History, plot_curves
from tmkd_lightning.figures.drawing import Figure, NothingToPlotError
from tmkd_lightning.figures.logits import plot_logits
from tmkd_lightning.figures.tsne import plot_tsne
from tmkd_lightning.figures.views import plot_views
from tmkd_lightning.views import MultiView

FIGURES = ("views", "cam", "tsne", "logits", "curves")
"""Names of all figures."""


def plot_all(
    collect: Callable[[], CollectedOutputs],
    views: MultiView,
    histories: Callable[[], Mapping[str, History]],
    names: Sequence[str] = FIGURES,
    *,
    seed: int = 0,
    source: str = "",
    split: str = "validation",
    on_skip: Callable[[str], None] | None = None,
) -> dict[str, Figure]:
    """Draws figures of a run, by name.

    Args:
        collect: gives the networks' outputs; called at most once.
        views: of the teacher.
        histories: gives what was logged, by the name of the run; called for the curves.
        names: some of `FIGURES`.
        seed: of t-SNE.
        source: run, checkpoint and seed, for the captions.
        split: which images were collected, for the captions.
        on_skip: called with the reason for each figure without data; None raises NothingToPlotError.
    """
    collected = functools.cache(collect)
    caption = f"{source}; {split} images."
    plots: dict[str, Callable[[], Figure]] = {
        "views": lambda: plot_views(collected(), views, caption),
        "cam": lambda: plot_cam(collected(), caption),
        "tsne": lambda: plot_tsne(collected(), seed, caption),
        "logits": lambda: plot_logits(collected(), caption),
        "curves": lambda: plot_curves(histories(), f"{source}."),
    }
    figures = {}
    for name in names:
        try:
            figures[name] = plots[name]()
        except NothingToPlotError as error:
            if on_skip is None:
                raise
            on_skip(f"no figure of {name}: {error}")
    return figures
