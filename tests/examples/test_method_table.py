"""The table of methods in README.md and in the documentation is what its script writes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from helpers.doc_commands import importing_from
from helpers.methods import METHODS, NUMBERED
from tmkd_lightning import distillers
from tmkd_lightning.distillers import RelationalDistiller

MACHINE = {"device": "a CPU", "cores": 2, "threads": 1, "system": "whatever"}
FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script, which imports the files beside it."""
    with importing_from(FOLDER):
        yield importlib.import_module("methods")


def test_the_pages_hold_the_table_of_the_classes(script) -> None:
    """If not: python examples/benchmarks/methods.py."""
    for page, folder in script.PAGES.items():
        assert page.read_text() == script.with_table(page.read_text(), script.table(folder)), page.name


def test_it_has_every_method_and_what_the_classes_say(script) -> None:
    assert script.shipped_methods().keys() == METHODS.keys() | NUMBERED.keys()
    lines = [line.strip("| ").split(" | ") for line in script.table("").splitlines()]
    rows = {cells[0].split("`")[1]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}
    assert rows["KD"]["Paper"] == "[Hinton et al. 2015](https://arxiv.org/abs/1503.02531)"
    assert [rows[name]["Reads"] for name in ("KD", "DKD", "SP", "SRRL")] == [
        "logits",
        "logits, one class an image",
        "feature map",
        "embedding, head weight",
    ]
    assert [rows[name]["Trains"] for name in ("RKD", "VkD", "SRRL", "QueueKL", "SimKD")] == ["–", *["projector"] * 4]
    assert [rows[name]["Smallest batch"] for name in ("KD", "SP", "RKD")] == ["1", "2", "3"]
    assert {rows[name]["N devices"] for name in ("RKD", "SP", "PKT", "DIST")} == {
        "local batches, or as one with `gather`"
    }
    assert [rows[name]["N devices"] for name in ("KD", "SRRL")] == ["as one", "as one, but for the BatchNorm"]
    assert [rows[name]["With a ViT"] for name in ("KD", "SDD")] == ["yes", "no"]


def test_a_new_method_is_picked_up(script, monkeypatch, tmp_path) -> None:
    """By being exported; until it is timed, the table says so."""

    class New(RelationalDistiller):
        """A method.

        Source: Somebody and Sons 2031, Eq. 1.
        """

        compares = "embedding"
        reads, reads_logits, min_batch = frozenset({"embedding"}), False, 5

        def __init__(self, gather: bool = False, name: str = "new") -> None:
            super().__init__(gather, name)
            self.judge = nn.Linear(1, 1)

        def loss(self, student, teacher):
            return self.judge.weight.sum()

    (tmp_path / "docs" / "methods").mkdir(parents=True)
    (tmp_path / "docs" / "methods" / "new.md").write_text("# New\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(distillers, "New", New, raising=False)
    monkeypatch.setattr(distillers, "__all__", ["New"])
    monkeypatch.setitem(importlib.import_module("common").METHODS, "new", New)
    expected = (
        "| [`New`](new.md) | Somebody and Sons 2031 | embedding | yes | judge | 5 | local batches, or as one with"
    )
    assert script.table("").splitlines()[2] == f"{expected} `gather` | not measured |"


def test_costs_are_in_units_of_kd(script) -> None:
    rows = [{"method": "kd", "ratio": 1.25}, {"method": "nst", "ratio": 1.5}]
    result = {"rows": rows, "command": ["x/step.py", "--methods", "all"], "machine": MACHINE, "versions": {}}
    costs = script.relative_costs(result)
    assert costs["step / step of KD"] == {"kd": 1.0, "nst": 1.2}
    assert costs["machine"].keys() == {"device", "cores", "threads"}
    assert costs["command"] == "python examples/benchmarks/step.py --methods all"
    assert json.loads(script.COSTS.read_text()).keys() == costs.keys()


def test_a_page_without_markers_is_refused(script) -> None:
    assert script.with_table(f"a\n{script.BEGIN}\nold\n{script.END}\nb", "new") == (
        f"a\n{script.BEGIN}\n\nnew\n\n{script.END}\nb"
    )
    with pytest.raises(ValueError, match="the page lacks the lines"):
        script.with_table(f"a\n{script.BEGIN}\n", "new")
