"""The caches of one directory, and what sets them apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tmkd_lightning.teacher.cache import CacheFolder


@pytest.fixture
def identity() -> dict[str, Any]:
    return {
        "teacher": {"name": "Net", "weights": "a", "mean": [0.5], "members": [{"name": "One", "weights": "x"}]},
        "views": [["rgb", "1"]],
        "data": {"images": 4, "replicas": 1, "content": "c"},
        "precision": "32-true",
        "dtype": None,
    }


def keep(directory: Path, identity: dict[str, Any]) -> CacheFolder:
    folder = CacheFolder(directory, identity, {"logits": "float32"})
    folder.create(4, {"logits": (3,)})
    folder.close()
    return folder


def closest(directory: Path, identity: dict[str, Any]) -> tuple[str, list[str]] | None:
    return CacheFolder(directory, identity, {"logits": "float32"}).closest()


def test_the_closest_cache_differs_in_the_fewest_parts(tmp_path, identity) -> None:
    assert closest(tmp_path, identity) is None
    near = keep(tmp_path, identity | {"precision": "bf16-mixed"})
    far = keep(tmp_path, identity | {"precision": "16-mixed", "views": [["edge", "2"]]})
    assert closest(tmp_path, identity) == (near.path.name, ["precision"])
    shutil.rmtree(near.path)
    assert closest(tmp_path, identity) == (far.path.name, ["precision", "views"])


def test_parts_of_parts_are_named(tmp_path, identity) -> None:
    other = json.loads(json.dumps(identity))
    other["teacher"]["members"][0]["weights"] = "y"
    other["data"] |= {"images": 5, "content": None}
    keep(tmp_path, other)
    found = closest(tmp_path, identity)
    assert found is not None
    assert found[1] == ["data.content", "data.images", "teacher.members"]


@pytest.mark.parametrize(
    ("mine", "other"), [(True, 1), (1, 1.0), (None, "missing"), ({}, "missing")], ids=["bool", "float", "none", "dict"]
)
def test_what_is_another_name_is_another_part(tmp_path, identity, mine: Any, other: Any) -> None:
    """Equal in Python, and another digest."""
    keep(tmp_path, identity if other == "missing" else identity | {"more": other})
    found = closest(tmp_path, identity | {"more": mine})
    assert found is not None
    assert found[1] == ["more"]


def test_a_copy_and_what_is_no_cache_are_passed_over(tmp_path, identity) -> None:
    own = keep(tmp_path, identity)
    own.path.rename(tmp_path / "copy")
    for name, content in {"damaged": "{", "list": "[]", "deep": "[" * 100_000}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "identity.json").write_text(content)
    assert closest(tmp_path, identity) is None
