"""Networks for small images, torchvision's with ImageNet weights, zero-shot CLIP, and weights from files."""

from tmkd_lightning.models.loading import load_weights
from tmkd_lightning.models.pretrained import Pretrained, PretrainedWeightsError, load_pretrained
from tmkd_lightning.models.probe import Probe
from tmkd_lightning.models.remote_files import DownloadError, local_file
from tmkd_lightning.models.resnet import resnet18, resnet50
from tmkd_lightning.models.shufflenet import shufflenet_v2
from tmkd_lightning.models.vgg import VGG, vgg8, vgg13
from tmkd_lightning.models.wide_resnet import WideResNet, wrn_16_2, wrn_40_1, wrn_40_2
from tmkd_lightning.models.zero_shot import ZeroShotCLIP

__all__ = [
    "VGG",
    "DownloadError",
    "Pretrained",
    "PretrainedWeightsError",
    "Probe",
    "WideResNet",
    "ZeroShotCLIP",
    "load_pretrained",
    "load_weights",
    "local_file",
    "resnet18",
    "resnet50",
    "shufflenet_v2",
    "vgg8",
    "vgg13",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]
