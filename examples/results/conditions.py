"""What is compared: five methods, each alone, with TMKD as published, and with a student that sees views; controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from other_views import OTHER
from torchvision.transforms import v2

from tmkd_lightning import PAPER
from tmkd_lightning.distillers import CATKD, KD, RKD, SP, TeKAP

VIEWS = list(PAPER["views"])
TEACHERS = {"rgb": ["rgb"], "views": VIEWS}
SHARES = [0.4, 0.3, 0.3]
METHODS: dict[str, Any] = {"kd": KD, "tekap": TeKAP, "cat_kd": CATKD, "sp": SP, "rkd": RKD}
LOGIT_TERMS = ("kd", "tekap")  # methods that are themselves the logit term

# What has been another default before is said, so that a run stays what it was.
_TMKD = {**PAPER, "fusion_objective": "label"}
_RGB = {"views": ["rgb"], "feature_weight": 0.0, "text_weight": 0.0}
_SEEN = {"student_views": VIEWS, "student_view_shares": SHARES}
_STRONG = {"feature_weight": 50.0, "feature_temperature": 1.0}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {**_RGB, "logit_weight": 0.0},
    "logit": {**_RGB, "logit_weight": 1.0},  # KD's loss, which TMKD adds to other methods
    "paper": PAPER,
    "tmkd": _TMKD,
    "tmkd_no_text": {**_TMKD, "text_weight": 0.0},
    "tmkd_feature": {**_TMKD, **_STRONG, "text_weight": 0.0},
    "seen": {**_TMKD, **_SEEN},
    "seen_no_text": {**_TMKD, **_SEEN, "text_weight": 0.0},
    "feature": {**_RGB, **_STRONG},  # what tuning found: a strong feature loss, and neither views nor texts
    "seen_rgb_target": {**_RGB, **_SEEN},  # what the student's views do without the teacher's
    "generic": {**_RGB, "student_views": ["rgb", OTHER["noise"], OTHER["low_pass"]], "student_view_shares": SHARES},
    "trivial": {**_RGB, "student_views": ["rgb", OTHER["trivial"]], "student_view_shares": [0.4, 0.6]},
}


@dataclass(frozen=True)
class Condition:
    """How a student learns from the teacher of views, and the texts; alone, it has no method."""

    name: str
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    texts: str = "genuine"
    longer: int = 1  # times the epochs


def compared(methods: Sequence[str] = tuple(METHODS)) -> list[Condition]:
    """Every method in the kinds of the claim, what tells most first: a study that is stopped early has the rest."""
    return [
        Condition("alone"),
        *(of(method, kind) for method in methods for kind in ("plain", "seen")),
        *(of(method, "logit") for method in methods if method not in LOGIT_TERMS),
        *(of(method, "paper") for method in methods),
        of("kd", "feature"),
    ]


def further() -> list[Condition]:
    """What else can be run beside the study: every method in every kind, with any texts."""
    return [of(*parts) for parts in product(METHODS, KINDS, ("genuine", "random", "permuted"))]


def controls() -> list[Condition]:
    """What else may explain what TMKD changes, beside KD."""
    return [
        *(of("kd", kind) for kind in ("generic", "tmkd", "tmkd_no_text")),
        *(of("kd", "seen", texts) for texts in ("random", "permuted")),
    ]


def tuning() -> list[Condition]:
    """What is tried on held-out training images, for KD alone: the student's views, the target, weights, shares."""
    tried: dict[str, dict[str, Any]] = {
        kind: KINDS[kind] for kind in ("plain", "tmkd", "seen", "seen_rgb_target", "generic", "trivial")
    }
    for name in ("edge", "high_frequency", *OTHER):  # each with a half of the images, and the teacher on RGB
        view = OTHER.get(name, name)
        tried[f"see_{name}"] = {**_RGB, "student_views": ["rgb", view], "student_view_shares": [0.5, 0.5]}
    seen = KINDS["seen"]
    tried |= {
        "same_view": {**seen, "student_target": "same_view"},
        "by_image": {**seen, "fusion": "image"},
        "by_image_rgb_student": {**_TMKD, "fusion": "image"},
        "mean": {**seen, "fusion": "mean"},
        "no_text": {**seen, "text_weight": 0.0},
        "no_feature": {**seen, "feature_weight": 0.0},
        "strong_feature": {**seen, **_STRONG},
        "strong_feature_alone": KINDS["feature"],
        "strong_feature_no_text": {**seen, **_STRONG, "text_weight": 0.0},
        "few": {**seen, "student_view_shares": [0.7, 0.15, 0.15]},
        "mixup": {**_RGB, "mix": v2.MixUp(num_classes=10)},
        "mixup_seen": {**_RGB, **_SEEN, "mix": v2.MixUp(num_classes=10)},
    }
    longer = ("plain", "seen_rgb_target", "trivial", "mixup")
    return [
        *(Condition(name, "kd", options) for name, options in tried.items()),
        *(Condition(f"{name}_4x", "kd", tried[name], longer=4) for name in longer),
    ]


def of(method: str, kind: str, texts: str = "genuine") -> Condition:
    """A method in one of the kinds; texts that are not genuine are in its name."""
    unusual = f"@{texts}" * (texts != "genuine")
    return Condition(f"{method}+{kind}{unusual}", method, KINDS[kind], texts)
