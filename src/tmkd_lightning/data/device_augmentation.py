"""Kornia's augmentations of whole batches on the device, drawn for each image under its own seed."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tmkd_lightning.utils.drawn_parameters import DrawnParameters
from tmkd_lightning.utils.fingerprint import fingerprint


class DeviceAugmentation:
    """Draws Kornia's parameters for one image, and augments a batch of images by what was drawn for each.

    The loading processes draw, under the seed of the sample, so an image is augmented alike in every batch; the device
    computes. Images keep their size: a crop is cheaper where they are loaded.

    Args:
        augmentations: of `kornia.augmentation`, applied one after the other.

    Raises:
        ValueError: something else is given, or one that draws for the whole batch.

    Example:
        >>> from kornia.augmentation import RandomContrast
        >>> double = DeviceAugmentation([RandomContrast((2.0, 2.0), p=1.0)])
        >>> images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
        >>> drawn = DrawnParameters.join([double.draw(image) for image in images])
        >>> double(images, drawn).unique()
        tensor([200], dtype=torch.uint8)
    """

    def __init__(self, augmentations: Sequence[nn.Module]) -> None:
        from kornia.augmentation import AugmentationBase2D

        for each in augmentations:
            name = type(each).__name__
            if not isinstance(each, AugmentationBase2D):
                raise ValueError(
                    f"device_augmentations takes single augmentations of images from kornia.augmentation, got {name}: "
                    "list the parts of a container, and give what mixes images to mix of the module"
                )
            if each.same_on_batch:
                raise ValueError(
                    f"device_augmentations draws for each image, and {name} has same_on_batch=True: leave it out"
                )
        self.augmentations: list[Any] = list(augmentations)

    @property
    def fingerprint(self) -> str:
        """Digest of the augmentations and their arguments, but not of what they drew last."""
        return fingerprint([(type(each), repr(each)) for each in self.augmentations], "device_augmentations")

    def draw(self, image: Tensor) -> DrawnParameters:
        """What torch's generator draws for an image ``(3, H, W)``."""
        shape = torch.Size((1, *image.shape))
        return DrawnParameters([each.forward_parameters(shape) for each in self.augmentations])

    def __call__(self, images: Tensor, drawn: DrawnParameters) -> Tensor:
        """Images ``(B, 3, H, W)``, uint8, augmented on their device, uint8."""
        augmented = images / 255
        for each, parameters in zip(self.augmentations, drawn.parameters, strict=True):
            augmented = each(augmented, params=parameters)
        return (augmented * 255).round().clamp(0, 255).to(torch.uint8)

    def check(self, image: Tensor) -> None:
        """Raises ValueError if an image ``(3, H, W)`` is none of uint8, or changes its size or with its batch."""
        if image.dtype != torch.uint8:
            raise ValueError(f"device_augmentations needs uint8 images of train_transform, got {image.dtype}")
        images = torch.stack([image, 255 - image.flip(-1)])
        for each in self.augmentations:
            always, name = copy.deepcopy(each), type(each).__name__
            always.p = always.p_batch = 1.0
            alone = DeviceAugmentation([always])
            with torch.random.fork_rng(devices=[]):
                drawn = [alone.draw(image) for image in images]
            single = [alone(one[None], part) for one, part in zip(images, drawn, strict=True)]
            if single[0].shape[1:] != image.shape:
                raise ValueError(
                    f"{name} of device_augmentations makes {tuple(single[0].shape[1:])} of an image "
                    f"{tuple(image.shape)}, and must keep its size: crop in train_transform"
                )
            if not torch.equal(alone(images, DrawnParameters.join(drawn)), torch.cat(single)):
                raise ValueError(
                    f"{name} of device_augmentations draws something for the whole batch, so an image would be "
                    "another one in another batch: use augmentations that do one thing each, such as RandomBrightness "
                    "and RandomHue in place of ColorJiggle"
                )
