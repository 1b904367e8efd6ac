"""Weights of the views by hand, and fusion against explicit loops."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.output import Output
from tmkd_lightning.teacher.fusion import WeightNet, fuse

VIEWS, BATCH, WIDTH, CLASSES = 3, 4, 6, 5


def teacher_output(dtype: torch.dtype = torch.float32) -> tuple[Output, nn.Linear]:
    """An output as a network with a linear head gives it, of all views of all images."""
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, CLASSES, dtype=dtype)
    feature_map = torch.rand(VIEWS * BATCH, WIDTH, 2, 3, dtype=dtype)
    embedding = feature_map.mean((2, 3))
    return Output(head(embedding).detach(), embedding, feature_map, head.weight.detach()), head


def some_weights(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(BATCH, VIEWS, generator=torch.Generator().manual_seed(1)).to(dtype).softmax(1)


def test_weight_net_is_equations_3_and_4() -> None:
    torch.manual_seed(0)
    network = WeightNet(text_dim=4, views=VIEWS, hidden=7)
    rows = torch.randn(CLASSES, VIEWS * 4)
    w1, b1, w2, b2 = (parameter.detach().double().numpy() for parameter in network.parameters())
    assert w1.shape == (7, 12)
    for label, row in enumerate(rows.double().numpy()):
        score = w2 @ np.maximum(w1 @ row + b1, 0) + b2
        expected = np.exp(score) / np.exp(score).sum()
        np.testing.assert_allclose(network(rows)[label].detach().numpy(), expected, rtol=1e-5)


def test_weights_are_convex_even_for_extreme_scores() -> None:
    network, rows = WeightNet(text_dim=4, views=VIEWS), torch.randn(50, VIEWS * 4)
    assert network.hidden.out_features == 256  # the default
    with torch.autocast("cpu", torch.bfloat16):
        half = network(rows)
    with torch.no_grad():
        network.output.weight.mul_(1e5)
    for weights in (half, network(rows)):
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(1), torch.ones(50))  # bfloat16 would miss 1 by up to 0.4 %
        assert weights.min() >= 0


def test_weights_by_image_are_those_of_the_class_at_first() -> None:
    network = WeightNet(text_dim=4, views=VIEWS, by_image=True)
    output, _ = teacher_output()
    found = network.reweigh(some_weights(), output.logits, torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(found, some_weights())


@pytest.mark.parametrize("soft", [False, True])
def test_weights_by_image_by_loops(soft: bool) -> None:
    network = WeightNet(text_dim=4, views=VIEWS, by_image=True)
    network.evidence.weight.data = torch.tensor([[0.7, -0.3]])
    logits, weights = teacher_output()[0].logits, some_weights()
    labels = torch.tensor([0, 4, 2, 2])
    rows = torch.eye(CLASSES)[labels]
    if soft:
        labels = rows = torch.rand(BATCH, CLASSES, generator=torch.Generator().manual_seed(3)).softmax(1)
    found = network.reweigh(weights, logits, labels)
    for image in range(BATCH):
        scores = []
        for view in range(VIEWS):
            p = np.exp(logits[view * BATCH + image].double().numpy())
            p /= p.sum()
            of_label, entropy = (rows[image].double().numpy() * np.log(p)).sum(), -(p * np.log(p)).sum()
            scores.append(np.log(weights[image, view].item()) + 0.7 * of_label - 0.3 * -entropy)
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(found[image].detach().numpy(), expected, rtol=1e-5)


def test_by_image_a_right_view_outweighs_a_wrong_one() -> None:
    """What the oracle would do: of two views, the right one gets the weight, once training asked for it."""
    network = WeightNet(text_dim=4, views=2, by_image=True)
    network.evidence.weight.data = torch.tensor([[2.0, 0.0]])
    right_first = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0], [0.0, 9.0]])  # view 0 of two images, then view 1
    found = network.reweigh(torch.full((2, 2), 0.5), right_first, torch.tensor([0, 0]))
    assert found[0, 0] > 0.999
    assert abs(found[1, 0] - 0.5) < 1e-6


@pytest.mark.parametrize("part", ["logits", "embedding", "feature_map"])
def test_fuse_by_loops(part: str) -> None:
    output, _ = teacher_output()
    weights = some_weights()
    fused = fuse(output, weights).require(part)
    assert fused.shape == (BATCH, *output.require(part).shape[1:])
    for image in range(BATCH):
        expected = torch.zeros_like(fused[image])
        for view in range(VIEWS):  # rows come in the order of views, all images of the first view first
            expected += weights[image, view] * output.require(part)[view * BATCH + image]
        torch.testing.assert_close(fused[image], expected)


def test_fused_parts_are_those_of_one_network() -> None:
    """A convex combination commutes with an affine head."""
    output, head = teacher_output()
    weights = some_weights()
    fused = fuse(output, weights)
    torch.testing.assert_close(fused.logits, head(fused.embedding), rtol=0, atol=1e-6)
    torch.testing.assert_close(fused.embedding, fused.feature_map.mean((2, 3)), rtol=0, atol=1e-6)
    cams = output.cam.unflatten(0, (VIEWS, BATCH))
    fused_cams = torch.einsum("bv,vbkhw->bkhw", weights, cams)
    torch.testing.assert_close(fused.cam, fused_cams, rtol=0, atol=1e-6)
    torch.testing.assert_close(fused.cam.mean((2, 3)) + head.bias, fused.logits, rtol=0, atol=1e-6)


def test_one_view_is_bit_for_bit_the_plain_teacher() -> None:
    output, _ = teacher_output()
    fused = fuse(output, torch.ones(VIEWS * BATCH, 1))
    for part in ("logits", "embedding", "feature_map", "head_weight"):
        assert fused.require(part).equal(output.require(part))
    for view, weights in enumerate(torch.eye(VIEWS)):
        alone = fuse(output, weights.expand(BATCH, VIEWS))
        assert alone.logits.equal(output.logits[view * BATCH : (view + 1) * BATCH])


def test_gradient_of_the_weights() -> None:
    """d(sum of fused logits of an image) / d(weight of a view) is the sum of that view's logits."""
    output, _ = teacher_output()
    weights = some_weights().requires_grad_()
    fuse(output, weights).logits.sum().backward()
    torch.testing.assert_close(weights.grad, output.logits.sum(1).view(VIEWS, BATCH).T)
    network = WeightNet(text_dim=4, views=VIEWS)
    weights = network(torch.randn(CLASSES, VIEWS * 4))[torch.tensor([0, 1, 1, 4])]
    fuse(output, weights).embedding.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("features", "weights", "fused"),
    [
        (torch.float64, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float64),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.float32, torch.float32),
    ],
)
def test_precision(features: torch.dtype, weights: torch.dtype, fused: torch.dtype) -> None:
    output, _ = teacher_output(features)
    result = fuse(output, some_weights(weights))
    assert {result.logits.dtype, result.embedding.dtype, result.feature_map.dtype} == {fused}


