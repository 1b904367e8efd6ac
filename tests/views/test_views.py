"""The views of Eq. 1 and 2 against numpy and Kornia, and looking in several ways at once."""

from functools import partial

import kornia
import numpy as np
import pytest
import torch
from torch import Tensor

from tmkd_lightning.views import MultiView, View, canny, edge, edge_view, high_frequency, high_frequency_view
from tmkd_lightning.views.hysteresis import hysteresis

LOW, HIGH = 100 / 255, 200 / 255


def photo(batch: int = 2, height: int = 37, width: int = 50, seed: int = 0) -> Tensor:
    """Smooth blobs with some noise: long edges of every strength."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth + 0.05 * torch.rand(smooth.shape, generator=generator)).clamp(0, 1)


def step(low: float, high: float) -> Tensor:
    """An image dark in columns 0..3, bright in 4..7."""
    image = torch.full((1, 1, 6, 8), low)
    image[..., 4:] = high
    return image


# Canny


@pytest.mark.parametrize("thresholds", [(LOW, HIGH), (0.3, 1.0), (0.3, 0.3)])
@pytest.mark.parametrize("size", [(37, 50), (32, 32), (3, 3), (1, 9)])
def test_canny_is_kornias_on_each_channel(size: tuple[int, int], thresholds: tuple[float, float]) -> None:
    image = photo(2, *size)
    expected = [kornia.filters.canny(one, *thresholds, kernel_size=1)[1] for one in image.split(1, dim=1)]
    assert canny(image, *thresholds).equal(torch.cat(expected, 1))


def test_canny_is_opencvs_on_8_bits() -> None:
    cv2 = pytest.importorskip("cv2")
    bits = (photo(2, 96, 130) * 255).round().to(torch.uint8)
    expected = [cv2.Canny(one.numpy(), 100, 200, L2gradient=True) for one in bits.flatten(0, 1)]
    assert (canny(bits).flatten(0, 1).bool() == torch.from_numpy(np.stack(expected)).bool()).float().mean() >= 0.999


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_canny_on_a_gpu() -> None:
    """Gradients may round otherwise there; edges are tracked on bits, and come out the same."""
    image = photo(4, 96, 130)
    assert (canny(image.cuda()).cpu() == canny(image)).float().mean() >= 0.9999
    weak = torch.rand(4, 96, 130) < 0.4
    strong = weak & (torch.rand(4, 96, 130) < 0.02)
    assert hysteresis(weak.cuda(), strong.cuda()).cpu().equal(hysteresis(weak, strong))


def test_canny_of_views_into_larger_tensors() -> None:
    image = photo(2, 60, 140)
    part = image[:, :, 3:50:2, 5:130:3]
    assert not part.is_contiguous()
    assert canny(part).equal(canny(part.contiguous()))
    assert canny(image.to(memory_format=torch.channels_last)).equal(canny(image))


def test_images_with_a_gradient() -> None:
    """Edges have none; that of the edge view is the image's, where nothing is clipped."""
    image = (0.4 * photo()).requires_grad_()
    assert canny(image).equal(canny(image.detach()))
    assert not canny(image).requires_grad
    edge_view(image).sum().backward()
    assert image.grad.eq(1).all()


def test_a_bounded_number_of_rounds_only_misses() -> None:
    image = photo(2, 64, 100)
    edges, bounded = canny(image).bool(), canny(image, rounds=1).bool()
    assert not (bounded & ~edges).any()
    assert (edges & ~bounded).any()
    assert canny(image, rounds=400).bool().equal(edges)
    expected = (image + 0.5 * canny(image, rounds=1)).clamp(0, 1)
    assert edge_view(image, rounds=1).equal(expected)
    assert edge(rounds=1)(image).equal(expected)
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        canny(image, rounds=-1)


def test_the_comparison_is_not_about_nothing() -> None:
    """The image has weak pixels that stay, weak ones that go, and strong ones."""
    image = photo()
    kept, strong, weak = (canny(image, *pair).bool() for pair in ((LOW, HIGH), (HIGH, HIGH), (LOW, LOW)))
    assert (kept & ~strong).sum() > 50
    assert (weak & ~kept).sum() > 50
    assert strong.sum() > 50


@pytest.mark.parametrize(
    ("height", "found"),
    [(0.09, False), (0.19, False), (0.20, True), (1.0, True)],  # Sobel gives 4 times the height; 200/255 = 4 * 0.196
)
def test_step_by_hand(height: float, found: bool) -> None:
    expected = torch.zeros(1, 1, 6, 8)
    expected[..., 3] = float(found)  # the left one of the two columns beside the step
    assert canny(step(0.0, height)).equal(expected)


def test_flat_and_tiny_images_have_no_edges() -> None:
    for image in (torch.full((2, 3, 5, 7), 0.7), torch.rand(2, 3, 1, 1), torch.zeros(0, 3, 8, 8)):
        edges = canny(image)
        assert edges.shape == image.shape
        assert not edges.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_canny_keeps_the_type_but_computes_in_full(dtype: torch.dtype) -> None:
    image = (photo() * 255).round() / 255
    edges = canny(image.to(dtype))
    assert edges.dtype == dtype
    assert edges.float().equal(canny(image.to(dtype).float()))


