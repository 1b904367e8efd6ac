"""The figure of logits: class means, the hardest class, and the classes that compete with it."""

import dataclasses
import math

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from helpers.figure_data import make_outputs
from tmkd_lightning import Output
from tmkd_lightning.figures import NothingToPlotError, class_means, plot_logits
from tmkd_lightning.figures.logits import hardest_class

LABELS = [0, 2, 3, 2, 0, 3, 2, 2, 0, 3, 3, 0]


def test_means_are_those_of_a_slow_loop() -> None:
    logits = torch.randn(12, 4)
    means = class_means(logits, torch.tensor(LABELS))
    for true in range(4):
        for answer in range(4):
            values = [logits[row, answer].item() for row, label in enumerate(LABELS) if label == true]
            mean = means[true, answer].item()
            assert math.isnan(mean) if true == 1 else mean == pytest.approx(sum(values) / len(values), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "hardest"),
    [
        ([0, 1, 0, 2, 2, 2], 2),  # recall 1/2, 1, 1/3
        ([0, 1, 1, 2, 1, 0], 1),  # 1, 2/3, 1
        ([0, 0, 0, 1, 1, 1], 1),  # 1/3, 0; class 2 has no images
        ([0, 1, 1, 2, 0, 0], 0),  # all right: the first
    ],
)
def test_the_hardest_class_has_the_lowest_recall(labels: list[int], hardest: int) -> None:
    logits = torch.eye(3)[[0, 1, 1, 2, 0, 0]]
    assert hardest_class(logits, torch.tensor(labels)) == hardest


def test_bars_are_the_highest_in_order() -> None:
    logits = torch.tensor([[float(-abs(answer - 7)) for answer in range(30)]])
    collected = make_outputs([4], classes=30, names=("student",), examples=1)
    collected = dataclasses.replace(collected, outputs={"student": Output(logits)})
    labels = [text.get_text() for text in plot_logits(collected).axes[-1].get_xticklabels()]
    assert labels[:6] == [f"class_{label}" for label in (7, 6, 8, 5, 9, 4)]  # of equals, the first
    assert len(labels) == 20


def test_the_figure_shows_the_data() -> None:
    collected = make_outputs(LABELS)
    means = [class_means(output.logits, collected.labels) for output in collected.outputs.values()]
    hardest = hardest_class(collected.outputs["student"].logits, collected.labels)
    top = means[0][hardest].argsort(descending=True)
    figure = plot_logits(collected, "From run a.")
    heat, bars = [axis for axis in figure.axes if axis.get_images()], next(axis for axis in figure.axes if axis.patches)
    assert [axis.get_title() for axis in heat] == ["student", "teacher"]
    limit = max(mean.nan_to_num().abs().max().item() for mean in means)
    for axis, mean in zip(heat, means, strict=True):
        (image,) = axis.get_images()
        assert image.get_array().filled(math.inf).tolist() == mean.nan_to_num(nan=math.inf).tolist()
        assert image.get_clim() == (-limit, limit)
    heights = [[bar.get_height() for bar in group] for group in bars.containers]
    assert heights == [mean[hardest, top].tolist() for mean in means]
    assert [text.get_text() for text in bars.get_xticklabels()] == [f"class_{label}" for label in top.tolist()]
    bold = [text.get_text() for text in bars.get_xticklabels() if text.get_fontweight() == "bold"]
    assert bold == [f"class_{hardest}"]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["student", "teacher"]
    caption = figure.get_supxlabel().replace("\n", " ")
    assert f"class class_{hardest}, the hardest for student (bold), for the 4 classes" in caption
    assert caption.endswith("From run a.")


BIRDS = [
    *("black footed albatross", "black footed tern", "black tern", "black throated blue warbler"),
    *("a name so long that nobody would read it to its end, one", "a name so long that nobody would read it, two"),
    *("a name so long that it is cut in its middle, the end", "a name so long that it is cut anywhere, the end"),
]


@pytest.mark.parametrize(("classes", "networks"), [(1, 4), (2, 2), (8, 3), (12, 3), (200, 4)])
def test_no_label_is_cut_off_and_names_are_told_apart(classes: int, networks: int) -> None:
    class_names = [*BIRDS, *(f"class {index}" for index in range(192))][:classes]
    collected = make_outputs(range(classes), classes, [f"run {index}" for index in range(networks)])
    figure = plot_logits(dataclasses.replace(collected, class_names=class_names), "From run a.")
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [text for axis in figure.axes for text in (axis.xaxis.label, axis.yaxis.label, axis.title)]
    assert sum(text.get_text() == "mean logit" for text in labels) == 2
    for axis in (figure.axes[0], figure.axes[-1]) if classes <= 12 else ():
        names = axis.get_xticklabels()
        assert len({tick.get_text() for tick in names}) == classes
        assert max(len(tick.get_text()) for tick in names) <= 24
        labels += names
    for text in (text for text in labels if text.get_text()):
        box = text.get_window_extent(renderer)
        assert min(box.x0, box.y0) > -1, text
        assert box.x1 < figure.bbox.width + 1, text
        assert box.y1 < figure.bbox.height + 1, text


def test_thousands_of_classes_are_left_out_before_anything_is_computed() -> None:
    many = dataclasses.replace(make_outputs([0], classes=1, examples=1), class_names=["a"] * 21_000)
    with pytest.raises(NothingToPlotError, match="a map of 21000 by 21000 mean logits cannot be read"):
        plot_logits(many)
