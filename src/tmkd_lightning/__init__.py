"""Knowledge distillation for PyTorch Lightning: any teacher, any student, with or without text and views."""

from tmkd_lightning.extract import Extractor
from tmkd_lightning.fusion import WeightNet
from tmkd_lightning.modules import ClassifierModule, TMKDModule
from tmkd_lightning.outputs import Output
from tmkd_lightning.prompts import PromptBank
from tmkd_lightning.views import MultiView, View

__all__ = ["ClassifierModule", "Extractor", "MultiView", "Output", "PromptBank", "TMKDModule", "View", "WeightNet"]
__version__ = "0.1.0"
