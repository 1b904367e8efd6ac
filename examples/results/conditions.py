"""What is compared: two teachers, five methods with and without TMKD, two ways to train the fusion, and its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tmkd_lightning.distillers import CATKD, KD, RKD, SP, TeKAP

VIEWS = ["rgb", "edge", "high_frequency"]
TEACHERS = {"rgb": ["rgb"], "views": VIEWS}
METHODS: dict[str, Any] = {"kd": KD, "tekap": TeKAP, "cat_kd": CATKD, "sp": SP, "rkd": RKD}
_NONE = {"feature_weight": 0.0, "logit_weight": 0.0, "text_weight": 0.0}
PLAIN: dict[str, Any] = {"views": ["rgb"], **_NONE}
PARTS: dict[str, dict[str, Any]] = {  # of TMKD, one at a time beside KD
    "kd+text": {**PLAIN, "text_weight": 0.8},
    "kd+feature": {**PLAIN, "feature_weight": 1.0},
    "kd+mean_of_views": {**_NONE, "views": VIEWS, "fusion": "mean"},
    "kd+fused_by_label": {**_NONE, "views": VIEWS},
    "kd+fused_by_distillation": {**_NONE, "views": VIEWS, "fusion_objective": "distillation"},
}


@dataclass(frozen=True)
class Condition:
    """A teacher and what is learnt from it; the student alone has no teacher."""

    name: str
    teacher: str | None
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.name if self.teacher is None else f"{self.teacher}_{self.name}"


def conditions() -> list[Condition]:
    """All of them, the most important first."""
    found = [Condition("student", None)]
    for objective in ("label", "distillation"):
        for teacher in TEACHERS:
            fused = {"fusion_objective": objective}
            if objective == "label":
                found += [Condition(name, teacher, name, PLAIN) for name in METHODS]
            found += [Condition(f"{name}+tmkd@{objective}", teacher, name, fused) for name in METHODS]
            found.append(Condition(f"tmkd@{objective}", teacher, None, fused))
    return found + parts()


def parts() -> list[Condition]:
    """TMKD's terms and fusions, one at a time beside KD."""
    return [Condition(name, teacher, "kd", options) for teacher in TEACHERS for name, options in PARTS.items()]
