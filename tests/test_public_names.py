"""Names that others import from the package; those that configs call by class path are built with the configs."""

from importlib import import_module

import pytest

PUBLIC = {
    "tmkd_lightning": "PAPER ClassifierModule Extractor MultiView Output PromptBank Spec TMKDModule View WeightNet",
    "tmkd_lightning.callbacks": "PromptEmbeddings TeacherCache",
    "tmkd_lightning.distillers": "AT CATKD CRD DIST DKD FitNet KD NKD NST PKT QueueKL RKD ReviewKD SDD SP SRRL SimKD "
    "TTM Distiller Sum TeKAP VID VkD WarmUp",
    "tmkd_lightning.losses": "attention_transfer class_attention crd cross_entropy dist dkd feature_kl hcl hint "
    "logit_kl nkd nst pkt queue_kl rkd_angle rkd_distance similarity_preserving srrl "
    "standardize_logits tekap_kl text_contrast ttm vid vkd wttm",
    "tmkd_lightning.views": "canny edge_view high_frequency_view RandomView",
    "tmkd_lightning.text": "EmbeddingFile HashingTextEncoder OpenCLIPTextEncoder TextEncoder",
    "tmkd_lightning.models": "Pretrained Probe WideResNet ZeroShotCLIP load_weights local_file resnet18 resnet50 "
    "shufflenet_v2 vgg13 vgg8 wrn_16_2 wrn_40_1 wrn_40_2",
    "tmkd_lightning.data": "CIFAR100DataModule CUB200DataModule DTDDataModule DigitsDataModule ImageFolderDataModule "
    "RAFDBDataModule StanfordDogsDataModule StreamDataModule",
    "tmkd_lightning.export": "RunPage collect_page export_student log_page predict_folder write_page",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package: str) -> None:
    module = import_module(package)
    assert set(PUBLIC[package].split()) <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
