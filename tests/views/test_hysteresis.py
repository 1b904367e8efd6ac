"""Edge tracking against a flood fill written out."""

from collections import deque

import numpy as np
import pytest
import torch
from torch import Tensor

from tmkd_lightning.views.hysteresis import hysteresis


def flood(weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Breadth-first search from the strong pixels over the 8 neighbours."""
    height, width = weak.shape
    found = weak & strong
    queue = deque(zip(*np.nonzero(found), strict=True))
    while queue:
        row, column = queue.popleft()
        for r in range(max(row - 1, 0), min(row + 2, height)):
            for c in range(max(column - 1, 0), min(column + 2, width)):
                if weak[r, c] and not found[r, c]:
                    found[r, c] = True
                    queue.append((r, c))
    return found


def spiral(side: int) -> Tensor:
    """Order of the pixels along a path one pixel wide from the corner to the middle, -1 beside it."""
    order = torch.full((side, side), -1)
    row, column, down, right = 0, 0, 0, 1

    def blocked(r: int, c: int, dr: int, dc: int) -> bool:
        """Whether the next pixel is outside, or the one behind it belongs to the path already."""
        if not (0 <= r + dr < side and 0 <= c + dc < side):
            return True
        r, c = r + 2 * dr, c + 2 * dc
        return 0 <= r < side and 0 <= c < side and order[r, c] >= 0

    step = 0
    while True:
        order[row, column] = step
        if blocked(row, column, down, right):
            down, right = right, -down
            if blocked(row, column, down, right):
                return order
        row, column, step = row + down, column + right, step + 1


@pytest.mark.parametrize("density", [0.2, 0.35, 0.5, 0.8])  # around 0.4 clusters reach through the whole image
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (23, 1), (17, 31), (32, 32), (3, 64), (5, 65), (4, 129)])
def test_random_maps(shape: tuple[int, int], density: float) -> None:
    weak = torch.rand(6, *shape) < density
    strong = torch.rand(6, *shape) < 0.02  # some are not even weak: they are no edge and start none
    before = weak.clone(), strong.clone()
    expected = [flood(one.numpy(), other.numpy()) for one, other in zip(weak, strong, strict=True)]
    assert hysteresis(weak, strong).equal(torch.from_numpy(np.stack(expected)))
    assert (weak.equal(before[0]), strong.equal(before[1])) == (True, True)


def test_spiral_through_the_whole_image() -> None:
    """A path of hundreds of steps: no fixed number of rounds reaches its end."""
    order = spiral(41)
    weak = order >= 0
    assert order.max() > 800
    assert hysteresis(weak, order == 0).equal(weak)
    assert hysteresis(weak, order == order.max()).equal(weak)


@pytest.mark.parametrize("gap", [1, 7, 8, 9, 16, 200])
def test_a_gap_ends_the_edge(gap: int) -> None:
    order = spiral(31)
    weak = (order >= 0) & (order != gap)
    assert hysteresis(weak, order == 0).equal((order >= 0) & (order < gap))


@pytest.mark.parametrize(("weak", "strong"), [(False, False), (True, False), (False, True), (True, True)])
def test_flat_maps(weak: bool, strong: bool) -> None:
    shape = (2, 9, 10)
    result = hysteresis(torch.full(shape, weak), torch.full(shape, strong))
    assert result.equal(torch.full(shape, weak and strong))  # a strong pixel that is not weak is no edge


def test_non_contiguous_maps() -> None:
    weak = (torch.rand(20, 30, 4) < 0.5).permute(2, 1, 0)[..., ::2]
    strong = weak & (torch.rand(20, 30, 4) < 0.05).permute(2, 1, 0)[..., ::2]
    assert hysteresis(weak, strong).equal(hysteresis(weak.contiguous(), strong.contiguous()))
