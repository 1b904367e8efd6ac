"""The Gaussian blur against Kornia's and against its definition."""

import math

import kornia
import pytest
import torch
from torch import Tensor

from tmkd_lightning.views.gaussian_blur import gaussian_blur


@pytest.mark.parametrize(("kernel_size", "sigma"), [(1, 1.0), (3, 0.5), (5, 1.0), (7, 2.5)])
@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (1, 1, 4, 31), (3, 2, 32, 32)])
def test_it_is_kornias(shape: tuple[int, ...], kernel_size: int, sigma: float) -> None:
    image = torch.rand(shape)
    before = image.clone()
    expected = kornia.filters.gaussian_blur2d(image, (kernel_size, kernel_size), (sigma, sigma))
    torch.testing.assert_close(gaussian_blur(image, kernel_size, sigma), expected, rtol=0, atol=1e-6)
    assert image.equal(before)


def by_definition(image: Tensor, row: int, column: int) -> float:
    """One pixel of a 5x5 blur with sigma 2: the neighbours weighed by their distance, mirrored at the border."""
    total = weights = 0.0
    for y in range(-2, 3):
        for x in range(-2, 3):
            weight = math.exp(-(x * x + y * y) / (2 * 2.0**2))
            r, c = (
                end - abs(end - abs(place)) for end, place in zip((5, 6), (row + y, column + x), strict=True)
            )  # the image's last row is 5, its last column 6
            total += weight * image[r, c].item()
            weights += weight
    return total / weights


def test_by_definition() -> None:
    image = torch.rand(6, 7, dtype=torch.float64)
    blurred = gaussian_blur(image[None, None], kernel_size=5, sigma=2.0)[0, 0]
    expected = [[by_definition(image, row, column) for column in range(7)] for row in range(6)]
    torch.testing.assert_close(blurred, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_layout_and_type_do_not_matter() -> None:
    image = torch.randint(256, (2, 3, 8, 9), dtype=torch.uint8)
    plain = gaussian_blur(image.float() / 255)
    assert gaussian_blur(image).equal(plain)
    assert gaussian_blur(image.to(memory_format=torch.channels_last)).equal(plain)
    assert gaussian_blur(image.transpose(2, 3)).equal(gaussian_blur((image.float() / 255).transpose(2, 3).contiguous()))
    for dtype in (torch.float16, torch.bfloat16):  # blurred in full
        half = (image.float() / 255).to(dtype)
        assert gaussian_blur(half).equal(gaussian_blur(half.float()).to(dtype))


def test_the_default_type_does_not_matter() -> None:
    """Lightning sets it to half precision around a step in bf16-true; the numbers of the kernel must not follow."""
    image = torch.rand(1, 3, 8, 8)
    expected = gaussian_blur(image)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert gaussian_blur(image).equal(expected)
    finally:
        torch.set_default_dtype(torch.float32)
