"""The teacher never learns, never changes and never leaves evaluation mode."""

import pytest
import torch
from torch import nn

from tmkd_lightning.feature_extraction.extractor import Extractor
from tmkd_lightning.teacher.frozen import FrozenTeacher


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip


@pytest.mark.parametrize("call", ["train", "train of the owner", "eval"])
def test_stays_in_evaluation_mode(call: str) -> None:
    teacher = FrozenTeacher(Extractor(network().train()))
    owner = nn.ModuleDict({"teacher": teacher})
    {"train": teacher.train, "train of the owner": owner.train, "eval": teacher.eval}[call]()
    assert not any(module.training for module in teacher.modules())
    assert teacher.train() is teacher


PARTS = ("logits", "embedding", "feature_map", "head_weight")


def watched(**options: int) -> tuple[FrozenTeacher, list[int]]:
    """A teacher, and the numbers of images in its forwards after the first, which also takes a look."""
    sizes: list[int] = []
    body = network()
    body.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    teacher = FrozenTeacher(Extractor(body), **options)
    teacher(torch.rand(7, 3, 8, 8))
    sizes.clear()
    return teacher, sizes


def test_nothing_changes_over_steps() -> None:
    teacher = FrozenTeacher(Extractor(network())).train()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    image = torch.rand(4, 3, 8, 8, requires_grad=True)
    first, second = teacher(image), teacher(image)
    assert first.logits.equal(second.logits)  # no dropout
    assert all(value.equal(before[key]) for key, value in teacher.state_dict().items())  # no BatchNorm statistics
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(first.require(part).requires_grad for part in PARTS)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])  # 7 images: even pieces, an uneven last one, one piece
def test_chunks_do_not_change_the_output(chunk: int) -> None:
    image = torch.rand(7, 3, 8, 8)
    whole = FrozenTeacher(Extractor(network()))(image)
    pieces = FrozenTeacher(Extractor(network()), chunk=chunk)(image)
    for part in PARTS:
        torch.testing.assert_close(pieces.require(part), whole.require(part), rtol=0, atol=1e-6)


def test_no_forward_is_larger_than_the_chunk() -> None:
    teacher, sizes = watched(chunk=3)
    teacher(torch.rand(7, 3, 8, 8))
    assert sizes == [3, 3, 1]
    for chunk in (0, -1):
        with pytest.raises(ValueError, match="chunk must be a whole number, at least 1"):
            FrozenTeacher(Extractor(network()), chunk=chunk)


def test_a_cpu_takes_a_view_at_a_time_and_no_more_than_fits_its_cache() -> None:
    teacher, sizes = watched()
    teacher(torch.rand(12, 3, 8, 8), views=3)
    teacher(torch.rand(12, 3, 8, 8))
    teacher(torch.rand(4, 3, 512, 512))
    assert sizes == [4, 4, 4, 12, 2, 2]
