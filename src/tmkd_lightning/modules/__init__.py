"""The LightningModules: train one classifier, or distil one into another."""

from tmkd_lightning.modules.classifier import ClassifierModule
from tmkd_lightning.modules.tmkd import PAPER, TMKDModule

__all__ = ["PAPER", "ClassifierModule", "TMKDModule"]
