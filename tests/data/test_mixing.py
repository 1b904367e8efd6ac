"""Kornia's mixing in the form of torchvision's: labels say what the pixels are."""

import pytest
import torch
from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

from tmkd_lightning.data import KorniaMix

KEYS = ["input", "class"]


def flat_images(count: int) -> torch.Tensor:
    """Images that are all of the value of their place, so that pixels tell what was mixed."""
    return torch.arange(count).float().view(count, 1, 1, 1).expand(count, 3, 8, 8).clone()


@pytest.mark.filterwarnings("ignore:RandomCutMixV2 currently uses the old:DeprecationWarning")
@pytest.mark.parametrize(
    "augmentation",
    [
        RandomMixUpV2(data_keys=KEYS),
        RandomMixUpV2(data_keys=KEYS, p=0.5),
        lambda: RandomCutMixV2(data_keys=KEYS),
        lambda: RandomCutMixV2(data_keys=KEYS, use_correct_lambda=True),
        lambda: RandomCutMixV2(data_keys=KEYS, use_correct_lambda=True, p=0.5),
    ],
)
def test_labels_are_the_share_of_each_image(augmentation) -> None:
    augmentation = augmentation if isinstance(augmentation, torch.nn.Module) else augmentation()
    mix, classes = KorniaMix(augmentation, num_classes=6), torch.tensor([3, 1, 0, 2, 5, 4])
    value_of_class = torch.empty(6).index_put((classes,), torch.arange(6.0))
    for _ in range(10):
        images, labels = mix(flat_images(6), classes)
        assert labels.sum(1).tolist() == pytest.approx([1] * 6)
        assert (labels @ value_of_class).tolist() == pytest.approx(images.mean((1, 2, 3)).tolist(), abs=1e-5)
    soft = mix(flat_images(6), torch.full((6, 6), 1 / 6))[1]
    assert soft.flatten().tolist() == pytest.approx([1 / 6] * 36)


def test_what_the_adapter_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"RandomMixUpV2 must be made with data_keys=\['input', 'class'\]"):
        KorniaMix(RandomMixUpV2(data_keys=["input"]), num_classes=2)
    twice = RandomCutMixV2(data_keys=KEYS, num_mix=2, use_correct_lambda=True)
    with pytest.raises(ValueError, match="use num_mix=1"):
        KorniaMix(twice, num_classes=2)(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
