"""Methods that compare images, over several processes; test_ddp.py trains with two real ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tmkd_lightning.distillers import DIST, KD, PKT, RKD, SP, SRRL, Sum, relational
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses import dist, pkt, rkd_angle, rkd_distance, similarity_preserving
from tmkd_lightning.modules import validation

LOSSES = {
    DIST: (lambda *pair: dist(*pair, 1, 1, 1), "logits"),
    PKT: (lambda *pair: 30000 * pkt(*pair), "embedding"),
    RKD: (lambda *pair: 25 * rkd_distance(*pair) + 50 * rkd_angle(*pair), "embedding"),
    SP: (lambda *pair: 3000 * similarity_preserving(*pair), "feature_map"),
}


def output(batch: int, seed: int) -> Output:
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, 3), (batch, 4), (batch, 4, 2, 2)
    return Output(*(torch.randn(shape, generator=generator) for shape in shapes))


@pytest.mark.parametrize("method", LOSSES)
@pytest.mark.parametrize("gather", [False, True])
def test_compares_the_images_of_all_processes_if_asked_to(monkeypatch, method, gather) -> None:
    """Here the other process has the same batch backwards."""

    def twice(*parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.cat([part, part.flip(0)]) for part in parts)

    monkeypatch.setattr(relational, "gather_batches", twice)
    student, teacher = output(4, seed=0), output(4, seed=1)
    loss, part = LOSSES[method]
    pair = student.require(part), teacher.require(part)
    (term,) = method(gather=gather)(student, teacher, torch.zeros(4)).values()
    torch.testing.assert_close(term, loss(*(twice(*pair) if gather else pair)))
    assert term > 0


@pytest.mark.parametrize("method", LOSSES)
def test_a_batch_too_small_is_counted_over_all_processes(monkeypatch, method) -> None:
    """A last image on each of two devices is a batch of two; RKD needs three."""
    monkeypatch.setattr(validation, "world_size", lambda: 2)
    gathering = Sum(method(gather=True))
    for images in (1, 2):
        if 2 * images >= method.min_batch:
            validation.warn_small_batch(gathering, images)
            validation.check_needs(gathering, [], images)
        else:
            with pytest.warns(UserWarning, match="a training batch of 1 is too small for RKD"):
                validation.warn_small_batch(gathering, images)
            with pytest.raises(
                ValueError, match="hold 1 on each device and those of all processes 2: use a batch_size"
            ):
                validation.check_needs(gathering, [], images)
    with pytest.raises(ValueError, match="hold 1 on each device: use a batch_size"):
        validation.check_needs(Sum(method()), [], 1)


def test_a_sum_gathers_if_all_that_compare_do() -> None:
    assert Sum(KD(), SP(gather=True), DIST(gather=True)).gather
    assert not Sum(SP(gather=True), DIST()).gather
    assert not Sum(SP(gather=True), SRRL()).gather  # whose BatchNorm has the images of one process


def test_gather_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match="gather must be True or False, got 'all'"):
        RKD(gather="all")
