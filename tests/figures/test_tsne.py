"""The figure of embeddings: which images, where t-SNE puts them, and how they are marked."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from sklearn.manifold import TSNE, trustworthiness

from helpers.figure_data import make_seen
from tmkd_lightning.figures import Embedding, NothingToShowError, embedding, figure_of
from tmkd_lightning.figures.drawing import COLOURS

LABEL = [0, 2, 3, 2, 0, 3, 2, 2, 0, 3, 3, 0]


def test_points_are_scikit_learns() -> None:
    seen = make_seen(LABEL)
    data = embedding(seen, seed=5)
    for name, points in zip(data.names, data.points, strict=True):
        tsne = TSNE(perplexity=11 / 3, init="pca", random_state=5)
        assert points.tolist() == tsne.fit_transform(seen.outputs[name].embedding.numpy()).tolist()
    assert data.label.tolist() == LABEL
    assert embedding(seen, seed=5).points.equal(data.points)


def test_neighbours_stay_neighbours() -> None:
    seen = make_seen([index % 4 for index in range(80)])
    data = embedding(seen)
    assert trustworthiness(seen.outputs["student"].embedding, data.points[0], n_neighbors=5) > 0.9


def test_classes_and_images_are_chosen_evenly() -> None:
    """Of three classes the first two, of each the first two images."""
    seen = make_seen(LABEL)
    data = embedding(seen, classes=2, images=5)
    assert data.label.tolist() == [0, 2, 2, 0]
    same = dataclasses.replace(
        seen,
        label=torch.tensor([0, 2, 2, 0]),
        outputs={name: output.map(lambda part: part[[0, 1, 3, 4]]) for name, output in seen.outputs.items()},
    )
    assert embedding(same).points.equal(data.points)
    assert "4 images of 2 of 4 classes" in data.note


def test_the_figure_shows_the_data() -> None:
    data = embedding(make_seen(LABEL), seed=1)
    figure = figure_of(data, "From run a.")
    assert [axis.get_title() for axis in figure.axes] == ["student", "teacher"]
    for axis, points in zip(figure.axes, data.points, strict=True):
        for dots, label, colour in zip(axis.collections, [0, 2, 3], COLOURS, strict=False):
            assert dots.get_offsets().data.tolist() == points[data.label == label].tolist()
            assert to_hex(dots.get_facecolor()[0]).upper() == colour
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["class_0", "class_2", "class_3"]
    caption = figure.get_supxlabel().replace("\n", " ")
    assert caption == "t-SNE of the embeddings of 12 images of 3 of 4 classes (seed of t-SNE 1). From run a."


def test_more_classes_than_colours_have_other_marks() -> None:
    data = embedding(make_seen([index % 10 for index in range(40)], classes=10))
    first, ninth = (figure_of(data).axes[0].collections[place] for place in (0, 8))
    assert first.get_facecolor().tolist() == ninth.get_facecolor().tolist()
    assert first.get_paths()[0].vertices.tolist() != ninth.get_paths()[0].vertices.tolist()


def test_too_little_to_show() -> None:
    with pytest.raises(NothingToShowError, match="at least 4 images, there are 3"):
        embedding(make_seen([0, 1, 2]))
    seen = make_seen(LABEL)
    collapsed = dataclasses.replace(seen.outputs["teacher"], embedding=torch.ones(12, 5))
    with pytest.raises(NothingToShowError, match="teacher gives all images the same embedding"):
        embedding(dataclasses.replace(seen, outputs={**seen.outputs, "teacher": collapsed}))
    with pytest.raises(ValueError, match="classes must be 1 to 40, got 41"):
        embedding(seen, classes=41)


def test_a_long_legend_lies_within_the_figure_and_tells_all_classes_apart() -> None:
    names = [f"the long name of the class {label}" for label in range(40)]
    data = Embedding(["student"], torch.randn(1, 80, 2), torch.arange(80) % 40, names, seed=0)
    figure = figure_of(data, "From run a.")
    (legend,) = figure.legends
    assert len({text.get_text() for text in legend.get_texts()}) == 40
    box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert box.y0 > figure._supxlabel.get_window_extent().y1  # the caption
    assert box.x1 <= figure.bbox.width
