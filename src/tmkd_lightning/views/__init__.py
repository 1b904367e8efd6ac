"""Views of an image: itself, its edges, its high frequencies, and your own; all of them, or one for each image."""

from tmkd_lightning.views.canny import canny
from tmkd_lightning.views.view import (
    MultiView,
    RandomView,
    View,
    edge,
    edge_view,
    high_frequency,
    high_frequency_view,
    rgb,
)

__all__ = [
    "MultiView",
    "RandomView",
    "View",
    "canny",
    "edge",
    "edge_view",
    "high_frequency",
    "high_frequency_view",
    "rgb",
]
