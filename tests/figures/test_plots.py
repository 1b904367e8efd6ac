"""Figures by name, on a page and in files; nothing leaks into matplotlib."""

import os
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers.figure_data import make_outputs
from tmkd_lightning import MultiView
from tmkd_lightning.figures import FIGURES, History, NothingToPlotError, join_figures, plot_all, plot_cam, save_figures
from tmkd_lightning.figures.drawing import finish, new_figure, to_image

TWO = MultiView(["rgb", "edge"])


def histories() -> dict[str, History]:
    return {"a": History(accuracy={0: 0.5})}


def blank(width: float, height: float, caption: str = "") -> Figure:
    figure = new_figure(width, height)
    figure.subplots().plot([1, 2])
    return finish(figure, caption)


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    """All figures of one run."""
    source = "From run a, checkpoint best.ckpt (step 3), seed 0"
    return plot_all(lambda: make_outputs([0, 1, 2, 3] * 2), TWO, histories, source=source, split="test")


def test_figures_have_captions_and_nothing_is_cut_off(figures) -> None:
    assert list(figures) == list(FIGURES)
    for name, figure in figures.items():
        caption = figure.get_supxlabel().replace("\n", " ")
        assert caption.endswith("(step 3), seed 0." if name == "curves" else "(step 3), seed 0; test images.")
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert min(box.x0, box.y0) >= -0.01, name
        assert max(box.x1 - width, box.y1 - height) <= 0.01, name


def test_a_page_holds_every_figure_as_it_is(figures) -> None:
    parts = list(figures.values())
    page = join_figures(parts)
    width, height = page.get_size_inches()
    for axis, part in zip(page.axes, parts, strict=True):
        x0, y0, x1, y1 = axis.get_position().extents * [width, height, width, height]
        assert (x1 - x0, y1 - y0) == pytest.approx(tuple(part.get_size_inches()))
        assert np.array_equal(axis.get_images()[0].get_array(), np.asarray(to_image(part, 300)))
        assert min(x0, y0) > -1e-6
        assert max(x1 - width, y1 - height) < 1e-6


def test_rows_of_a_page_are_filled_like_words_and_captions_wrapped_to_the_width() -> None:
    page = join_figures([blank(*size) for size in [(3.0, 1.0), (4.0, 2.0), (0.5, 1.0), (9.0, 1.0)]])
    assert page.get_size_inches().tolist() == [9, 3]
    corners = [(axis.get_position().x0 * 9, 3 - axis.get_position().y1 * 3) for axis in page.axes]
    assert np.allclose(corners, [(0, 0), (3, 0), (7, 0), (0, 2)])
    lines = blank(2.0, 2.0, "word " * 40).get_supxlabel().split("\n")
    assert max(map(len, lines)) <= 36
    assert " ".join(lines) == ("word " * 40).strip()


def test_nothing_leaks_into_matplotlib_which_is_missed_by_name(monkeypatch) -> None:
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    pyplot = sys.modules.get("matplotlib.pyplot")
    join_figures([plot_cam(make_outputs([0, 1]))])
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    assert sys.modules.get("matplotlib.pyplot") is pyplot
    assert pyplot is None or pyplot.get_fignums() == []
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="figures need matplotlib: pip install matplotlib"):
        plot_cam(make_outputs([0, 1]))


def test_all_files_or_none(tmp_path: Path, monkeypatch) -> None:
    figure = blank(3.0, 2.0)
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(OSError, match=r"new\.png cannot be written .*/file is a file.*choose another place"):
        save_figures({tmp_path / "old.png": figure, tmp_path / "file" / "folder" / "new.png": figure})
    with pytest.raises(ValueError, match=r"unknown format 'gif': choose from \['png', 'pdf'\]"):
        save_figures({tmp_path / "old.png": figure, tmp_path / "new.gif": figure})
    with pytest.raises(AttributeError):
        save_figures({tmp_path / "old.png": figure, tmp_path / "new.png": None})  # fails half way
    assert sorted(os.listdir(tmp_path)) == ["file", "old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"
    save_figures({tmp_path / "old.png": figure, tmp_path / "more" / "new.pdf": figure})
    with Image.open(tmp_path / "old.png") as image:
        assert image.size == (600, 400)
    assert (tmp_path / "more" / "new.pdf").read_bytes().startswith(b"%PDF-")


def test_figures_without_data_are_skipped_with_the_reason_or_an_error() -> None:
    """Outputs are collected once, and only if a figure needs them."""
    skipped, calls, one = [], [], MultiView(["rgb"])

    def collect():
        calls.append(1)
        return make_outputs([0, 1])

    plot_all(collect, TWO, histories, ["curves"])
    assert not calls
    figures = plot_all(collect, one, histories, ["curves", "views", "cam", "logits"], on_skip=skipped.append)
    assert list(figures) == ["curves", "cam", "logits"]
    assert skipped == ["no figure of views: the run has one view, 'rgb': there is nothing to compare it with"]
    assert len(calls) == 1
    with pytest.raises(NothingToPlotError, match="one view"):
        plot_all(collect, one, histories, ["curves", "views"])
