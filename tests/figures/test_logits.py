"""The figure of logits: class means, the hardest class, and the classes that compete with it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from helpers.figure_data import make_seen
from tmkd_lightning import Output
from tmkd_lightning.figures import Logits, NothingToShowError, figure_of, logits, page_of

LABEL = [0, 2, 3, 2, 0, 3, 2, 2, 0, 3, 3, 0]


def answers(rows: list[list[float]], label: list[int], names: tuple[str, ...] = ("student",)):
    seen = make_seen(label, classes=len(rows[0]), names=names, examples=1)
    outputs = {name: Output(torch.tensor(rows) * (index + 1)) for index, name in enumerate(names)}
    return dataclasses.replace(seen, outputs=outputs)


def test_means_are_those_of_a_slow_loop() -> None:
    seen = make_seen(LABEL)
    data = logits(seen)
    for network, output in enumerate(seen.outputs.values()):
        for true in range(4):
            for answer in range(4):
                values = [output.logits[row, answer].item() for row, label in enumerate(LABEL) if label == true]
                mean = data.means[network, true, answer].item()
                assert math.isnan(mean) if true == 1 else mean == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_the_hardest_class_has_the_lowest_recall_of_the_first_network() -> None:
    rows = [[2.0, 1, 0], [0, 2, 1], [0, 2, 1], [0, 1, 2], [9, 1, 2], [9, 1, 2]]  # answers 0, 1, 1, 2, 0, 0
    assert logits(answers(rows, [0, 1, 0, 2, 2, 2])).focus == 2  # recall 1/2, 1, 1/3
    assert logits(answers(rows, [0, 1, 1, 2, 1, 0])).focus == 1  # recall 1, 2/3, 1
    assert logits(answers(rows, [0, 0, 0, 1, 1, 1])).focus == 1  # 1/3, 0; class 2 has no images
    assert logits(answers(rows, [0, 1, 1, 2, 0, 0])).focus == 0  # all right: the first


def test_bars_are_the_highest_in_order() -> None:
    rows = [[float(-abs(answer - 7)) for answer in range(30)], [float(answer) for answer in range(30)]]
    data = logits(answers(rows, [4, 5]), focus=4)
    assert data.top.tolist()[:6] == [7, 6, 8, 5, 9, 4]  # of equals, the first
    assert len(data.top) == 20
    assert logits(answers(rows, [4, 5]), focus=5).top.tolist() == list(range(29, 9, -1))


def test_the_figure_shows_the_data() -> None:
    data = logits(make_seen(LABEL), focus=3, top=3)
    figure = figure_of(data, "From run a.")
    heat, bars = [axis for axis in figure.axes if axis.get_images()], next(axis for axis in figure.axes if axis.patches)
    assert [axis.get_title() for axis in heat] == ["student", "teacher"]
    limits = set()
    for axis, means in zip(heat, data.means, strict=True):
        (image,) = axis.get_images()
        assert image.get_array().filled(math.inf).tolist() == means.nan_to_num(nan=math.inf).tolist()
        limits.add(image.get_clim())
    assert limits == {(-data.means.nan_to_num().abs().max().item(), data.means.nan_to_num().abs().max().item())}
    heights = [[bar.get_height() for bar in group] for group in bars.containers]
    assert heights == data.means[:, 3, data.top].tolist()
    assert [text.get_text() for text in bars.get_xticklabels()] == [f"class_{label}" for label in data.top.tolist()]
    bold = [text.get_text() for text in bars.get_xticklabels() if text.get_fontweight() == "bold"]
    assert bold == (["class_3"] if 3 in data.top.tolist() else [])
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["student", "teacher"]


def test_the_caption_says_which_class_and_why() -> None:
    seen = make_seen(LABEL)
    hardest = logits(seen).focus
    assert f"class class_{hardest}, the hardest for student (bold)" in logits(seen).note
    other = next(label for label in (0, 2, 3) if label != hardest)
    assert f"class class_{other} (bold), for the 4 classes" in logits(seen, focus=other).note


def test_a_class_without_images_cannot_be_the_focus() -> None:
    with pytest.raises(ValueError, match="focus must be a class with images, got 1"):
        logits(make_seen(LABEL), focus=1)


BIRDS = [
    *("black footed albatross", "black footed tern", "black tern", "black throated blue warbler"),
    *("a name so long that nobody would read it to its end, one", "a name so long that nobody would read it, two"),
    *(
        "a name so long that is cut in its middle as well, the end",
        "a name so long that is cut in another middle, the end",
    ),
]


def shown(classes: int, networks: int, class_names: list[str]) -> Logits:
    means = torch.randn(networks, classes, classes) * 5
    names = [f"run {index}" for index in range(networks)]
    return Logits(names, means, 0, torch.arange(min(classes, 20)), class_names[:classes], hardest=True)


def test_names_are_whole_or_told_apart() -> None:
    figure = figure_of(shown(8, 1, BIRDS))
    heat, _, bars = figure.axes
    for ticks in (heat.get_xticklabels(), heat.get_yticklabels(), bars.get_xticklabels()):
        names = [tick.get_text() for tick in ticks]
        assert names[:3] == BIRDS[:3]
        assert len(set(names)) == 8
        assert max(map(len, names)) <= 24


@pytest.mark.parametrize("on_a_page", [False, True])
@pytest.mark.parametrize(("classes", "networks"), [(1, 4), (2, 1), (2, 2), (8, 3), (12, 3), (200, 4)])
def test_no_label_is_cut_off(classes: int, networks: int, on_a_page: bool) -> None:
    data = shown(classes, networks, BIRDS + [f"class {index}" for index in range(192)])
    figure = page_of([data], "From run a.") if on_a_page else figure_of(data, "From run a.")
    whole = FigureCanvasAgg(figure).get_renderer()
    labels = [text for axis in figure.axes for text in (axis.xaxis.label, axis.yaxis.label, axis.title)]
    names = [tick for axis in figure.axes for tick in axis.get_xticklabels() if not tick.get_text().startswith("class")]
    assert sum(text.get_text() == "mean logit" for text in labels) == 2
    for text in [*labels, *(names if classes <= 12 else [])]:
        box = text.get_window_extent(whole)
        if text.get_text():
            assert min(box.x0, box.y0) > -1, text
            assert box.x1 < figure.bbox.width + 1, text
            assert box.y1 < figure.bbox.height + 1, text


def test_thousands_of_classes_are_left_out_before_anything_is_computed() -> None:
    many = dataclasses.replace(make_seen([0], classes=1, names=("student",), examples=1), class_names=["a"] * 21_000)
    with pytest.raises(NothingToShowError, match="a map of 21000 by 21000 mean logits cannot be read"):
        logits(many)
