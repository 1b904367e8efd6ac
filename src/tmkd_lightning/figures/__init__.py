"""Figures of networks and runs: functions that return matplotlib figures."""

from tmkd_lightning.figures.cam import class_activation, plot_cam
from tmkd_lightning.figures.collect import CollectedOutputs, OutputCollector
from tmkd_lightning.figures.curves import History, plot_curves, read_history
from tmkd_lightning.figures.drawing import NothingToPlotError, join_figures, save_figures
from tmkd_lightning.figures.logits import class_means, plot_logits
from tmkd_lightning.figures.plots import FIGURES, plot_all
from tmkd_lightning.figures.tsne import plot_tsne
from tmkd_lightning.figures.views import plot_views

__all__ = [
    "FIGURES",
    "CollectedOutputs",
    "History",
    "NothingToPlotError",
    "OutputCollector",
    "class_activation",
    "class_means",
    "join_figures",
    "plot_all",
    "plot_cam",
    "plot_curves",
    "plot_logits",
    "plot_tsne",
    "plot_views",
    "read_history",
    "save_figures",
]
