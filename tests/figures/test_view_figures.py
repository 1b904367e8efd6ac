"""The figure of views: every image in every view."""

import pytest
import torch

from helpers.figure_data import make_outputs
from tmkd_lightning import MultiView
from tmkd_lightning.figures import NothingToPlotError, plot_views
from tmkd_lightning.views import edge_view, high_frequency_view


def test_cells_are_the_views_of_the_images() -> None:
    collected = make_outputs([3, 1])
    figure = plot_views(collected, MultiView(), "From run a, seed 0.")
    cells = [axis.get_images()[0].get_array() for axis in figure.axes]
    assert len(cells) == 6
    for row in range(2):
        image = collected.example_images[row : row + 1]
        for column, view in enumerate((image, edge_view(image), high_frequency_view(image))):
            drawn = torch.from_numpy(cells[3 * row + column].data).permute(2, 0, 1)
            torch.testing.assert_close(drawn, view[0])
    assert [axis.get_title() for axis in figure.axes] == ["rgb", "edge", "high frequency", "", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["class_3", "", "", "class_1", "", ""]
    assert figure.get_supxlabel().replace("\n", " ") == (
        "Images as the teacher gets them, a view in each column. From run a, seed 0."
    )


def test_one_view_is_nothing_to_compare() -> None:
    with pytest.raises(NothingToPlotError, match="one view, 'rgb'"):
        plot_views(make_outputs([0, 1]), MultiView(["rgb"]))
