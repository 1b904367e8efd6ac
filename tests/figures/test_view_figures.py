"""The figure of views: every image in every view."""

import pytest
import torch

from helpers.figure_data import make_seen
from tmkd_lightning import MultiView
from tmkd_lightning.figures import NothingToShowError, figure_of, views_of
from tmkd_lightning.views import edge_view, high_frequency_view


def test_cells_are_the_views_of_the_images() -> None:
    seen = make_seen([3, 1])
    figure = figure_of(views_of(seen, MultiView()))
    cells = [axis.get_images()[0].get_array() for axis in figure.axes]
    assert len(cells) == 6
    for row in range(2):
        image = seen.example[row : row + 1]
        for column, view in enumerate((image, edge_view(image), high_frequency_view(image))):
            shown = torch.from_numpy(cells[3 * row + column].data).permute(2, 0, 1)
            torch.testing.assert_close(shown, view[0])


def test_columns_are_named_after_views_and_rows_after_classes() -> None:
    figure = figure_of(views_of(make_seen([3, 1]), MultiView(["edge", "high_frequency"])), "From run a, seed 0.")
    assert [axis.get_title() for axis in figure.axes] == ["edge", "high frequency", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["class_3", "", "class_1", ""]
    assert figure.get_supxlabel().replace("\n", " ") == (
        "Images as the teacher sees them, a view in each column. From run a, seed 0."
    )


def test_one_view_is_nothing_to_show() -> None:
    with pytest.raises(NothingToShowError, match="one view, 'rgb'"):
        views_of(make_seen([0, 1]), MultiView(["rgb"]))
