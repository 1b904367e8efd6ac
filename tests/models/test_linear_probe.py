"""The head that is fitted, against an optimum found otherwise; and how its strength is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tmkd_lightning.models import linear_probe
from tmkd_lightning.models.linear_probe import fit_linear_head


def data(classes: int, images: int = 60, views: int = 2, width: int = 5, noise: float = 1.0):
    """Embeddings around a centre for each class, far from standardised."""
    generator = np.random.default_rng(0)
    labels = np.arange(images) % classes
    centres = generator.normal(size=(classes, 1, width))
    values = centres[labels] + noise * generator.normal(size=(images, views, width))
    return (values * np.logspace(-1, 2, width) + 7).astype(np.float32), labels


def optimum(values: np.ndarray, labels: np.ndarray, shares: list[float], strength: float, bias: bool) -> torch.Tensor:
    """Probabilities of the rows by Newton-like steps in float64, with each term of the objective written out."""
    rows = torch.from_numpy(values).double().flatten(0, 1)
    weights = torch.tensor(shares, dtype=torch.float64).repeat(len(labels)) / sum(shares)
    mean = (weights[:, None] * rows).sum(0) / weights.sum() if bias else torch.zeros(rows.shape[1])
    std = ((weights[:, None] * (rows - mean) ** 2).sum(0) / weights.sum()).sqrt()
    rows, targets = (rows - mean) / std, torch.from_numpy(labels).repeat_interleave(len(shares))
    weight = torch.zeros(labels.max() + 1, rows.shape[1], dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(labels.max() + 1, dtype=torch.float64, requires_grad=bias)
    optimizer = torch.optim.LBFGS(
        [weight, *([offset] if bias else [])], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(rows @ weight.T + offset, targets, reduction="none")
        loss = strength * (weights * losses).sum() + weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(objective)
    return (rows @ weight.T + offset).detach().softmax(1)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_against_the_optimum(classes: int, bias: bool) -> None:
    """Weighted by shares, standardised and folded back; with two classes scikit-learn writes the problem otherwise."""
    values, labels = data(classes)
    head = fit_linear_head(values, labels, [3.0, 1.0], bias=bias, strengths=[0.3])
    assert bias or not head.bias.any()
    found = (torch.from_numpy(values).flatten(0, 1) @ head.weight.T + head.bias).softmax(1)
    expected = optimum(values, labels, [3.0, 1.0], 0.3, bias)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)
    equal = optimum(values, labels, [1.0, 1.0], 0.3, bias)
    assert (expected - equal).abs().max() > 2e-2  # so the shares count


def test_a_number_that_is_the_same_for_all_images_is_harmless() -> None:
    values, labels = data(3)
    values[..., 1] = 1e3
    head = fit_linear_head(values, labels, strengths=[1.0])
    assert head.weight.isfinite().all()
    assert head.weight[:, 1].abs().max() < 1e-6


def test_the_strength_is_that_with_the_least_loss_on_images_held_out() -> None:
    values, labels = data(3, images=150, noise=2.0)
    head = fit_linear_head(values, labels)
    tried = list(head.held_out)
    assert head.strength == min(head.held_out, key=head.held_out.get)
    assert tried == list(linear_probe.STRENGTHS[: len(tried)])
    assert tried.index(head.strength) in (len(tried) - 3, len(tried) - 1)  # two worse ones end the search
    weak = fit_linear_head(*data(3, images=150, noise=0.1))
    assert weak.strength > head.strength  # clean data want less of a penalty
    again = fit_linear_head(values, labels)
    assert again.held_out == head.held_out
    assert again.weight.equal(head.weight)


def test_a_fifth_of_each_class_is_held_out_and_all_views_of_an_image_together(monkeypatch) -> None:
    values, labels = data(3, images=60)
    values[:] = np.arange(60)[:, None, None] + np.array([0.25, 0.5])[:, None]  # a row says its image
    seen = []
    monkeypatch.setattr(
        linear_probe, "_choose", lambda rows, targets, weights, out, *_: seen.append((targets, out)) or (1.0, {}, None)
    )
    fit_linear_head(values, labels)
    targets, out = seen[0]
    assert np.bincount(targets[out]).tolist() == [8, 8, 8]  # four images of twenty, two views each
    assert (out[::2] == out[1::2]).all()


@pytest.mark.parametrize(
    ("labels", "broken", "message"),
    [
        ([], 0, "no training image has a label"),
        ([1, 1, 1, 1], 0, "all training images are of class 1: a head is fitted on two classes or more"),
        ([0, 2, 0, 2], 0, "no training image is of class 1"),
        ([0, 1, 0, 1], 2, "the embeddings of 2 of 4 images are not finite"),
    ],
)
def test_what_no_head_can_be_fitted_on(labels: list[int], broken: int, message: str) -> None:
    values = np.ones((len(labels), 2, 3), np.float32)
    values[:broken, 0, 1] = np.nan
    with pytest.raises(ValueError, match=message):
        fit_linear_head(values, np.array(labels, int))


def test_few_images_are_fitted_at_a_strength_of_ours() -> None:
    values, labels = data(3, images=3)
    head = fit_linear_head(values, labels)
    assert (head.strength, head.held_out) == (0.01, {})
