"""Every distillation method: the one list that tests of all methods read."""

from collections.abc import Callable
from functools import partial

from tmkd_lightning.distillers import (
    AT,
    CATKD,
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
    Distiller,
    QueueKL,
    TeKAP,
    VkD,
)


def of_widths(student_dim: int, teacher_dim: int) -> dict[str, Callable[..., Distiller]]:
    """Every method by the name of its term, for embeddings of some widths."""
    return {
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
        "vkd": partial(VkD, student_dim, teacher_dim),
        "srrl": partial(SRRL, student_dim, teacher_dim),
        "queue_kl": partial(QueueKL, student_dim, teacher_dim),
    }


METHODS = of_widths(8, 16)  # of the tiny networks, Net(8) and Net(16)
NEED_A_CLASS = [name for name, method in METHODS.items() if method().needs_class]
NEED_A_MAP = [name for name, method in METHODS.items() if "feature_map" in method().reads]
