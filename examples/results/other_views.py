"""Views that the paper does not have: controls, and candidates that differ from RGB where RGB may fail."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from tmkd_lightning.views import View
from tmkd_lightning.views.gaussian_blur import gaussian_blur

_TRIVIAL = v2.TrivialAugmentWide()


def noise(image: Tensor) -> Tensor:
    """Gaussian noise of a tenth of the range."""
    return (image + 0.1 * torch.randn_like(image)).clamp(0, 1)


def low_pass(image: Tensor) -> Tensor:
    """What the high-frequency view takes off."""
    return gaussian_blur(image, 5, 1.0)


def grey(image: Tensor) -> Tensor:
    """Without colour."""
    return v2.functional.rgb_to_grayscale(image, 3)


def zoom(image: Tensor) -> Tensor:
    """The middle three quarters, enlarged."""
    height, width = image.shape[-2:]
    middle = v2.functional.center_crop(image, [height * 3 // 4, width * 3 // 4])
    return F.interpolate(middle, (height, width), mode="bilinear")


def phase(image: Tensor) -> Tensor:
    """The phase of every frequency with one amplitude for all images, 1/f; mean and deviation stay the image's."""
    spectrum = torch.fft.rfft2(image)
    height, width = image.shape[-2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]).to(image.device)
    amplitude = 1 / frequency.clamp_min(1 / max(height, width))
    flat = torch.fft.irfft2(torch.polar(amplitude.expand_as(spectrum.real), spectrum.angle()), s=(height, width))
    of_image = torch.std_mean(image, dim=(-3, -2, -1), keepdim=True)
    of_flat = torch.std_mean(flat, dim=(-3, -2, -1), keepdim=True)
    return ((flat - of_flat[1]) / of_flat[0] * of_image[0] + of_image[1]).clamp(0, 1)


def trivial(image: Tensor) -> Tensor:
    """TrivialAugment, drawn anew for each image."""
    return torch.stack([_TRIVIAL((one * 255).to(torch.uint8)) for one in image]).to(image.dtype) / 255


OTHER = {
    function.__name__: View(function.__name__, function, "a {class}")
    for function in (noise, low_pass, grey, zoom, phase, trivial)
}
