"""Datasets that torchvision lacks, with its interface: image and label by index."""

from tmkd_lightning.data.datasets.cub200 import CUB200
from tmkd_lightning.data.datasets.listed import ListedImages
from tmkd_lightning.data.datasets.rafdb import RAFDB
from tmkd_lightning.data.datasets.stanford_dogs import StanfordDogs

__all__ = ["CUB200", "RAFDB", "ListedImages", "StanfordDogs"]
