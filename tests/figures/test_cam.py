"""The figure of class activation maps: of the right class, enlarged rightly, over the right image."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from helpers.figure_data import make_outputs
from tmkd_lightning.figures import NothingToPlotError, class_activation, plot_cam


def enlarged(small: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear, with the centres of pixels in the middle and the edges held: written out."""

    def at(position: float, length: int, scale: float) -> tuple[int, int, float]:
        place = max((position + 0.5) * scale - 0.5, 0.0)
        low = min(math.floor(place), length - 1)
        return low, min(low + 1, length - 1), place - low

    result = []
    for y in range(height):
        top, bottom, down = at(y, len(small), len(small) / height)
        row = []
        for x in range(width):
            left, right, along = at(x, len(small[0]), len(small[0]) / width)
            upper = small[top][left] * (1 - along) + small[top][right] * along
            lower = small[bottom][left] * (1 - along) + small[bottom][right] * along
            row.append(upper * (1 - down) + lower * down)
        result.append(row)
    return result


def test_maps_are_those_of_a_slow_loop_over_the_images() -> None:
    collected = make_outputs([3, 1])
    axes = plot_cam(collected).axes
    assert [axis.get_title() for axis in axes[:3]] == ["image", "student", "teacher"]
    assert [axis.get_ylabel() for axis in axes] == ["class_3", "", "", "class_1", "", ""]
    for row, label in enumerate([3, 1]):
        (image,) = axes[3 * row].get_images()
        torch.testing.assert_close(
            torch.from_numpy(image.get_array().data).permute(2, 0, 1), collected.example_images[row]
        )
        for column, output in enumerate(collected.example_outputs.values(), start=1):
            under, over = axes[3 * row + column].get_images()
            cam = sum(output.head_weight[label, d] * output.feature_map[row, d] for d in range(5))
            scaled = (cam - cam.min()) / (cam.max() - cam.min())
            expected = torch.tensor(enlarged(scaled.tolist(), 6, 10))
            torch.testing.assert_close(torch.from_numpy(over.get_array().data), expected, atol=1e-5, rtol=0)
            assert over.get_clim() == (0, 1)
            grey = collected.example_images[row].mean(0)
            torch.testing.assert_close(torch.from_numpy(under.get_array().data)[..., 0].contiguous(), grey)


def test_predictions_are_named_and_marked() -> None:
    collected = make_outputs([3, 1], names=["student"])
    logits = torch.tensor([[0.0, 0, 0, 5], [0, 0, 2, 0]])
    collected.example_outputs["student"] = dataclasses.replace(collected.example_outputs["student"], logits=logits)
    axes = plot_cam(collected).axes
    assert [axis.get_xlabel() for axis in axes] == ["", "✓ class_3 98%", "", "✗ class_2 71%"]
    assert len({axis.xaxis.label.get_color() for axis in axes[1::2]}) == 2


@pytest.mark.parametrize(
    "flat", [torch.full((1, 1, 1, 1), 7.3), torch.full((1, 1, 3, 3), -2.0), torch.zeros(1, 1, 2, 2)]
)
def test_a_uniform_map_is_in_the_middle(flat: Tensor) -> None:
    """Rounding must not be stretched into a pattern, and the lowest value would be a claim too."""
    noise = 1e-7 * torch.arange(flat[0, 0].numel()).view(flat.shape) * flat
    scaled = class_activation(flat + noise, torch.tensor([0]), size=(32, 32))
    torch.testing.assert_close(scaled, torch.full((1, 32, 32), 0.5))


def test_a_uniform_map_is_called_so_and_a_network_without_a_map_is_named() -> None:
    collected = make_outputs([3, 1], names=["teacher"])
    output = collected.example_outputs["teacher"]
    output.feature_map[0] = 1.0
    answers = [axis.get_xlabel().replace("\n", " ") for axis in plot_cam(collected).axes]
    assert [answer.endswith("(uniform map)") for answer in answers] == [False, True, False, False]
    collected.example_outputs["teacher"] = dataclasses.replace(output, feature_map=None)
    with pytest.raises(NothingToPlotError, match=r"^teacher has no class activation maps: .* global average pooling"):
        plot_cam(collected)
