"""What is compared: five methods, each alone, with TMKD as published, and with a student that sees views; controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """A teacher, the method by which is learnt from it, and the texts; a student alone has none of them."""

    name: str
    teacher: str | None = None
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    texts: str = "genuine"
    longer: int = 1  # times the epochs


def conditions(methods: Sequence[str] = tuple(METHODS), further: bool = True) -> list[Condition]:
    """All of them, what tells most first: a study that is stopped early has the rest.

    Args:
        methods: base methods to compare with TMKD.
        further: whether to run the controls that one set answers for all; else what birds alone ask for.
    """
    always = [
        Condition("alone"),
        *(of(method, kind) for method in methods for kind in ("plain", "seen")),
        *(of(method, "logit") for method in methods if method not in LOGIT_TERMS),
        *(of(method, "feature") for method in methods),
        *(of(method, kind) for method in methods for kind in ("generic", "paper")),
        *(of("kd", kind) for kind in ("tmkd", "tmkd_no_text", "tmkd_feature")),
        *(of("kd", "seen", texts) for texts in ("random", "permuted")),
    ]
    if not further:  # on birds, where TMKD gained beside two methods, what its text loss has in that
        return [*always, *(of(method, "seen_no_text") for method in ("sp", "rkd") if method in methods)]
    return [
        *always,
        *(of("kd", "tmkd", texts) for texts in ("random", "permuted")),
        of("kd", "seen_rgb_target"),
        of("kd", "trivial"),
        Condition("alone_on_views", options={"views": VIEWS, "view_shares": SHARES}),
        of("kd", "plain", teacher="rgb"),
        Condition("alone_twice_as_long", longer=2),
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
        *(Condition(name, "views", "kd", options) for name, options in tried.items()),
        *(Condition(f"{name}_4x", "views", "kd", tried[name], longer=4) for name in longer),
    ]


def of(method: str, kind: str, texts: str = "genuine", teacher: str = "views") -> Condition:
    """A method in one of the kinds; what is not usual is in its name."""
    unusual = [texts] * (texts != "genuine") + ["rgb_teacher"] * (teacher == "rgb")
    return Condition("@".join([f"{method}+{kind}", *unusual]), teacher, method, KINDS[kind], texts)
