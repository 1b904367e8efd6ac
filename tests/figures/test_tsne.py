"""The figure of embeddings: which images, where t-SNE puts them, and how they are marked."""

import dataclasses

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from sklearn.manifold import TSNE, trustworthiness

from helpers.figure_data import make_outputs
from tmkd_lightning.figures import NothingToPlotError, plot_tsne
from tmkd_lightning.figures.drawing import COLORS
from tmkd_lightning.figures.tsne import balanced_indices

LABELS = [0, 2, 3, 2, 0, 3, 2, 2, 0, 3, 3, 0]


def test_points_are_scikit_learns() -> None:
    collected = make_outputs(LABELS)
    figure = plot_tsne(collected, seed=5, source="From run a.")
    assert [axis.get_title() for axis in figure.axes] == ["student", "teacher"]
    for axis, output in zip(figure.axes, collected.outputs.values(), strict=True):
        points = TSNE(perplexity=11 / 3, init="pca", random_state=5).fit_transform(output.embedding.numpy())
        for dots, label, colour in zip(axis.collections, [0, 2, 3], COLORS, strict=False):
            assert dots.get_offsets().data.tolist() == points[collected.labels == label].tolist()
            assert to_hex(dots.get_facecolor()[0]).upper() == colour
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["class_0", "class_2", "class_3"]
    caption = figure.get_supxlabel().replace("\n", " ")
    assert caption == "t-SNE of the embeddings of 12 images of 3 of 4 classes (seed of t-SNE 5). From run a."


def test_neighbours_stay_neighbours() -> None:
    collected = make_outputs([0] * 80, names=["student"])
    points = plot_tsne(collected).axes[0].collections[0].get_offsets().data
    assert trustworthiness(collected.outputs["student"].embedding, points, n_neighbors=5) > 0.9


def test_classes_and_images_are_chosen_evenly() -> None:
    """Of three classes the first two, of each the first two images."""
    assert balanced_indices(torch.tensor(LABELS), classes=2, images=5).tolist() == [0, 1, 3, 4]


def test_too_little_to_draw() -> None:
    with pytest.raises(NothingToPlotError, match="at least 4 images, there are 3"):
        plot_tsne(make_outputs([0, 1, 2]))
    collected = make_outputs(LABELS)
    collapsed = dataclasses.replace(collected.outputs["teacher"], embedding=torch.ones(12, 5))
    with pytest.raises(NothingToPlotError, match="teacher gives all images the same embedding"):
        plot_tsne(dataclasses.replace(collected, outputs={**collected.outputs, "teacher": collapsed}))


def test_many_long_names_are_told_apart_within_the_figure() -> None:
    names = [f"the long name of the class {label}" for label in range(30)]
    collected = make_outputs([index % 30 for index in range(60)], classes=30, names=["student"])
    figure = plot_tsne(dataclasses.replace(collected, class_names=names), source="From run a.")
    (legend,) = figure.legends
    assert len({text.get_text() for text in legend.get_texts()}) == 20
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert box.y0 > figure._supxlabel.get_window_extent().y1  # the caption
    assert box.x1 <= figure.bbox.width
    first, ninth = (figure.axes[0].collections[place] for place in (0, 8))
    assert first.get_facecolor().tolist() == ninth.get_facecolor().tolist()
    assert first.get_paths()[0].vertices.tolist() != ninth.get_paths()[0].vertices.tolist()
