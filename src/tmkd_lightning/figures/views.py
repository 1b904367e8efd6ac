"""Example images in all views, as the teacher gets them."""

from torch import Tensor

from tmkd_lightning.figures.collect import CollectedOutputs
from tmkd_lightning.figures.drawing import Axes, Figure, NothingToPlotError, finish, new_figure, shorten, styled, wrap
from tmkd_lightning.views import MultiView


@styled()
def plot_views(collected: CollectedOutputs, views: MultiView, source: str = "") -> Figure:
    """Draws the example images, a row for each image and a column for each view; `source` ends the caption."""
    if len(views) == 1:
        raise NothingToPlotError(f"the run has one view, {views.names[0]!r}: there is nothing to compare it with")
    names = shorten(collected.class_names, 28)
    images = views(collected.example_images).float()  # (V, R, 3, H, W)
    figure = new_figure(max(2.4, 0.3 + 0.85 * len(views)), 0.6 + 0.85 * images.shape[1])
    axes = figure.subplots(images.shape[1], len(views), squeeze=False)
    for axis, image in zip(axes.T.flat, images.flatten(0, 1), strict=True):
        show_image(axis, image)
    for axis, label in zip(axes[:, 0], collected.example_labels.tolist(), strict=True):
        axis.set_ylabel(wrap(names[label], 14, lines=3), fontsize=7)
    for axis, name in zip(axes[0], views.names, strict=True):
        axis.set_title(name.replace("_", " "))
    return finish(figure, f"Images as the teacher gets them, a view in each column. {source}")


def show_image(axis: Axes, image: Tensor) -> None:
    """Shows ``(3, H, W)`` in [0, 1] without ticks or frame."""
    axis.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
