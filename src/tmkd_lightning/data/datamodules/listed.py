"""Datamodules of the datasets that are published with lists of their images."""

from torchvision.transforms import v2

from tmkd_lightning.data.datamodules.benchmark import BenchmarkDataModule
from tmkd_lightning.data.datasets import CUB200, RAFDB, StanfordDogs
from tmkd_lightning.data.transforms import Transform, as_rgb


class CUB200DataModule(BenchmarkDataModule):
    """Birds of 200 species: 5,994 training and 5,794 test images; see `CUB200`.

    Takes the arguments of `BenchmarkDataModule`; `root` holds ``CUB_200_2011``.
    """

    published_classes = 200

    def official(self, split: str, download: bool = False) -> CUB200:
        """The published split ``train`` or ``test``."""
        return CUB200(self.root, split, download=download)


class StanfordDogsDataModule(BenchmarkDataModule):
    """Dogs of 120 breeds: 12,000 training and 8,580 test images, all of them from ImageNet; see `StanfordDogs`.

    Takes the arguments of `BenchmarkDataModule`; `root` holds ``Images``, ``train_list.mat`` and ``test_list.mat``.
    """

    published_classes = 120

    def official(self, split: str, download: bool = False) -> StanfordDogs:
        """The published split ``train`` or ``test``."""
        return StanfordDogs(self.root, split, download=download)


class RAFDBDataModule(BenchmarkDataModule):
    """Faces in 7 emotions, heavily imbalanced: 12,271 training and 3,068 test images; see `RAFDB`.

    The authors send the data on request only; if they are missing, the error says where to ask.

    Takes the arguments of `BenchmarkDataModule`; `root` holds one of the layouts that `RAFDB` lists.
    """

    @property
    def class_names(self) -> list[str]:
        """``surprise`` and so on."""
        return list(RAFDB.CLASSES)

    @property
    def class_phrases(self) -> list[str]:
        """``surprised face`` and so on."""
        adjectives = ("surprised", "fearful", "disgusted", "happy", "sad", "angry", "neutral")
        return [f"{adjective} face" for adjective in adjectives]

    def official(self, split: str, download: bool = False) -> RAFDB:
        """The published split ``train`` or ``test``."""
        return RAFDB(self.root, split, download=download)

    def default_train_transform(self) -> Transform:
        """Resize and flip: faces are aligned, and a crop would cut them."""
        return v2.Compose([self.default_eval_transform(), v2.RandomHorizontalFlip()])

    def default_eval_transform(self) -> Transform:
        """Resize."""
        return v2.Compose([as_rgb, v2.PILToTensor(), v2.Resize((self.image_size, self.image_size), antialias=True)])
