"""The text anchor of Eq. 9 to 11 in numpy."""

import numpy as np
import pytest
import torch

from tmkd_lightning.anchors import TextAnchor

LABEL = torch.tensor([0, 2, 2, 1, 0])


def affine(layer: torch.nn.Linear, rows: torch.Tensor) -> np.ndarray:
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return rows.double().numpy() @ weight.T + bias


@pytest.mark.parametrize(("temperature", "weight"), [(0.07, 0.8), (1.0, 2.0)])
def test_equations_9_to_11(temperature: float, weight: float) -> None:
    torch.manual_seed(0)
    anchor = TextAnchor(student_dim=4, text_dim=6, head_dim=3, temperature=temperature, weight=weight)
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
    anchor = TextAnchor(student_dim=4, text_dim=6)
    assert (anchor.temperature, anchor.weight) == (0.07, 0.8)
    assert (anchor.image_head.weight.shape, anchor.text_head.weight.shape) == ((128, 4), (128, 6))


def test_gradients_reach_both_heads_and_the_student() -> None:
    anchor = TextAnchor(student_dim=4, text_dim=6)
    embedding = torch.randn(5, 4, requires_grad=True)
    anchor(embedding, torch.randn(3, 6), LABEL)["text"].backward()
    assert embedding.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in anchor.parameters())
    assert anchor.image_head.weight.grad.abs().sum() > 0
    assert anchor.text_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be at least 0 and finite"):
        TextAnchor(student_dim=4, text_dim=6, weight=weight)
