"""Knowledge distillation for PyTorch Lightning: any teacher, any student, with or without text and views."""

import sys

if (
    sys.argv[:1] == ["-m"]  # Python is about to run a module: this one, by the words it was called with
    and any(word.removeprefix("-m").split(".")[0] == __name__ for word in sys.orig_argv)
    and not sys.flags.safe_path
):
    sys.path.append(sys.path.pop(0))  # a yaml.py in the working folder is not the package yaml

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.modules import ClassifierModule, TMKDModule
from tmkd_lightning.teacher.fusion import WeightNet
from tmkd_lightning.text.prompts import PromptBank
from tmkd_lightning.views import MultiView, View

__all__ = ["ClassifierModule", "Extractor", "MultiView", "Output", "PromptBank", "TMKDModule", "View", "WeightNet"]
__version__ = "0.1.0"
