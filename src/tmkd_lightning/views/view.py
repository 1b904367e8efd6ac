"""Views of an image: plain, edges, high frequencies (Eq. 1 and 2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from tmkd_lightning.text.prompts import TEMPLATES, check_template
from tmkd_lightning.utils.images import to_unit_batch, to_unit_float
from tmkd_lightning.utils.validation import is_number
from tmkd_lightning.views.canny import canny, check_thresholds
from tmkd_lightning.views.gaussian_blur import check_kernel, gaussian_blur


def edge_view(
    image: Tensor,
    alpha: float = 0.5,
    low_threshold: float = 100 / 255,
    high_threshold: float = 200 / 255,
    rounds: int | None = None,
) -> Tensor:
    """Adds the Canny edges of each channel to the image.

    Args:
        image: ``(B, C, H, W)``, uint8 or float in [0, 1].
        alpha: brightness of the edges, at least 0.
        low_threshold: as in `canny`.
        high_threshold: as in `canny`.
        rounds: as in `canny`.

    Returns:
        ``clip(image + alpha * canny(image), 0, 1)``, ``(B, C, H, W)``, floating.

    Source: Eq. 1; alpha 0.5 is our choice.

    Example:
        >>> flat = torch.full((1, 3, 4, 4), 0.25)
        >>> edge_view(flat).equal(flat)  # a flat image has no edges
        True
    """
    if image.ndim != 4 or not image.is_floating_point():
        image = to_unit_batch(image)
    return (image + alpha * canny(image, low_threshold, high_threshold, rounds)).clamp(0, 1)


def high_frequency_view(image: Tensor, beta: float = 1.0, kernel_size: int = 5, sigma: float = 1.0) -> Tensor:
    """Amplifies the high frequencies of each channel, which a Gaussian blur removes.

    Args:
        image: ``(B, C, H, W)``, uint8 or float in [0, 1]; height and width above ``kernel_size // 2``.
        beta: factor of the added high frequencies, at least 0.
        kernel_size: side of the Gaussian kernel in pixels, odd.
        sigma: standard deviation of the kernel in pixels, above 0.

    Returns:
        ``clip(image + beta * (image - blur(image)), 0, 1)``, ``(B, C, H, W)``, floating.

    Source: Eq. 2; the numbers are our choice.

    Example:
        >>> flat = torch.full((1, 3, 4, 4), 0.25)
        >>> high_frequency_view(flat).allclose(flat)  # a flat image has none
        True
    """
    if image.ndim != 4 or not image.is_floating_point():
        image = to_unit_batch(image)
    return (image + beta * (image - gaussian_blur(image, kernel_size, sigma))).clamp(0, 1)


@dataclass(frozen=True)
class View:
    """A view: its name, its image transform and its prompt template.

    Args:
        name: used in logs and figures, a Python identifier.
        function: from images ``(B, 3, H, W)`` in [0, 1] to images of the same shape in [0, 1].
        template: prompt with ``{class}`` where the class goes.

    Example:
        >>> negative = View("negative", lambda image: 1 - image, "a negative of a {class}")
        >>> negative(torch.ones(1, 3, 2, 2)).sum().item()
        0.0
    """

    name: str
    function: Callable[[Tensor], Tensor]
    template: str

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a view's name must be a Python identifier, got {self.name!r}")
        check_template(self.template)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Computes the view of uint8 or [0, 1] float images ``(B, 3, H, W)``, without gradients, in full precision."""
        if not image.is_floating_point():
            image = to_unit_float(image)
        with torch.autocast(image.device.type, enabled=False):
            result = self.function(image)
        if result.shape != image.shape:
            turned = f"{tuple(image.shape)} into {tuple(result.shape)}"
            raise ValueError(f"view {self.name!r} turned {turned}; a view keeps the shape")
        return result


def rgb() -> View:
    """Makes the view ``rgb``, the image itself."""
    return View("rgb", _identity, TEMPLATES["rgb"])


def _identity(image: Tensor) -> Tensor:
    return image


