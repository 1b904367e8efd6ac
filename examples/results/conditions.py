"""What is compared: five methods, each alone, with TMKD as published, and with a student that sees views; controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tmkd_lightning.distillers import CATKD, KD, RKD, SP, TeKAP
from tmkd_lightning.views import View
from tmkd_lightning.views.gaussian_blur import gaussian_blur

VIEWS = ["rgb", "edge", "high_frequency"]
TEACHERS = {"rgb": ["rgb"], "views": VIEWS}
SHARES = [0.4, 0.3, 0.3]
METHODS: dict[str, Any] = {"kd": KD, "tekap": TeKAP, "cat_kd": CATKD, "sp": SP, "rkd": RKD}
LOGIT_TERMS = ("kd", "tekap")  # methods that are themselves the logit term


def noise(image: Tensor) -> Tensor:
    return (image + 0.1 * torch.randn_like(image)).clamp(0, 1)


GENERIC = [
    "rgb",
    View("noise", noise, "a {class}"),
    View("blur", lambda image: gaussian_blur(image, 5, 1.0), "a {class}"),
]
_NONE = {"feature_weight": 0.0, "text_weight": 0.0}
_RGB = {**_NONE, "views": ["rgb"]}
_SEEN = {"student_views": VIEWS, "student_view_shares": SHARES}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {**_RGB, "logit_weight": 0.0},
    "logit": {**_RGB, "logit_weight": 1.0},  # KD's loss, which TMKD adds to other methods
    "paper": {"fusion_objective": "distillation"},
    "tmkd": {},
    "seen": _SEEN,
    "seen_rgb_target": {**_RGB, **_SEEN},  # what the student's views do without the teacher's
    "generic": {**_RGB, "student_views": GENERIC, "student_view_shares": SHARES},
}


@dataclass(frozen=True)
class Condition:
    """A teacher, the method by which is learnt from it, and the texts; a student alone has none of them."""

    name: str
    teacher: str | None = None
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    texts: str = "genuine"


def conditions() -> list[Condition]:
    """All of them, what tells most first: a study that is stopped early has the rest."""
    return [
        Condition("alone"),
        Condition("alone_on_views", options={"views": VIEWS, "view_shares": SHARES}),
        *(of(method, kind) for method in METHODS for kind in ("plain", "seen")),
        *(of(method, "logit") for method in METHODS if method not in LOGIT_TERMS),
        *(of(method, kind) for method in METHODS for kind in ("generic", "tmkd")),
        *(of("kd", kind, texts) for kind in ("tmkd", "seen") for texts in ("random", "permuted")),
        of("kd", "plain", teacher="rgb"),
        of("kd", "seen_rgb_target"),
        *(of(method, "paper") for method in METHODS),
    ]


def tuning() -> list[Condition]:
    """What is tried on held-out training images, for KD alone: the target, the strengths, the shares, the text."""
    tried: dict[str, dict[str, Any]] = {
        "plain": KINDS["plain"],
        "tmkd": {},
        "seen": _SEEN,
        "same_view": {**_SEEN, "student_target": "same_view"},
        "rgb_target": KINDS["seen_rgb_target"],
        "mean": {**_SEEN, "fusion": "mean"},
        "mean_no_text": {**_SEEN, "fusion": "mean", "text_weight": 0.0},
        "mean_no_text_no_feature": {**_SEEN, "fusion": "mean", **_NONE},
        "strong_feature": {**_SEEN, "feature_weight": 50.0, "feature_temperature": 1.0},
        "few": {**_SEEN, "student_view_shares": [0.7, 0.15, 0.15]},
        "many": {**_SEEN, "student_view_shares": [0.2, 0.4, 0.4]},
        "edge_only": {"student_views": ["rgb", "edge"], "student_view_shares": [0.6, 0.4]},
        "high_only": {"student_views": ["rgb", "high_frequency"], "student_view_shares": [0.6, 0.4]},
        "generic": KINDS["generic"],
    }
    return [Condition(f"tune_{name}", "views", "kd", options) for name, options in tried.items()]


def of(method: str, kind: str, texts: str = "genuine", teacher: str = "views") -> Condition:
    name = (
        f"{method}+{kind}" + (f"@{texts}" if texts != "genuine" else "") + ("@rgb_teacher" if teacher == "rgb" else "")
    )
    return Condition(name, teacher, method, KINDS[kind], texts)
