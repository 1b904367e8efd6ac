"""Knowledge distillation for PyTorch Lightning: any teacher, any student, with or without text and views."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmkd_lightning.feature_extraction import Ensemble, Extractor, Output, Spec
    from tmkd_lightning.modules import PAPER, ClassifierModule, TMKDModule
    from tmkd_lightning.teacher.fusion import WeightNet
    from tmkd_lightning.text.prompts import PromptBank
    from tmkd_lightning.views import MultiView, View

__all__ = [
    "PAPER",
    "ClassifierModule",
    "Ensemble",
    "Extractor",
    "MultiView",
    "Output",
    "PromptBank",
    "Spec",
    "TMKDModule",
    "View",
    "WeightNet",
]
__version__ = "0.1.0"

_MODULES = {"Extractor": "feature_extraction", "Output": "feature_extraction", "ClassifierModule": "modules"}
_MODULES |= {"PAPER": "modules", "TMKDModule": "modules", "WeightNet": "teacher.fusion", "PromptBank": "text.prompts"}
_MODULES |= {"Ensemble": "feature_extraction", "Spec": "feature_extraction", "MultiView": "views", "View": "views"}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: Lightning, torchvision and Kornia take seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(f"{__name__}.{_MODULES[name]}"), name))
