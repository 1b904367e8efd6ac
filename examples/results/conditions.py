"""What is compared: two teachers, five methods with and without TMKD, two ways to train its fusion, and its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tmkd_lightning.distillers import CATKD, KD, RKD, SP, TeKAP
from tmkd_lightning.views import edge

VIEWS = ["rgb", "edge", "high_frequency"]
TEACHERS = {"rgb": ["rgb"], "views": VIEWS}
METHODS: dict[str, Any] = {"kd": KD, "tekap": TeKAP, "cat_kd": CATKD, "sp": SP, "rkd": RKD}
_NONE = {"feature_weight": 0.0, "logit_weight": 0.0, "text_weight": 0.0}
PLAIN: dict[str, Any] = {"views": ["rgb"], **_NONE}
LOGIT: dict[str, Any] = {"views": ["rgb"], **_NONE, "logit_weight": 1.0}  # KD's loss, which TMKD adds to other methods
MILD = ["rgb", edge(alpha=0.1), "high_frequency"]
PARTS: dict[str, dict[str, Any]] = {  # of TMKD, one at a time beside KD
    "kd+text": {**PLAIN, "text_weight": 0.8},
    "kd+feature": {**PLAIN, "feature_weight": 1.0},
    "kd+mean_of_views": {**_NONE, "views": VIEWS, "fusion": "mean"},
    "kd+fused_by_label": {**_NONE, "views": VIEWS},
    "kd+fused_by_distillation": {**_NONE, "views": VIEWS, "fusion_objective": "distillation"},
    "kd+mean_of_views_mild_edges": {**_NONE, "views": MILD, "fusion": "mean"},
    "kd+fused_by_distillation_mild_edges": {**_NONE, "views": MILD, "fusion_objective": "distillation"},
}


@dataclass(frozen=True)
class Condition:
    """A teacher and the method by which is learnt from it; the student alone has neither."""

    name: str
    teacher: str | None
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.name if self.teacher is None else f"{self.teacher}_{self.name}"


def conditions() -> list[Condition]:
    """All of them, what tells most and costs least first: a study that is stopped early has the rest."""
    cheap = [name for name in METHODS if name != "rkd"]
    return [
        Condition("student", None),
        *compared(cheap, "plain", PLAIN),
        *compared(cheap, "tmkd", {}),
        *compared(["cat_kd", "sp"], "logit", LOGIT),
        *compared(["rkd"], "plain", PLAIN),
        *compared(["rkd"], "tmkd", {}),
        *compared(cheap, "tmkd@distillation", {"fusion_objective": "distillation"}),
        *(Condition(name, teacher, "kd", PARTS[name]) for teacher in TEACHERS for name in PARTS),
        *compared(["rkd"], "logit", LOGIT),
        *compared(["rkd"], "tmkd@distillation", {"fusion_objective": "distillation"}),
    ]


def compared(methods: list[str], variant: str, options: dict[str, Any]) -> list[Condition]:
    """Methods in one variant, with both teachers."""
    return [Condition(f"{name}+{variant}", teacher, name, options) for name in methods for teacher in TEACHERS]
