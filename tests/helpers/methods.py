"""Every distillation method: the one list that tests of all methods read, by the names of their terms."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch

from tmkd_lightning.distillers import (
    AT,
    CATKD,
    CRD,
    DIST,
    DKD,
    KD,
    NKD,
    NST,
    PKT,
    RKD,
    SDD,
    SP,
    SRRL,
    TTM,
    VID,
    Distiller,
    FitNet,
    QueueKL,
    ReviewKD,
    SimKD,
    TeKAP,
    VkD,
)
from tmkd_lightning.feature_extraction.spec import Spec

METHODS: dict[str, Callable[..., Distiller]] = {
    "kd": KD,
    "rkd": RKD,
    "sp": SP,
    "cat_kd": CATKD,
    "tekap": TeKAP,
    "dkd": DKD,
    "dist": DIST,
    "ttm": TTM,
    "nkd": NKD,
    "pkt": PKT,
    "sdd": partial(SDD, KD()),
    "at": AT,
    "nst": NST,
    "vkd": VkD,
    "srrl": SRRL,
    "fitnet": partial(FitNet, place=1),
    "vid": VID,
    "review_kd": ReviewKD,
    "simkd": SimKD,
    "queue_kl": QueueKL,
}
PAPER = ("kd", "rkd", "sp", "cat_kd", "tekap")
NUMBERED = {"crd": partial(CRD, negatives=8)}  # need a datamodule that says which images a batch holds
NEED_A_CLASS = [name for name, method in METHODS.items() if method().needs_class]
NEED_A_MAP = [name for name, method in METHODS.items() if "feature_map" in method().reads]


def slow_unless(names: Iterable[str], quick: Callable[[str], bool]) -> list[Any]:
    """Names as parameters of a test, of which only some run in the quick suite."""
    return [name if quick(name) else pytest.param(name, marks=pytest.mark.slow) for name in names]


def built(method: Distiller, student_dim: int, teacher_dim: int, batch: int = 2) -> Distiller:
    """A method with layers for embeddings, and for two maps each, of these widths."""
    method.build(*(Spec(3, dim, ((dim, 8, 8), (dim, 4, 4)), training_images=20) for dim in (student_dim, teacher_dim)))
    method.set_index(torch.arange(batch))
    return method
