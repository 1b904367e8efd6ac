"""Views that the teacher sees: the image itself, its edges, its high frequencies, and your own."""

from tmkd_lightning.views.canny import canny
from tmkd_lightning.views.view import MultiView, View, edge, edge_view, high_frequency, high_frequency_view, rgb

__all__ = ["MultiView", "View", "canny", "edge", "edge_view", "high_frequency", "high_frequency_view", "rgb"]