def edge(
    alpha: float = 0.5, low_threshold: float = 100 / 255, high_threshold: float = 200 / 255, rounds: int | None = None
) -> View:
    """Makes the view ``edge``; arguments as in `edge_view`."""
    check_thresholds(low_threshold, high_threshold)
    function = partial(
        edge_view, alpha=alpha, low_threshold=low_threshold, high_threshold=high_threshold, rounds=rounds
    )
    return View("edge", function, TEMPLATES["edge"])


def high_frequency(beta: float = 1.0, kernel_size: int = 5, sigma: float = 1.0) -> View:
    """Makes the view ``high_frequency``; arguments as in `high_frequency_view`."""
    check_kernel(kernel_size, sigma)
    function = partial(high_frequency_view, beta=beta, kernel_size=kernel_size, sigma=sigma)
    return View("high_frequency", function, TEMPLATES["high_frequency"])


BUILT_IN: dict[str, Callable[[], View]] = {"rgb": rgb, "edge": edge, "high_frequency": high_frequency}


class MultiView(nn.Module):
    """Computes several views of a batch.

    Args:
        views: names of built-in views (``rgb``, ``edge``, ``high_frequency``) or views of your own, in order.

    Example:
        >>> MultiView(["rgb", edge(alpha=0.25)])(torch.rand(4, 3, 8, 8)).shape
        torch.Size([2, 4, 3, 8, 8])
    """

    def __init__(self, views: Sequence[str | View] = ("rgb", "edge", "high_frequency")) -> None:
        super().__init__()
        if isinstance(views, str):
            raise TypeError(f"views must be a list of names or Views, got the word {views!r}")
        self.views = tuple(_resolve(view) for view in views)
        self.names = tuple(view.name for view in self.views)
        if not self.views:
            raise ValueError(f"views is empty: name at least one of {sorted(BUILT_IN)}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"views must have different names, got {list(self.names)}")

    @property
    def templates(self) -> dict[str, str]:
        """Prompt template of each view by its name, in order."""
        return {view.name: view.template for view in self.views}

    def __len__(self) -> int:
        return len(self.views)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Stacks all views of uint8 or [0, 1] float images ``(B, 3, H, W)`` to ``(V, B, 3, H, W)``, floating."""
        return torch.stack([view(image) for view in self.views])


class RandomView(nn.Module):
    """Shows each image in one of several views, drawn by their shares.

    Args:
        views: names of built-in views or views of your own.
        shares: how often each view is drawn, as many positive numbers as views; None for equal shares.
        argument: what messages call `shares`.

    Example:
        >>> seen, drawn = RandomView(["rgb", "edge"], [0.7, 0.3])(torch.rand(4, 3, 8, 8))
        >>> seen.shape, drawn.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4]))
    """

    def __init__(
        self, views: Sequence[str | View], shares: Sequence[float] | None = None, argument: str = "shares"
    ) -> None:
        super().__init__()
        self.views = MultiView(views)
        shares = [1.0] * len(self.views) if shares is None else list(shares)
        if len(shares) != len(self.views) or not all(is_number(share) and 0 < share < math.inf for share in shares):
            raise ValueError(f"{argument} must be {len(self.views)} positive numbers, one for each view, got {shares}")
        self.shares = torch.tensor(shares, dtype=torch.float32)  # stays on the host, where drawing waits for nothing

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shows images ``(B, 3, H, W)`` in [0, 1]; returns them and the index ``(B,)`` of each view, on the host."""
        if len(self.views) == 1:
            return self.views.views[0](image), torch.zeros(len(image), dtype=torch.long)
        drawn = torch.multinomial(self.shares, len(image), replacement=True)
        result = torch.empty_like(image)
        for index, view in enumerate(self.views.views):
            rows = (drawn == index).nonzero().flatten().to(image.device, non_blocking=True)
            if len(rows):
                result[rows] = view(image[rows])
        return result, drawn


def _resolve(view: str | View) -> View:
    if isinstance(view, View):
        return view
    if view not in BUILT_IN:
        raise ValueError(f"unknown view {view!r}: choose from {sorted(BUILT_IN)}, or pass a View of your own")
    return BUILT_IN[view]()
