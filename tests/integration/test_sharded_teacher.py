"""Two processes that split a teacher train the student as two that each hold all of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.subprocess_run import run_script
from integration import sharded_teacher as script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.__version__ < "2.7", reason="torch splits some of a network's weights from 2.7 on"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes have written: one launch for all tests."""
    folder = tmp_path_factory.mktemp("sharded")
    run_script(Path(script.__file__), folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", [*script.SETTINGS, "uneven", "cached"])
def test_losses_and_student_are_those_beside_a_whole_teacher(ranks, name) -> None:
    """Within 1e-6, as convolutions of weights that are not channels-last add up in another order; losses of 2."""
    for whole, split in (rank[name] for rank in ranks):
        assert whole["steps"] == split["steps"] == 3
        assert whole["saved"] == split["saved"]
        assert not any("teacher" in key for key in split["saved"])
        assert whole["logged"] == pytest.approx(split["logged"], rel=1e-6, abs=1e-6)
        for key, value in whole["trained"].items():
            torch.testing.assert_close(split["trained"][key], value, rtol=0, atol=1e-6)
    assert ranks[0][name][1]["logged"]["train/loss"] != ranks[1][name][1]["logged"]["train/loss"]  # of other images


@pytest.mark.parametrize("name", [*script.SETTINGS, "uneven"])
def test_each_process_holds_half_of_the_blocks(ranks, name) -> None:
    """Before training and after each step; what is not split, a few percent, counts in both."""
    network = script.Blocks()
    sizes = [
        part.numel() for block in (*network.list, *network.sequence) for part in block.parameters() if part.ndim > 1
    ]
    whole = 1 - sum(sizes) / sum(part.numel() for part in network.parameters())
    assert 0 < whole < 0.1
    shares = [rank[name][1]["shares"] for rank in ranks]
    assert [len(set(share)) for share in shares] == [1, 1]
    assert shares[0][0] + shares[1][0] == pytest.approx(1 + whole)
    assert max(share[0] for share in shares) < 0.58
    assert {count for rank in ranks for count in rank[name][0]["shares"]} == {1}


def test_a_complete_cache_needs_no_teacher_that_could_be_split(ranks) -> None:
    assert {count for rank in ranks for count in rank["cached"][1]["shares"]} == {1}


def test_a_resumed_run_is_the_undisturbed_one(ranks) -> None:
    for ends in (rank["resumed"] for rank in ranks):
        assert all(value.equal(ends["resumed"][key]) for key, value in ends["whole"].items())
        assert not ends["first"]["student.fc.weight"].equal(ends["whole"]["student.fc.weight"])


def test_what_not_every_process_would_do_is_refused_by_both(ranks) -> None:
    for said in (rank["said"] for rank in ranks):
        assert "fill it first, with tmkd cache fill" in said["cache"]
        assert said["figures"].startswith("Figures copies the teacher or runs it in one process alone")
        assert said["averaging"].startswith("WeightAveraging copies the teacher")
        assert said["again"].startswith("the teacher is still split over the processes of an earlier run")
        assert "but teacher Net has none with weights" in said["no blocks"]
