"""Kornia's augmentations of whole batches on the device, drawn for each image under its own seed."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tmkd_lightning.utils.drawn_parameters import DrawnParameters
from tmkd_lightning.utils.fingerprint import fingerprint
from tmkd_lightning.utils.images import to_unit_float


class DeviceAugmentation:
    """Draws Kornia's parameters for one image, and augments a batch of images by what was drawn for each.

    The loading processes draw, under the seed of the sample, so an image is augmented alike in every batch; the device
    computes. Images keep their size: a crop is cheaper where they are loaded.

    Args:
        augmentations: of `kornia.augmentation`, applied one after the other.

    Raises:
        ValueError: something else is given, or one that does the same to a whole batch.

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
                    f"device_augmentations draws for each image, and {name} does the same to a whole batch "
                    "(same_on_batch=True): leave that, or the augmentation, out"
                )
        self.augmentations: list[Any] = list(augmentations)

    @property
    def fingerprint(self) -> str:
        """Digest of the augmentations and their arguments, but not of what they drew last, which Kornia keeps."""
        held = [
            (
                type(each),
                {name: value for name, value in vars(each).items() if not name.startswith("_")},
                [*each.children(), *each.buffers(recurse=False)],
            )
            for each in self.augmentations
        ]
        return fingerprint(held, "device_augmentations")

    def draw(self, image: Tensor) -> DrawnParameters:
        """What torch's generator draws for an image ``(3, H, W)``."""
        shape = torch.Size((1, *image.shape))
        return DrawnParameters([each.forward_parameters(shape) for each in self.augmentations])

    def __call__(self, images: Tensor, drawn: DrawnParameters) -> Tensor:
        """Images ``(B, 3, H, W)``, uint8, augmented on their device, uint8."""
        if images.dtype != torch.uint8:
            raise ValueError(f"device_augmentations needs uint8 images of train_transform, got {images.dtype}")
        return _to_uint8(self._augment(images, drawn))

    def _augment(self, images: Tensor, drawn: DrawnParameters) -> Tensor:
        """The same in float, before it is rounded and clamped: 0 is black and 1 is white."""
        augmented = to_unit_float(images)
        for each, parameters in zip(self.augmentations, drawn.parameters, strict=True):
            augmented = each(augmented, params=parameters)
            if augmented.shape != images.shape:
                raise ValueError(
                    f"{type(each).__name__} of device_augmentations makes {tuple(augmented.shape[1:])} of an image "
                    f"{tuple(images.shape[1:])}, and must keep its size: crop in train_transform"
                )
        return augmented

    def check(self, side: int) -> None:
        """Raises ValueError if an image changes its size, gets NaN, or is another one in a batch than by itself.

        Each augmentation is tried by itself, on images of noise, one that is black and one that is white.
        """
        for each in self.augmentations:
            always, name, failed = copy.deepcopy(each), type(each).__name__, None
            always.p = always.p_batch = 1.0
            alone = DeviceAugmentation([always])
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # the verdict is the same in all processes
                images = torch.randint(256, (8, 3, side, side), dtype=torch.uint8)
                images[0], images[1] = 0, 255
                drawn = [alone.draw(image) for image in images]
                single = torch.cat([alone._augment(images[[i]], part) for i, part in enumerate(drawn)])
                if not single.isfinite().all():
                    raise ValueError(f"{name} of device_augmentations makes NaN or infinity of a pixel: leave it out")
                try:
                    equal = torch.equal(alone(images, DrawnParameters.join(drawn)), _to_uint8(single))
                except Exception as error:  # whatever Kornia comes to where parameters do not fit together
                    equal, failed = False, error
            if not equal:
                raise ValueError(
                    f"{name} of device_augmentations draws something for the whole batch, so an image would be another "
                    "one in another batch: use augmentations that do one thing each, such as RandomBrightness and "
                    "RandomHue in place of ColorJiggle"
                ) from failed


def _to_uint8(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
