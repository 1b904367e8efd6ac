"""The text anchor of Eq. 9 to 11 in numpy."""

import numpy as np
import pytest
import torch

from helpers.waiting import Reads, Waits
from tmkd_lightning.distillers.text_alignment import TextAlignment, sample_classes

LABEL = torch.tensor([0, 2, 2, 1, 0])


def affine(layer: torch.nn.Linear, rows: torch.Tensor) -> np.ndarray:
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return rows.double().numpy() @ weight.T + bias


@pytest.mark.parametrize(("temperature", "weight"), [(0.07, 0.8), (1.0, 2.0)])
def test_equations_9_to_11(temperature: float, weight: float) -> None:
    torch.manual_seed(0)
    anchor = TextAlignment(student_dim=4, text_dim=6, head_dim=3, temperature=temperature, weight=weight)
    embedding, anchors = torch.randn(5, 4), torch.randn(3, 6)
    image, text = affine(anchor.image_head, embedding), affine(anchor.text_head, anchors)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    score = np.exp(image @ text.T / temperature)
    expected = weight * -np.log(score[np.arange(5), LABEL.numpy()] / score.sum(1)).mean()
    terms = anchor(embedding, anchors, LABEL)
    assert list(terms) == ["text"]
    assert terms["text"].item() == pytest.approx(expected, rel=1e-4)


def test_defaults() -> None:
    anchor = TextAlignment(student_dim=4, text_dim=6)
    assert (anchor.temperature, anchor.weight) == (0.07, 0.8)
    assert (anchor.image_head.weight.shape, anchor.text_head.weight.shape) == ((128, 4), (128, 6))


def test_gradients_reach_both_heads_and_the_student() -> None:
    anchor = TextAlignment(student_dim=4, text_dim=6)
    embedding = torch.randn(5, 4, requires_grad=True)
    anchor(embedding, torch.randn(3, 6), LABEL)["text"].backward()
    assert embedding.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in anchor.parameters())
    assert anchor.image_head.weight.grad.abs().sum() > 0
    assert anchor.text_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be at least 0 and finite"):
        TextAlignment(student_dim=4, text_dim=6, weight=weight)


# Sampled negatives


@pytest.mark.parametrize("others", [1, 4, 20])
def test_the_classes_of_the_batch_are_always_there_and_others_differ_from_them(others: int) -> None:
    label = torch.tensor([7, 3, 7, 29, 3])  # three classes
    for _ in range(20):
        chosen, left_out = sample_classes(label, 30, others)
        assert len(chosen) == len(set(chosen.tolist())) == 5 + others
        assert set(chosen[:3].tolist()) == {3, 7, 29}
        assert left_out.tolist() == [False] * (3 + others) + [True] * 2


def test_more_than_there_are_is_all_of_them() -> None:
    chosen, left_out = sample_classes(torch.tensor([0, 0, 0, 1]), 5, negatives=4)
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4]
    assert not left_out.any()


def test_others_are_drawn_alike_and_anew() -> None:
    label, seen = torch.tensor([2, 2]), torch.zeros(10)
    for _ in range(2000):
        chosen, left_out = sample_classes(label, 10, negatives=3)
        seen[chosen[~left_out]] += 1
    assert seen[2] == 2000
    expected = 2000 * 3 / 9
    assert (seen[torch.arange(10) != 2] - expected).abs().max() < 4 * (expected * 6 / 9) ** 0.5


def test_the_loss_is_that_of_the_classes_drawn() -> None:
    """The same draw, written out: own class above the other classes of the batch and the ones that were drawn."""
    anchor = TextAlignment(student_dim=4, text_dim=6, head_dim=3, negatives=5)
    label = torch.tensor([11, 2, 11])
    embedding, anchors = torch.randn(3, 4), torch.randn(40, 6)
    torch.manual_seed(1)
    got = anchor(embedding, anchors, label)["text"].item()
    torch.manual_seed(1)
    chosen, left_out = sample_classes(label, 40, 5)
    classes = chosen[~left_out].tolist()
    assert len(classes) == 7
    image, text = affine(anchor.image_head, embedding), affine(anchor.text_head, anchors)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    score = np.exp(image @ text.T / 0.07)
    own = score[np.arange(3), label.numpy()]
    assert got == pytest.approx(0.8 * -np.log(own / score[:, classes].sum(1)).mean(), rel=1e-4)


@pytest.mark.parametrize("negatives", [None, 39, 40, 1000])
def test_all_classes_are_all_classes_however_they_are_asked_for(negatives: int | None) -> None:
    """Bit for bit, and nothing is drawn."""
    torch.manual_seed(0)
    anchor, plain = TextAlignment(4, 6, negatives=negatives), TextAlignment(4, 6)
    plain.load_state_dict(anchor.state_dict())
    embedding, anchors = torch.randn(5, 4), torch.randn(40, 6)
    state = torch.get_rng_state()
    assert anchor(embedding, anchors, LABEL)["text"].equal(plain(embedding, anchors, LABEL)["text"])
    assert torch.get_rng_state().equal(state)


def test_no_gradient_is_lost_or_not_finite_and_nothing_waits() -> None:
    anchor = TextAlignment(student_dim=4, text_dim=6, negatives=3)
    embedding = torch.randn(5, 4, requires_grad=True)
    with Waits() as watch, Reads(watch.seen):
        anchor(embedding, torch.randn(50, 6), LABEL)["text"].backward()
    assert not watch.seen
    for part in (embedding, *anchor.parameters()):
        assert part.grad.isfinite().all()
        assert part.grad.abs().sum() > 0


def test_a_number_of_negatives_that_is_refused() -> None:
    with pytest.raises(ValueError, match="negatives must be"):
        TextAlignment(4, 6, negatives=0)
