"""The text alignment of Eq. 9 to 11 in numpy."""

import numpy as np
import pytest
import torch

from helpers.waiting import Reads, Waits
from tmkd_lightning.distillers.text_alignment import TextAlignment, sample_classes

LABEL = torch.tensor([0, 2, 2, 1, 0])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("weight", -0.1, "at least 0 and finite"),
        ("temperature", 0.0, "above 0"),
        ("negatives", 0, "at least 1"),
        ("head_dim", 1.5, "at least 1"),
    ],
)
def test_arguments_that_are_refused(argument: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be .*{message}"):
        TextAlignment(student_dim=4, text_dim=6, **{argument: value})


def direction(layer: torch.nn.Linear, rows: torch.Tensor) -> np.ndarray:
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    result = rows.double().numpy() @ weight.T + bias
    return result / np.linalg.norm(result, axis=1, keepdims=True)


def scores(alignment: TextAlignment, image: torch.Tensor, text: torch.Tensor, temperature: float) -> np.ndarray:
    return np.exp(direction(alignment.image_head, image) @ direction(alignment.text_head, text).T / temperature)


@pytest.mark.parametrize(("temperature", "weight"), [(0.07, 0.8), (1.0, 2.0)])
def test_equations_9_to_11(temperature: float, weight: float) -> None:
    torch.manual_seed(0)
    alignment = TextAlignment(student_dim=4, text_dim=6, head_dim=3, temperature=temperature, weight=weight)
    embedding, texts = torch.randn(5, 4), torch.randn(3, 6)
    score = scores(alignment, embedding, texts, temperature)
    expected = weight * -np.log(score[np.arange(5), LABEL.numpy()] / score.sum(1)).mean()
    terms = alignment(embedding, texts, LABEL)
    assert list(terms) == ["text"]
    assert terms["text"].item() == pytest.approx(expected, rel=1e-4)


# Sampled negatives


@pytest.mark.parametrize("others", [1, 4, 20])
def test_the_classes_of_the_batch_are_always_there_and_others_differ_from_them(others: int) -> None:
    label = torch.tensor([7, 3, 7, 29, 3])  # three classes
    for _ in range(20):
        chosen, excluded = sample_classes(label, 30, others)
        assert len(chosen) == len(set(chosen.tolist())) == 5 + others
        assert set(chosen[:3].tolist()) == {3, 7, 29}
        assert excluded.tolist() == [False] * (3 + others) + [True] * 2
    chosen, excluded = sample_classes(torch.tensor([0, 0, 0, 1]), 5, negatives=4)  # more than there are
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4]
    assert not excluded.any()


def test_others_are_drawn_alike_and_anew() -> None:
    label, seen = torch.tensor([2, 2]), torch.zeros(10)
    for _ in range(2000):
        chosen, excluded = sample_classes(label, 10, negatives=3)
        seen[chosen[~excluded]] += 1
    assert seen[2] == 2000
    expected = 2000 * 3 / 9
    assert (seen[torch.arange(10) != 2] - expected).abs().max() < 4 * (expected * 6 / 9) ** 0.5


def test_the_loss_is_that_of_the_classes_drawn() -> None:
    """The same draw, written out: own class above the other classes of the batch and the ones that were drawn."""
    alignment = TextAlignment(student_dim=4, text_dim=6, head_dim=3, negatives=5)
    label = torch.tensor([11, 2, 11])
    embedding, texts = torch.randn(3, 4), torch.randn(40, 6)
    torch.manual_seed(1)
    got = alignment(embedding, texts, label)["text"].item()
    torch.manual_seed(1)
    chosen, excluded = sample_classes(label, 40, 5)
    classes = chosen[~excluded].tolist()
    assert len(classes) == 7
    score = scores(alignment, embedding, texts, 0.07)
    own = score[np.arange(3), label.numpy()]
    assert got == pytest.approx(0.8 * -np.log(own / score[:, classes].sum(1)).mean(), rel=1e-4)


@pytest.mark.parametrize("negatives", [None, 39, 40, 1000])
def test_all_classes_are_all_classes_however_they_are_asked_for(negatives: int | None) -> None:
    """Bit for bit, and nothing is drawn."""
    torch.manual_seed(0)
    alignment, plain = TextAlignment(4, 6, negatives=negatives), TextAlignment(4, 6)
    assert (plain.temperature, plain.weight, plain.image_head.weight.shape) == (0.07, 0.8, (128, 4))
    plain.load_state_dict(alignment.state_dict())
    embedding, texts = torch.randn(5, 4), torch.randn(40, 6)
    state = torch.get_rng_state()
    assert alignment(embedding, texts, LABEL)["text"].equal(plain(embedding, texts, LABEL)["text"])
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("negatives", [None, 3])
def test_no_gradient_is_lost_or_not_finite_and_nothing_waits(negatives: int | None) -> None:
    alignment = TextAlignment(student_dim=4, text_dim=6, negatives=negatives)
    embedding = torch.randn(5, 4, requires_grad=True)
    with Waits() as watch, Reads(watch.seen):
        alignment(embedding, torch.randn(50, 6), LABEL)["text"].backward()
    assert not watch.seen
    for part in (embedding, *alignment.parameters()):
        assert part.grad.isfinite().all()
        assert part.grad.abs().sum() > 0
