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
    cells = [torch.from_numpy(axis.get_images()[0].get_array().data).permute(2, 0, 1) for axis in figure.axes]
    image = collected.example_images
    views = torch.stack([image, edge_view(image), high_frequency_view(image)], dim=1)
    torch.testing.assert_close(torch.stack(cells), views.flatten(0, 1))
    assert [axis.get_title() for axis in figure.axes] == ["rgb", "edge", "high frequency", "", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["class_3", "", "", "class_1", "", ""]
    caption = "Images as the teacher gets them, a view in each column. From run a, seed 0."
    assert figure.get_supxlabel().replace("\n", " ") == caption
    with pytest.raises(NothingToPlotError, match="one view, 'rgb'"):
        plot_views(make_outputs([0, 1]), MultiView(["rgb"]))
