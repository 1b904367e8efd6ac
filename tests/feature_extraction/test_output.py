"""The value that travels between all parts."""

import pytest
import torch

from tmkd_lightning.feature_extraction.output import MissingPartError, Output

PARTS = ["logits", "embedding", "feature_map", "head_weight"]


def full_output(batch: int = 3) -> Output:
    torch.manual_seed(batch)
    return Output(torch.rand(batch, 2), torch.rand(batch, 4), torch.rand(batch, 4, 2, 3), torch.rand(2, 4))


def test_cam_by_loops() -> None:
    output = full_output()
    expected = torch.zeros(3, 2, 2, 3)
    for image in range(3):
        for label in range(2):
            for channel in range(4):
                expected[image, label] += output.head_weight[label, channel] * output.feature_map[image, channel]
    torch.testing.assert_close(output.cam, expected)


@pytest.mark.parametrize("part", PARTS[1:])
def test_require_names_what_is_missing(part: str) -> None:
    with pytest.raises(MissingPartError, match=f"no {part} "):
        Output(torch.zeros(2, 3)).require(part)
    parts = {name: getattr(full_output(), name) for name in PARTS} | {part: None}
    if part != "embedding":
        with pytest.raises(MissingPartError, match=part):
            _ = Output(**parts).cam


def test_map_leaves_the_head_alone() -> None:
    output = full_output()
    last = output.map(lambda part: part[2:] * 10)
    for part in PARTS[:3]:
        assert last.require(part).equal(output.require(part)[2:] * 10)
    assert last.head_weight is output.head_weight


def test_cat_undoes_a_split() -> None:
    output = full_output(5)
    joined = Output.cat([output.map(lambda part, i=i: part[i : i + 2]) for i in (0, 2, 4)])
    assert all(joined.require(part).equal(output.require(part)) for part in PARTS)


def test_parts_that_are_not_there_stay_away() -> None:
    bare = Output(torch.ones(2, 3))
    for output in (bare.map(lambda part: part + 1), Output.cat([bare, bare])):
        assert (output.embedding, output.feature_map, output.head_weight) == (None, None, None)
