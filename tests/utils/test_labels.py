"""A label is a distribution over the classes, or missing."""

import pytest
import torch

from tmkd_lightning.utils.labels import as_distribution, check_labels, complete, known_part

HALVES = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
NONE = torch.tensor([[0.5, 0.5, 0.0], [-1.0, -1.0, -1.0]])


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([2, 0]),
        torch.tensor([-1, 1], dtype=torch.int8),
        HALVES,
        NONE,
        HALVES.half(),
        torch.tensor([[0, 1, 0], [1, 0, 0]]),
    ],
)
def test_classes_distributions_and_none_are_taken(labels) -> None:
    check_labels(labels, images=2, num_classes=3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), r"label 3 is outside 0\.\.2"),
        (torch.tensor([-2, 0]), "label -2 is outside"),
        (
            torch.tensor([0.0, 1.0]),
            r"2 classes, or distributions of shape \(2, 3\); got shape \(2,\) of torch.float",
        ),
        (torch.tensor([True, False]), "of torch.bool"),
        (torch.tensor([0, 1, 2]), r"got shape \(3,\)"),
        (torch.eye(2), r"got shape \(2, 2\)"),
        (HALVES * 0.9, "sum to 1; the row of one image sums to 0.9"),
        (torch.zeros(2, 3), "sums to 0"),
        (torch.tensor([[0.0, 0.0, 1.0], [1.5, -0.5, 0.0]]), r"at least 0 \(.*\); got -0\.5$"),
        (torch.tensor([[1.0, 0.0, 0.0], [-1.0, -1.0, 1.0]]), "at least 0"),
        (torch.tensor([[float("nan"), 0.0, 1.0], [0.0, 0.0, 1.0]]), "at least 0 .*; got nan$"),
    ],
)
def test_what_is_no_label_is_refused(labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(labels, images=2, num_classes=3)


def test_known_part_has_nothing_for_a_missing_label() -> None:
    cpu = torch.device("cpu")
    assert known_part(torch.tensor([2, -1, 0]), 3, 3, cpu).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert known_part(NONE, 2, 3, cpu).tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    assert known_part(None, 2, 3, cpu).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_answer_fills_what_is_missing_and_nothing_else() -> None:
    answer = torch.tensor([[1.0, 1.0, 2.0], [3.0, 1.0, 4.0]]).log().requires_grad_()  # 1/4, 1/4, 1/2 and 3/8, 1/8, 1/2
    labels = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 1.0]])
    completed = complete(labels, answer)
    assert completed[0].tolist() == pytest.approx([0.625, 0.125, 0.25])
    assert completed[1].tolist() == [0, 0, 1]
    assert not completed.requires_grad  # the answer is a target


def test_half_precision_rows_sum_to_one_again_and_missing_ones_stay_missing() -> None:
    rows = torch.tensor([[0.1, 0.2, 0.7], [-1.0, -1.0, -1.0]]).bfloat16()
    assert as_distribution(rows)[0].sum().item() == pytest.approx(1, abs=1e-6)
    assert (as_distribution(rows)[1] < 0).all()
    assert as_distribution(HALVES) is HALVES
