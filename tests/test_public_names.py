"""Names that others build on: what is imported from the package, and what configs call by class path."""

import re
from importlib import import_module
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PUBLIC = {
    "tmkd_lightning": "ClassifierModule Extractor MultiView Output PromptBank TMKDModule View WeightNet",
    "tmkd_lightning.callbacks": "PromptEmbeddings TeacherCache",
    "tmkd_lightning.distillers": "CATKD KD RKD SP Distiller QueueKL Sum TeKAP",
    "tmkd_lightning.losses": "class_attention feature_kl logit_kl rkd_angle rkd_distance similarity_preserving "
    "tekap_kl text_contrast",
    "tmkd_lightning.views": "canny edge_view high_frequency_view",
    "tmkd_lightning.text": "EmbeddingFile HashingTextEncoder OpenCLIPTextEncoder TextEncoder",
    "tmkd_lightning.models": "Pretrained Probe WideResNet load_weights resnet18 resnet50 shufflenet_v2 vgg13 vgg8 "
    "wrn_16_2 wrn_40_1 wrn_40_2",
    "tmkd_lightning.data": "CIFAR100DataModule CUB200DataModule DTDDataModule DigitsDataModule ImageFolderDataModule "
    "RAFDBDataModule StanfordDogsDataModule",
    "tmkd_lightning.export": "export_student predict_folder",
}
CLASS_PATHS = sorted(
    {
        path
        for file in EXAMPLES.rglob("*.yaml")
        for path in re.findall(r"class_path: *(tmkd_lightning[\w.]+)", file.read_text())
    }
)


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in PUBLIC for name in PUBLIC[package].split()]
)
def test_public_names(package: str, name: str) -> None:
    assert name in import_module(package).__all__


def test_configs_name_classes() -> None:
    assert len(CLASS_PATHS) > 10


@pytest.mark.parametrize("path", CLASS_PATHS)
def test_class_paths(path: str) -> None:
    package, _, name = path.rpartition(".")
    assert callable(getattr(import_module(package), name))
