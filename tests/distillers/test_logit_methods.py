"""Methods that compare logits: what they hand to their losses, and the weights they are made with."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tmkd_lightning.distillers import DIST, DKD, KD, NKD, TTM, Distiller
from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.losses import dist, dkd, logit_kl, nkd, ttm, wttm

LABEL = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (KD(2.0, 9.0, standardize=True), lambda s, t: 9 * logit_kl(s, t, 2, standardize=True)),
        (DKD(), lambda s, t: dkd(s, t, LABEL, 1, 8, 4)),
        (DKD(0.5, 2, 3, 0.9, True), lambda s, t: 0.9 * dkd(s, t, LABEL, 0.5, 2, 3, standardize=True)),
        (NKD(), lambda s, t: nkd(s, t, LABEL, 1.5, 1)),
        (NKD(2, 3, 0.5), lambda s, t: 0.5 * nkd(s, t, LABEL, 2, 3)),
        (DIST(), lambda s, t: dist(s, t, 1, 1, 1)),
        (DIST(2, 3, 4, 0.5), lambda s, t: 0.5 * dist(s, t, 2, 3, 4)),
        (TTM(), lambda s, t: 45 * ttm(s, t, 0.1)),
        (TTM(0.2, 4, weighted=True), lambda s, t: 4 * wttm(s, t, 0.2)),
    ],
)
def test_loss_and_weights(method: Distiller, expected: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    (term,) = method(Output(student), Output(teacher), LABEL).values()
    torch.testing.assert_close(term, expected(student, teacher))


def test_one_image_has_no_classes_to_correlate() -> None:
    """The correlation of a class over one image is not defined, so the last batch of one costs nothing."""
    logits = torch.randn(1, 3, requires_grad=True)
    term = DIST()(Output(logits), Output(torch.randn(1, 3)), LABEL[:1])["dist"]
    term.backward()
    assert term.item() == 0
    assert logits.grad.equal(torch.zeros(1, 3))
