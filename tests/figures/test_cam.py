"""The figure of class activation maps: of the right class, enlarged rightly, over the right image."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from helpers.figure_data import make_seen
from tmkd_lightning.figures import Attention, NothingToShowError, activation, attention, figure_of


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


def test_maps_are_those_of_a_slow_loop() -> None:
    seen = make_seen([3, 1])
    data = attention(seen)
    assert data.names == ["student", "teacher"]
    for column, output in enumerate(seen.example_outputs.values()):
        for row, label in enumerate([3, 1]):
            cam = sum(output.head_weight[label, d] * output.feature_map[row, d] for d in range(5))
            stretched = (cam - cam.min()) / (cam.max() - cam.min())
            expected = torch.tensor(enlarged(stretched.tolist(), 6, 10))
            torch.testing.assert_close(data.maps[column, row], expected, atol=1e-5, rtol=0)


def test_predictions_are_named() -> None:
    seen = make_seen([3, 1])
    data = attention(seen)
    logits = seen.example_outputs["teacher"].logits
    assert data.predicted[1].tolist() == logits.argmax(1).tolist()
    torch.testing.assert_close(data.probability[1], logits.softmax(1).max(1).values)


def test_the_figure_shows_the_data() -> None:
    seen = make_seen([3, 1])
    data = dataclasses.replace(
        attention(seen), predicted=torch.tensor([[3, 0], [2, 1]]), probability=torch.tensor([[0.5, 0.25], [1.0, 0.756]])
    )
    figure = figure_of(data)
    rows = [figure.axes[:3], figure.axes[3:]]
    assert [axis.get_title() for axis in rows[0]] == ["image", "student", "teacher"]
    for row, axes in enumerate(rows):
        (image,) = axes[0].get_images()
        torch.testing.assert_close(torch.from_numpy(image.get_array().data).permute(2, 0, 1), seen.example[row])
        for column in range(2):
            under, over = axes[1 + column].get_images()
            assert over.get_array().tolist() == data.maps[column, row].tolist()
            assert over.get_clim() == (0, 1)
            grey = seen.example[row].mean(0)
            torch.testing.assert_close(torch.from_numpy(under.get_array().data)[..., 0].contiguous(), grey)
    assert [axis.get_xlabel() for axes in rows for axis in axes] == [
        *("", "✓ class_3 50%", "✗ class_2 100%"),
        *("", "✗ class_0 25%", "✓ class_1 76%"),
    ]
    assert [axis.get_ylabel() for axes in rows for axis in axes] == ["class_3", "", "", "class_1", "", ""]


@pytest.mark.parametrize(
    "flat", [torch.full((1, 1, 1, 1), 7.3), torch.full((1, 1, 3, 3), -2.0), torch.zeros(1, 1, 2, 2)]
)
def test_a_flat_map_is_in_the_middle(flat: Tensor) -> None:
    """Rounding must not be stretched into a pattern, and the lowest value would be a claim too."""
    noise = 1e-7 * torch.arange(flat[0, 0].numel()).view(flat.shape) * flat
    shown = activation(flat + noise, torch.tensor([0]), size=(32, 32))
    torch.testing.assert_close(shown, torch.full((1, 32, 32), 0.5))


def test_the_figure_says_which_maps_show_no_place() -> None:
    cam = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 1], [0, 0, math.nan, 1], [0, 0, 0, 0]]).view(4, 1, 2, 2)
    maps = activation(cam, torch.zeros(4, dtype=torch.long), size=(7, 5))
    data = Attention(
        image=torch.rand(4, 3, 7, 5),
        label=torch.zeros(4, dtype=torch.long),
        names=["student"],
        maps=maps[None],
        predicted=torch.zeros(1, 4, dtype=torch.long),
        probability=torch.ones(1, 4),
        class_names=["cat"],
    )
    remarks = [[text.get_text() for text in axis.texts] for axis in figure_of(data).axes]
    assert remarks[1::2] == [["uniform"], [], ["not finite"], ["uniform"]]
    assert data.note.endswith("A map that is the same everywhere says uniform.")
    assert "uniform" not in dataclasses.replace(data, maps=maps[None, 1:2].expand(1, 4, -1, -1)).note


def test_a_network_without_a_map_is_named() -> None:
    seen = make_seen([0, 1])
    seen.example_outputs["teacher"] = dataclasses.replace(seen.example_outputs["teacher"], feature_map=None)
    with pytest.raises(NothingToShowError, match=r"^teacher cannot show attention: .* global average pooling"):
        attention(seen)