def test_weights_by_image_in_half_precision() -> None:
    """As where the Trainer casts the module: weights of classes are float32 then, the learnt multiples are not."""
    network = WeightNet(text_dim=4, views=VIEWS, by_image=True)
    torch.nn.init.constant_(network.evidence.weight, 0.5)
    given = some_weights(), torch.randn(VIEWS * BATCH, CLASSES), torch.tensor([0, 1, 1, 4])
    expected = network.reweigh(*given)
    torch.testing.assert_close(network.bfloat16().reweigh(*given), expected)


@pytest.mark.parametrize("shape", [(5, 3), (4, 2), (12, 2)])
def test_wrong_number_of_rows(shape: tuple[int, int]) -> None:
    output, _ = teacher_output()
    with pytest.raises(ValueError, match=f"12 rows are not {shape[1]} views of {shape[0]} images"):
        fuse(output, torch.ones(shape))


def test_bare_logits_and_a_half_precision_teacher() -> None:
    fused = fuse(Output(torch.tensor([[0.0], [1.0], [4.0], [5.0]])), torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    assert fused.logits.tolist() == [[2.0], [1.0]]
    assert fused.embedding is None
    half = Output(*(torch.ones(shape).bfloat16() for shape in ((4, 3), (4, 5), (4, 5, 2, 2), (3, 5))))
    assert fuse(half, torch.full((2, 2), 0.5)).cam.equal(torch.full((2, 3, 2, 2), 5.0))
