"""Figures of networks and runs: what is computed, and how it is drawn, are kept apart."""

from tmkd_lightning.figures.cam import Attention, activation, attention
from tmkd_lightning.figures.collect import Observer, Seen, look
from tmkd_lightning.figures.curves import Curves, History, curves, read_history
from tmkd_lightning.figures.drawing import Drawing, NothingToShowError, figure_of
from tmkd_lightning.figures.logits import Logits, class_means, logits
from tmkd_lightning.figures.page import page_of
from tmkd_lightning.figures.plots import FIGURES, Material, check_names, drawings
from tmkd_lightning.figures.save import render, write
from tmkd_lightning.figures.tsne import Embedding, embedding
from tmkd_lightning.figures.views import Views, views_of

__all__ = [
    "FIGURES",
    "Attention",
    "Curves",
    "Drawing",
    "Embedding",
    "History",
    "Logits",
    "Material",
    "NothingToShowError",
    "Observer",
    "Seen",
    "Views",
    "activation",
    "attention",
    "check_names",
    "class_means",
    "curves",
    "drawings",
    "embedding",
    "figure_of",
    "logits",
    "look",
    "page_of",
    "read_history",
    "render",
    "views_of",
    "write",
]
