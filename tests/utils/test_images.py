"""What counts as an image, and what a batch is refused for."""

import pytest
import torch

from tmkd_lightning.utils.images import IMAGENET_MEAN, IMAGENET_STD, check_images, denormalize, to_unit_float

MEAN, STD = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


def test_values_of_images_in_the_unit_range() -> None:
    scaled = to_unit_float(torch.arange(256, dtype=torch.uint8))
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.double(), torch.arange(256, dtype=torch.float64) / 255, rtol=1e-7, atol=0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        image = torch.rand(2, 3, 4, 4).to(dtype)
        assert to_unit_float(image) is image


def test_denormalize_undoes_normalisation() -> None:
    """And removes what rounding left."""
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(denormalize((image - MEAN) / STD, MEAN, STD), image)
    black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    result = denormalize(((black_and_white - MEAN) / STD).bfloat16().float(), MEAN, STD)
    assert result.min() >= 0
    assert result.max() <= 1
    torch.testing.assert_close(result, black_and_white, rtol=0, atol=0.01)


def test_wrong_shapes_and_types() -> None:
    for shape in ((3, 8, 8), (2, 1, 8, 8), (2, 4, 8, 8), (2, 8, 8, 3), (2, 3, 8)):
        with pytest.raises(ValueError, match=r"images must be \(batch, 3, height, width\), got "):
            check_images(torch.zeros(shape))
    for dtype in (torch.int64, torch.int16, torch.bool):
        with pytest.raises(TypeError, match=f"images must be uint8 or floating, got {dtype}"):
            check_images(torch.zeros(2, 3, 4, 4, dtype=dtype))
    for dtype in (torch.uint8, torch.float32):
        with pytest.raises(ValueError, match=r"a batch holds no image, its shape is \(0, 3, 8, 8\)"):
            check_images(torch.zeros(0, 3, 8, 8, dtype=dtype))


def test_values_outside_the_range() -> None:
    for image, span in (
        ((torch.full((1, 3, 4, 4), 0.0) - MEAN) / STD, r"\[-2.12, -1.8\]"),
        (torch.full((1, 3, 4, 4), 255.0), r"\[255, 255\]"),
        (torch.tensor([0.0, 1.05, 0.5]).view(1, 3, 1, 1), r"\[0, 1.05\]"),
        (torch.tensor([0.0, -0.05, 0.5]).view(1, 3, 1, 1), r"\[-0.05, 0.5\]"),
        (torch.tensor([0.0, float("inf"), 0.5]).view(1, 3, 1, 1), r"\[0, inf\]"),
        (torch.tensor([-float("inf"), 0.0, float("inf")]).view(1, 3, 1, 1), r"\[-inf, inf\]"),  # these are numbers
    ):
        with pytest.raises(ValueError, match=f"this batch spans {span}"):
            check_images(image)
    image = torch.zeros(4, 3, 2, 2)
    image[2, 1, 0, 1] = float("nan")
    with pytest.raises(ValueError, match="image 2 of a batch of 4 holds values that are not a number"):
        check_images(image)


def test_normalised_images_are_judged_as_they_were() -> None:
    image = torch.rand(2, 3, 4, 4)
    check_images((image - MEAN) / STD, (MEAN, STD))
    with pytest.raises(ValueError, match="after undoing normalized_with"):
        check_images((image - MEAN) / STD + 3, (MEAN, STD))
    with pytest.raises(TypeError, match="normalized_with is set, but the images are uint8"):
        check_images((image * 255).to(torch.uint8), (MEAN, STD))
    overshoot = torch.tensor([-0.01, 1.01, 0.5]).view(1, 3, 1, 1)  # as bicubic resizing leaves it
    for good in (torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8), image, image.half(), overshoot):
        check_images(good)
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