@pytest.mark.parametrize("thresholds", [(0.0, 0.5), (-0.1, 0.5), (0.5, 0.4)])
def test_numbers_that_are_refused(thresholds: tuple[float, float]) -> None:
    for refuse in (partial(canny, photo()), partial(edge_view, photo(), 0.5), partial(edge, 0.5)):
        with pytest.raises(ValueError, match="0 < low_threshold <= high_threshold"):
            refuse(*thresholds)
    for refuse in (partial(high_frequency_view, photo()), high_frequency):
        with pytest.raises(ValueError, match="odd kernel_size and a sigma above 0"):
            refuse(kernel_size=4)


@pytest.mark.parametrize("function", [canny, edge_view, high_frequency_view])
def test_images_that_each_function_takes(function) -> None:
    image = (photo() * 255).round().to(torch.uint8)
    assert function(image).equal(function(image.float() / 255))
    with pytest.raises(ValueError, match=r"expected images \(batch, channels, height, width\), got \(3, 8, 8\)"):
        function(torch.rand(3, 8, 8))


# Equations 1 and 2


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 2.0])
def test_equation_1(alpha: float) -> None:
    image = photo()
    expected = np.clip(image.numpy() + np.float32(alpha) * canny(image).numpy(), 0, 1)
    np.testing.assert_array_equal(edge_view(image, alpha).numpy(), expected)
    np.testing.assert_array_equal(edge(alpha).function(image).numpy(), expected)


def blur(channel: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Gaussian blur of one channel, written out; the border is mirrored without repeating it."""
    offset = np.arange(size) - size // 2
    line = np.exp(-(offset**2) / (2 * sigma**2))
    kernel = np.outer(line, line) / line.sum() ** 2
    padded = np.pad(channel.astype(np.float64), size // 2, mode="reflect")
    result = np.empty(channel.shape)
    for row in range(channel.shape[0]):
        for column in range(channel.shape[1]):
            result[row, column] = (padded[row : row + size, column : column + size] * kernel).sum()
    return result


@pytest.mark.parametrize(("beta", "size", "sigma"), [(1.0, 5, 1.0), (0.5, 3, 0.7), (2.0, 7, 2.0), (0.0, 5, 1.0)])
def test_equation_2(beta: float, size: int, sigma: float) -> None:
    image = photo(2, 11, 14)
    smooth = np.stack([[blur(channel, size, sigma) for channel in one] for one in image.numpy()])
    expected = np.clip(image.numpy() + beta * (image.numpy() - smooth), 0, 1)
    np.testing.assert_allclose(high_frequency_view(image, beta, size, sigma).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(high_frequency(beta, size, sigma).function(image).numpy(), expected, atol=1e-6)


def test_defaults() -> None:
    assert high_frequency_view(photo()).equal(high_frequency_view(photo(), 1.0, 5, 1.0))
    assert edge_view(photo()).equal(edge_view(photo(), 0.5, 100 / 255, 200 / 255))


@pytest.mark.parametrize(("size", "kernel_size"), [((2, 9), 5), ((9, 2), 5), ((1, 1), 3)])
def test_images_too_small_for_the_blur(size: tuple[int, int], kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"too small for a blur over {kernel_size} pixels"):
        high_frequency_view(torch.rand(1, 3, *size), kernel_size=kernel_size)
    assert high_frequency_view(torch.rand(1, 3, 3, 3)).shape == (1, 3, 3, 3)  # the smallest


# MultiView


NEGATIVE = View("negative", lambda image: 1 - image, "a negative of a {class}")


def test_views_come_in_order() -> None:
    views = MultiView(["high_frequency", NEGATIVE, "rgb", "edge"])
    image = photo()
    stacked = views(image)
    assert stacked.shape == (4, 2, 3, 37, 50)
    for result, expected in zip(stacked, (high_frequency_view(image), 1 - image, image, edge_view(image)), strict=True):
        assert result.equal(expected)
    assert views.names == ("high_frequency", "negative", "rgb", "edge")
    assert len(views) == 4
    assert MultiView().names == ("rgb", "edge", "high_frequency")


def test_views_carry_no_gradient_and_compute_in_full() -> None:
    """A blur in half precision would add its rounding to every pixel."""
    assert not MultiView()(photo().requires_grad_()).requires_grad
    assert not edge()(photo().requires_grad_()).requires_grad
    expected = MultiView()(photo())
    with torch.autocast("cpu", torch.bfloat16):
        assert MultiView()(photo()).equal(expected)
        assert high_frequency()(photo()).equal(expected[2])


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], r"views is empty: name at least one of \['edge', 'high_frequency', 'rgb'\]"),
        (["rgb", "edges"], "unknown view 'edges': choose from .*'edge'"),
        (["rgb", "edge", "rgb"], r"views must have different names, got \['rgb', 'edge', 'rgb'\]"),
        (["edge", edge(alpha=0.1)], "views must have different names"),
        ([canny], "unknown view <function canny.*pass a View of your own"),
        ("rgb", "list of names or Views, got the word 'rgb'"),
    ],
)
def test_views_that_are_refused(views: list[str | View] | str, message: str) -> None:
    with pytest.raises(TypeError if views == "rgb" else ValueError, match=message):
        MultiView(views)
    half = View("half", lambda image: image[..., ::2], "half a {class}")
    with pytest.raises(ValueError, match=r"view 'half' turned \(2, 3, 37, 50\) into \(2, 3, 37, 25\)"):
        MultiView(["rgb", half])(photo())


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        ("a negative", "a {class}", "must be a Python identifier, got 'a negative'"),
        ("", "a {class}", "must be a Python identifier"),
        ("negative", "a negative", "'a negative' has no {class}"),
        ("negative", "a negative of a {name}", "has no {class}"),
    ],
)
def test_wrong_words_for_a_view(name: str, template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View(name, NEGATIVE.function, template)
