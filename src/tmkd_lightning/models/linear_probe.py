"""Fits a linear head on the embeddings of a frozen network."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tmkd_lightning.utils.progress import progress

STRENGTHS = tuple(float(f"{10 ** (exponent / 2):.2g}") for exponent in range(-10, 5))  # C from 1e-5 to 100
_FOLDS = 5  # one image in so many of each class is held out
_DEFAULT_STRENGTH = 0.01  # where no image can be held out
_MAX_ITERATIONS = 300


class LinearHead(NamedTuple):
    """A fitted head and what it did on the images held out.

    Attributes:
        weight: ``(K, D)``.
        bias: ``(K,)``; zeros for a head without one.
        strength: C, the inverse of the regularisation.
        held_out: mean cross-entropy on the images held out for each C that was tried; empty where none could be.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    held_out: dict[float, float]


def fit_linear_head(
    embeddings: np.ndarray,
    labels: np.ndarray,
    shares: Sequence[float] | None = None,
    *,
    bias: bool = True,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearHead:
    """Multinomial logistic regression with an L2 penalty, whose strength the images held out decide.

    Minimises ``C · Σ_i Σ_v share_v · CE(head(z_iv), y_i) + ½ ‖W‖²`` over all images i and views v, on embeddings z that
    are standardised; mean and deviation are then folded into the head. C goes from the strongest penalty on, each fit
    beginning where the last one ended, until the cross-entropy on a held-out fifth of each class has risen twice; all
    views of an image are held out together. The best C is fitted again on all images.

    Args:
        embeddings: of each view of each image, ``(N, V, D)``.
        labels: classes ``(N,)`` in 0..K-1, each of them at least once and at least two.
        shares: weight of each view, V numbers above 0; None for equal ones. They are divided by their sum.
        bias: whether the head has one; without it, embeddings are scaled and not centred.
        seed: decides which images are held out.
        strengths: values of C to try, in ascending order.

    Raises:
        ValueError: for embeddings that are not finite, no images, a single class or a class without images.

    Source: scikit-learn's ``LogisticRegression`` with lbfgs, and its C; grid and held-out fifth are our choice.

    Example:
        >>> embeddings = np.array([[[0.0, 5.0]], [[1.0, 5.0]], [[2.0, 5.0]], [[3.0, 5.0]]], np.float32)
        >>> head = fit_linear_head(embeddings, np.array([0, 0, 1, 1]), strengths=[1.0])
        >>> logits = torch.from_numpy(embeddings[:, 0]) @ head.weight.T + head.bias
        >>> logits.argmax(1).tolist()
        [0, 0, 1, 1]
    """
    images, views, width = embeddings.shape
    classes = _check(embeddings, labels)
    weights = np.full(views, 1.0) if shares is None else np.asarray(shares, float)
    weights = np.tile(weights / weights.sum(), images).astype(np.float32)
    rows = embeddings.reshape(-1, width).astype(np.float32)  # a copy, which is standardised in place
    mean = weights @ rows / images if bias else np.zeros(width, np.float32)
    rows -= mean
    std = np.sqrt(np.einsum("n,nd,nd->d", weights, rows, rows) / images)
    std[std <= 1e-5 * (np.abs(mean) + std)] = 1.0  # the same for all images, but for rounding
    rows /= std

    held = _held_out(labels, classes, np.random.default_rng(seed))
    targets, out = np.repeat(labels, views), np.repeat(held, views)
    if len(strengths) > 1 and held.any():
        strength, losses, start = _choose(rows, targets, weights, out, bias, strengths)
    else:
        strength, losses, start = float(strengths[0]) if len(strengths) == 1 else _DEFAULT_STRENGTH, {}, None
    fitted = _fit(rows, targets, weights, bias, strength, start)
    scaled = fitted.weight / std
    offset = fitted.bias - scaled @ mean
    return LinearHead(torch.from_numpy(scaled).float(), torch.from_numpy(offset).float(), strength, losses)


class _Coefficients(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


def _check(embeddings: np.ndarray, labels: np.ndarray) -> int:
    """The number of classes; refuses what no head can be fitted on."""
    if not len(labels):
        raise ValueError("no training image has a label: a head is fitted on labelled ones")
    broken = ~np.isfinite(embeddings).all(axis=(1, 2))
    if broken.any():
        raise ValueError(
            f"the embeddings of {broken.sum()} of {len(broken)} images are not finite: were the network's weights "
            "read, and does it run in this precision?"
        )
    counts = np.bincount(labels)
    if np.count_nonzero(counts) < 2:
        raise ValueError(f"all training images are of class {labels[0]}: a head is fitted on two classes or more")
    if (counts == 0).any():
        raise ValueError(f"no training image is of class {int(counts.argmin())}: each class needs one at least")
    return len(counts)


def _held_out(labels: np.ndarray, classes: int, generator: np.random.Generator) -> np.ndarray:
    """Which images are held out: the fifth, tenth, ... of each class in a random order; of a small one, the last."""
    held = np.zeros(len(labels), bool)
    for label in range(classes):
        members = generator.permutation(np.flatnonzero(labels == label))
        step = min(_FOLDS, len(members))
        held[members[step - 1 :: step]] = step > 1
    return held


def _choose(
    rows: np.ndarray, targets: np.ndarray, weights: np.ndarray, out: np.ndarray, bias: bool, strengths: Sequence[float]
) -> tuple[float, dict[float, float], _Coefficients]:
    """The C with the least loss on the images held out, the losses of all that were tried, and the head of that C."""
    losses: dict[float, float] = {}
    kept = rows[~out], targets[~out], weights[~out], bias
    held = rows[out], targets[out], weights[out]
    last = best = None
    rises = 0
    for strength in progress(strengths, "Fitting the head", len(strengths), "fits"):
        last = _fit(*kept, strength, last)
        losses[strength] = _loss(last, *held)
        if losses[strength] <= min(losses.values()):
            best, rises = last, 0
        elif (rises := rises + 1) == 2:
            break
    assert best is not None  # the first one was the best so far
    return min(losses, key=losses.__getitem__), losses, best


def _fit(
    rows: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    bias: bool,
    strength: float,
    start: _Coefficients | None,
) -> _Coefficients:
    """One fit with all classes among the targets, from `start` on."""
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.linear_model import LogisticRegression

    binary = targets.max() == 1  # scikit-learn has one row then, the difference of the two
    model = LogisticRegression(
        C=strength * (2 if binary else 1), fit_intercept=bias, max_iter=_MAX_ITERATIONS, warm_start=True
    )
    if start is not None:
        weight, offset = start
        model.coef_, model.intercept_ = (weight[1:] * 2, offset[1:] * 2) if binary else (weight, offset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the images held out say how good a head is
        model.fit(rows, targets, sample_weight=weights)
    weight, offset = model.coef_, np.broadcast_to(model.intercept_, len(model.coef_))
    if binary:
        return _Coefficients(np.vstack([-weight, weight]) / 2, np.concatenate([-offset, offset]) / 2)
    return _Coefficients(weight, offset)


def _loss(head: _Coefficients, rows: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Mean cross-entropy."""
    logits = torch.from_numpy(rows @ head.weight.T.astype(rows.dtype) + head.bias.astype(rows.dtype))
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets), reduction="none")
    return float(np.average(losses.numpy(), weights=weights))
