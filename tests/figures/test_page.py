"""Figures as pages and files: captions, formats, and nothing that leaks into matplotlib."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image

from helpers.figure_data import make_seen
from tmkd_lightning import MultiView
from tmkd_lightning.figures import (
    FIGURES,
    History,
    Material,
    NothingToShowError,
    attention,
    check_names,
    drawings,
    figure_of,
    page_of,
    render,
    views_of,
    write,
)
from tmkd_lightning.figures.page import rows


@dataclass(frozen=True)
class Blank:
    """A figure of somebody else's."""

    size: tuple[float, float]
    note: str = "A line."

    def draw(self, figure) -> None:
        figure.subplots().plot([1, 2])


def material(**options) -> Material:
    options = {"views": MultiView(["rgb", "edge"]), "histories": lambda: {"a": History(accuracy={0: 0.5})}, **options}
    return Material(lambda: make_seen([0, 1, 2, 3, 0, 1, 2, 3]), **options)


def test_a_page_holds_every_figure_with_its_letter_and_caption() -> None:
    parts = list(drawings(material(), FIGURES, left_out=pytest.fail).values())
    page = page_of(parts, "From run a.")
    places = [place for band in page.subfigs for place in band.subfigs]
    assert [place.get_suptitle() for place in places] == [f"({letter})" for letter in "abcde"]
    assert [place.get_supxlabel().replace("\n", " ") for place in places] == [part.note for part in parts]
    assert page.get_supxlabel() == "From run a."
    assert [len(place.get_axes()) for place in places] == [len(figure_of(part).axes) for part in parts]


def test_lines_of_a_page_are_filled_like_words() -> None:
    parts = [Blank((width, 1.0)) for width in (3.0, 4.0, 0.5, 9.0, 7.0, 0.2)]
    assert [[part.size[0] for part in line] for line in rows(parts)] == [[3.0, 4.0], [0.5], [9.0], [7.0, 0.2]]


def test_an_empty_page_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one figure"):
        page_of([])


def test_nothing_leaks_into_matplotlib() -> None:
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    pyplot = "matplotlib.pyplot" in sys.modules
    render(figure_of(attention(make_seen([0, 1]))), "pdf")
    page_of([Blank((3.0, 2.0))])
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
    if pyplot:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_files_have_the_size_and_the_same_bits_every_time() -> None:
    figure = figure_of(Blank((3.0, 2.0)))
    png = render(figure, "png", dpi=100)
    assert Image.open(io.BytesIO(png)).size == (300, 200)
    assert render(figure_of(Blank((3.0, 2.0))), "png", dpi=100) == png
    pdf = render(figure, "pdf")
    assert pdf.startswith(b"%PDF-")
    assert render(figure_of(Blank((3.0, 2.0))), "pdf") == pdf


def test_a_second_file_of_a_figure_is_like_the_first() -> None:
    """The layout is not done anew for each."""
    figure = figure_of(views_of(make_seen([0, 1]), MultiView()))
    first = render(figure, "png")
    assert render(figure, "png") == first


def test_captions_are_wrapped_to_the_width() -> None:
    figure = figure_of(Blank((2.0, 2.0), note="word " * 40))
    lines = figure.get_supxlabel().split("\n")
    assert max(map(len, lines)) <= 36
    assert " ".join(lines) == ("word " * 40).strip()


def test_letters_are_inside_the_figure() -> None:
    """Captions, titles and names of classes must not be cut off."""
    for drawing in drawings(material(), FIGURES, left_out=pytest.fail).values():
        figure = figure_of(drawing, "From run a, checkpoint best.ckpt (step 3), seed 0; validation images.")
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert min(box.x0, box.y0) >= -0.01, drawing
        assert max(box.x1 - width, box.y1 - height) <= 0.01, drawing


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown format 'gif': choose from \['png', 'pdf'\]"):
        render(figure_of(Blank((1.0, 1.0))), "gif")


def test_all_files_or_none(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(OSError, match=r"new\.png cannot be written .*/file is a file.*choose another place"):
        write({tmp_path / "old.png": b"new", tmp_path / "file" / "folder" / "new.png": b"new"})
    assert (tmp_path / "old.png").read_bytes() == b"old"
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"taken\.png is a folder"):
        write({tmp_path / "old.png": b"new", tmp_path / "taken.png": b"new"})
    assert (tmp_path / "old.png").read_bytes() == b"old"
    write({tmp_path / "old.png": b"new", tmp_path / "more" / "new.png": b"new"})
    assert (tmp_path / "old.png").read_bytes() == (tmp_path / "more" / "new.png").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "more")) == ["new.png"]


def test_a_file_that_fails_half_way_takes_none(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"old")

    class Full:
        """Content that no file takes."""

    with pytest.raises(TypeError):
        write({tmp_path / "old.png": b"new", tmp_path / "second.png": Full()})
    assert os.listdir(tmp_path) == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_matplotlib_is_missed_by_name(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="figures need matplotlib: pip install matplotlib"):
        figure_of(Blank((1.0, 1.0)))


def test_figures_are_chosen_by_name() -> None:
    assert list(drawings(material(), ["logits", "views"], left_out=pytest.fail)) == ["logits", "views"]
    assert list(drawings(material(), FIGURES, left_out=pytest.fail)) == list(FIGURES)
    with pytest.raises(ValueError, match=r"unknown figure 'roc': choose from \['views', 'attention'"):
        check_names(["views", "roc"])
    with pytest.raises(ValueError, match="no figure is named"):
        check_names([])


def test_what_a_run_has_nothing_for_is_left_out_and_said_or_an_error() -> None:
    left_out: list[str] = []
    made = drawings(material(views=MultiView(["rgb"])), FIGURES, left_out.append)
    assert list(made) == ["attention", "embedding", "logits", "curves"]
    assert left_out == ["no figure of views: the run has one view, 'rgb': there is nothing to set beside it"]
    with pytest.raises(NothingToShowError, match="one view"):
        drawings(material(views=MultiView(["rgb"])), ["curves", "views"])


def test_images_are_looked_at_once_and_only_if_a_figure_needs_them() -> None:
    looks = []
    look_once = Material(lambda: looks.append(1) or make_seen([0, 1] * 4), MultiView(), lambda: {"a": History()})
    with pytest.raises(NothingToShowError):
        look_once.drawing("curves")
    assert not looks
    look_once.drawing("attention"), look_once.drawing("logits")
    assert len(looks) == 1


def test_a_views_figure_takes_part_of_a_page(tmp_path) -> None:
    page = page_of([views_of(make_seen([0, 1]), MultiView(["rgb", "edge"])), Blank((3.0, 2.0))])
    place = page.subfigs[0].subfigs[0]
    shown = torch.from_numpy(place.get_axes()[0].get_images()[0].get_array().data)
    torch.testing.assert_close(shown.permute(2, 0, 1), make_seen([0, 1]).example[0])
