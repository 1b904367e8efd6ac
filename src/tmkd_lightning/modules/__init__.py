"""The LightningModules: train one classifier, or distil one into another."""

from tmkd_lightning.modules.classifier import ClassifierModule
from tmkd_lightning.modules.tmkd import TMKDModule

__all__ = ["ClassifierModule", "TMKDModule"]
